"""The training step: images per second, FLOPs and the share of the machine's ceiling reached.

A turn is what a generator step costs: n_critic critic steps and the generator's own. Of a penalty
at intervals, steps with and without it are timed and weighed. Ratios to the plain loop are of
processes that take turns; there both get their batches and take their steps as users would.
"""

import time
from pathlib import Path
from typing import Any

import lightning as L
import torch

from benchmarks import ceiling
from benchmarks.measure import Measures, Plan, ratios, record, run
from benchmarks.ours import config, fit
from benchmarks.workers import Worker, alternate, folder_of, python
from mbgan.gan import GAN
from mbgan.verbs import conf_dir

# Fewer images where they are larger, so that all of it fits into minutes on a CPU.
BATCH = {64: 32, 128: 8, 256: 2}
PLAIN = {64: 32, 256: 4}


class Probe(L.Callback):
    """Takes a turn to warm up, one to count FLOPs and some to time, of each kind of turn."""

    def __init__(self, rounds: int) -> None:
        self.rounds, self.turn = rounds, 0
        self.flops: dict[int, float] = {}
        self.seconds: dict[int, list[float]] = {}
        self.images = 0

    def on_train_start(self, trainer: L.Trainer, gan: L.LightningModule) -> None:
        """Note how many kinds of turns there are."""
        assert isinstance(gan, GAN)
        self.interval = getattr(gan.regularizer, "interval", 1)
        self.kinds = 1 if self.interval == 1 else 2  # with the penalty, and without
        assert self.kinds == 1 or gan.n_critic == 1, "a turn is of one kind"

    def on_train_batch_start(
        self, trainer: L.Trainer, gan: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Begin a turn, or go on with it."""
        assert isinstance(gan, GAN)
        if gan.critic_steps % gan.n_critic:
            return
        kind, place = divmod(self.turn, self.rounds + 2)
        gan.critic_steps = kind  # of two kinds, the penalty is in step 0 and not in step 1
        self.before = gan.images_seen
        if place == 1:
            self.counter = ceiling.Arithmetic()
            self.counter.__enter__()
        self.began = time.perf_counter()

    def on_train_batch_end(self, trainer: L.Trainer, gan: L.LightningModule, *rest: Any) -> None:
        """End a turn."""
        assert isinstance(gan, GAN)
        if gan.device.type == "cuda":
            torch.cuda.synchronize()
        spent = time.perf_counter() - self.began
        if gan.critic_steps % gan.n_critic:
            return
        kind, place = divmod(self.turn, self.rounds + 2)
        if place == 1:
            self.counter.__exit__(None, None, None)
            self.flops[kind] = self.counter.flops
        elif place > 1:
            self.seconds.setdefault(kind, []).append(spent)
        self.images = gan.images_seen - self.before
        self.turn += 1
        trainer.should_stop = self.turn == self.kinds * (self.rounds + 2)

    def average(self, of_kinds: dict[int, float]) -> float:
        """Return the average over a whole interval."""
        if self.kinds == 1:
            return of_kinds[0]
        return (of_kinds[0] + (self.interval - 1) * of_kinds[1]) / self.interval


def step(preset: str, image_size: int, batch_size: int, plan: Plan, folder: Path) -> Measures:
    """Measure one preset at one size."""
    words = [f"model={preset}", f"image_size={image_size}", f"batch_size={batch_size}"]
    probe = Probe(plan.rounds)
    parts = fit(config(folder, False, *words), probe)
    name, images = f"step/{preset}/{image_size}", probe.images
    rounds = [dict(enumerate(kinds)) for kinds in zip(*probe.seconds.values(), strict=True)]
    seconds = [probe.average(kinds) for kinds in rounds]
    flops = probe.average(probe.flops)
    precision = str(parts.trainer.precision)
    facts = {"batch_size": batch_size, "precision": precision, "n_critic": parts.gan.n_critic}
    yield f"{name}/speed", record("images/s", [images / s for s in seconds], **facts)
    yield f"{name}/flops", record("GFLOP/image", [flops / images / 1e9])
    reached = [flops / s / 1e9 for s in seconds]
    yield f"{name}/reached", record("GFLOP/s", reached)
    layers, dtype = ceiling.convolutions(parts.gan, batch_size), torch.float32
    if "bf16" in precision:
        full = ceiling.gflops_per_s(layers, torch.float32, plan.rounds)
        yield f"{name}/ceiling float32", record("GFLOP/s", [full])
        dtype = torch.bfloat16
    limit = ceiling.gflops_per_s(layers, dtype, plan.rounds)
    yield f"{name}/ceiling", record("GFLOP/s", [limit], dtype=str(dtype).removeprefix("torch."))
    yield f"{name}/share", record("of the ceiling", [r / limit for r in reached])


def against_plain(image_size: int, batch_size: int, plan: Plan) -> Measures:
    """Measure the paper's WGAN-GP, as it comes, against the plain loop."""
    folder = folder_of(plan.scratch, f"plain{image_size}")
    words = [f"image_size={image_size}", f"batch_size={batch_size}"]
    speeds, _ = alternate(
        {
            "mbgan": Worker(python("benchmarks.ours", folder, "steps", 1, *words)),
            **{
                p: Worker(python("benchmarks.plain", "train", image_size, batch_size, p))
                for p in ("fp32", "bf16")
            },
        },
        plan.rounds,
    )
    name = f"plain/{image_size}"
    for who, values in speeds.items():
        yield f"{name}/{who}", record("images/s", values, batch_size=batch_size)
    for precision in ("fp32", "bf16"):
        yield f"{name}/mbgan against {precision}", ratios(speeds["mbgan"], speeds[precision])


def measure(plan: Plan) -> Measures:
    """Measure the machine, the paper's preset against the plain loop, and every preset."""
    for dtype in (torch.float32, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        products = [ceiling.product(dtype, 3) for _ in range(plan.rounds)]
        yield f"ceiling/product {name}", record("GFLOP/s", products)
    for image_size, batch_size in {32: 4}.items() if plan.quick else PLAIN.items():
        yield from against_plain(image_size, batch_size, plan)
    presets = sorted(path.stem for path in (conf_dir() / "model").glob("*.yaml"))
    for image_size, batch_size in {32: 4}.items() if plan.quick else BATCH.items():
        for preset in presets:
            folder = folder_of(plan.scratch, f"{preset}{image_size}")
            yield from step(preset, image_size, batch_size, plan, folder)


if __name__ == "__main__":
    run(measure)
