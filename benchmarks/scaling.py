"""Two processes against one, measured; 8, 64 and 512 GPUs, predicted by a model of the all-reduce.

Measured here: images per second of one and of two processes of one thread each, and the bytes that
a turn sends between the two. The prediction, which is no measurement, is written to scaling.md.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import ROOT, Measures, Plan, cores, ratios, record, run
from benchmarks.ours import config, fit
from benchmarks.step import Probe
from benchmarks.tables import table
from benchmarks.workers import Worker, alternate, folder_of, python
from mbgan.assembly import assemble
from mbgan.gan import GAN

SIZES = (1, 8, 64, 512)  # GPUs
IN_A_NODE = 8


@dataclass(frozen=True)
class Link:
    """A way between GPUs: bandwidth and latency of one direction."""

    name: str
    gb_per_s: float
    latency_us: float  # of a step of a collective; assumed, its order of size is what matters


# Bandwidths of the makers' data sheets: NVLink 4 has 900 GB/s in both directions of an H100 SXM;
# InfiniBand NDR 400 Gbit/s a port, with a port a GPU; Ethernet as named, shared by the node's GPUs.
NVLINK = Link("NVLink 4", 450, 5)
PCIE = Link("PCIe 4.0 x16", 32, 10)
INFINIBAND = Link("InfiniBand NDR, a port a GPU", 50, 10)
ETHERNET = Link("100 Gbit Ethernet a node", 12.5 / IN_A_NODE, 50)
CLUSTERS = ((NVLINK, INFINIBAND), (PCIE, ETHERNET))
PEAK_TFLOPS = 989  # H100 SXM, dense bf16 (data sheet)
SHARE = 0.25  # of it, that a step reaches: assumed


def all_reduce_s(size: float, gpus: int, inside: Link, between: Link) -> float:
    """Return the seconds of a sum of `size` bytes over all GPUs: rings in nodes, then over nodes.

    A ring of g sends 2 (g - 1) / g of the bytes in 2 (g - 1) steps; over n nodes each GPU sums its
    own g-th of them, with a tree's 2 log2(n) steps of latency.
    """
    g, n = min(gpus, IN_A_NODE), max(1, gpus // IN_A_NODE)
    ring = 2 * (g - 1) / g * size / (inside.gb_per_s * 1e9)
    ring += 2 * (g - 1) * inside.latency_us * 1e-6
    tree = 2 * (n - 1) / n * size / g / (between.gb_per_s * 1e9)
    return ring + tree + 2 * math.log2(n) * between.latency_us * 1e-6


def images_per_s(
    gpus: int, batch: float, flops: float, size: float, steps: int, links: tuple[Link, Link]
) -> float:
    """Return images per second the critic sees, with nothing hidden behind the backward pass.

    Args:
        gpus: in all.
        batch: images a GPU.
        flops: an image that the critic sees, with its share of the generator's step.
        size: bytes of one sum of gradients.
        steps: sums in a turn, one of them the generator's.
        links: in a node, and between nodes.
    """
    images = batch * (steps - 1)
    compute = images * flops / (PEAK_TFLOPS * 1e12 * SHARE)
    return gpus * images / (compute + steps * all_reduce_s(size, gpus, *links))


def prediction(flops: float, size: float, steps: int) -> str:
    """Return scaling.md."""
    text = f"""# Many GPUs: a model, not a measurement

`python -m benchmarks scaling` wrote this. Nobody has trained mbgan on 8 GPUs yet. What goes in:

- measured: {flops / 1e9:.1f} GFLOP an image (paper's WGAN-GP at 256 px, counted by PyTorch over a
  whole turn), {size / 2**20:.1f} MiB of gradients a sum (both networks: DDP sums what a step did
  not use, too), {steps} sums a turn;
- from data sheets: {PEAK_TFLOPS} TFLOP/s in bf16 (H100 SXM), and the bandwidths below;
- assumed: a step reaches {SHARE:.0%} of that peak at any batch; the latencies below; no sum is
  hidden behind the backward pass (DDP hides some: these are lower bounds); loading keeps up.

"""
    links = [
        [link.name, f"{link.gb_per_s:.3g}", f"{link.latency_us:.0f}"]
        for link in (NVLINK, INFINIBAND, PCIE, ETHERNET)
    ]
    text += table(["link", "GB/s a GPU, each way", "µs a step of a collective"], links) + "\n"
    for inside, between in CLUSTERS:
        rows = []
        for gpus in SIZES:
            cells = [str(gpus)]
            for batch in (128.0, 512 / gpus):
                alone = images_per_s(1, batch, flops, size, steps, (inside, between))
                speed = images_per_s(gpus, batch, flops, size, steps, (inside, between))
                cells += [f"{speed:,.0f}", f"{speed / (gpus * alone):.0%}"]
            rows.append(cells)
        head = ["GPUs", "128 images a GPU: images/s", "of ideal"]
        head += ["512 images in all: images/s", "of ideal"]
        text += f"{inside.name} in a node, {between.name} between nodes:\n\n{table(head, rows)}\n"
    return text


def sent() -> int:
    """Return the bytes that went through the loopback device so far."""
    lines = Path("/proc/net/dev").read_text().splitlines()
    (line,) = (line for line in lines if line.strip().startswith("lo:"))
    return int(line.split(":")[1].split()[0])


def weights(gan: GAN) -> int:
    """Return the bytes of what a sum of gradients holds: of both networks."""
    return sum(p.nbytes for p in gan.parameters() if p.requires_grad)


def trained(plan: Plan, kinds: Sequence[tuple[str, int, int]]) -> dict[str, Worker]:
    """Return workers of one thread a process: name, processes, images of the whole batch."""
    workers = {}
    for name, processes, batch in kinds:
        words = [f"image_size={plan.size(64)}", f"batch_size={batch}", "trainer=cpu"]
        if processes > 1:
            words[-1:] = ["trainer=ddp_cpu", f"trainer.devices={processes}"]
        folder = folder_of(plan.scratch, name)
        command = python("benchmarks.ours", folder, "steps", 1, *words)
        workers[name] = Worker(command, {"OMP_NUM_THREADS": "1"})
    return workers


def measure(plan: Plan) -> Measures:
    """Measure two processes, then predict."""
    batch = 4 if plan.quick else 16
    kinds = [
        ("one", 1, batch),
        ("two, same batch", 2, batch),
        ("two, twice the batch", 2, 2 * batch),
    ]
    speeds, _ = alternate(trained(plan, kinds), plan.rounds)
    for name, values in speeds.items():
        yield f"scaling/{name}", record("images/s", values, cores=cores())
    half = [2 * speed for speed in speeds["one"]]
    yield "scaling/strong, of ideal", ratios(speeds["two, same batch"], half)
    yield "scaling/weak, of ideal", ratios(speeds["two, twice the batch"], half)

    (worker,) = trained(plan, [("bytes", 2, batch)]).values()
    worker.turn()
    before = sent()
    worker.turn()
    through = sent() - before
    worker.close()
    probe, size = Probe(rounds=0), 32 if plan.quick else 256
    small = config(folder_of(plan.scratch, "small"), False, f"image_size={plan.size(64)}")
    gan = assemble(small).gan
    steps, gradients = gan.n_critic + 1, weights(gan)
    # In a ring of two each sends all of it: twice the gradients go over the wire.
    yield "scaling/bytes of a turn", record("MiB", [through / 2**20])
    yield "scaling/bytes against gradients", record("x", [through / (2 * steps * gradients)])
    words = [f"image_size={size}", "batch_size=2"]
    gan = fit(config(folder_of(plan.scratch, "flops"), False, *words), probe).gan
    text = prediction(probe.average(probe.flops) / probe.images, weights(gan), gan.n_critic + 1)
    if not plan.quick:
        (ROOT / "benchmarks" / "scaling.md").write_text(text)


if __name__ == "__main__":
    run(measure)
