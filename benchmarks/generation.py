"""Images per second of mbgan.generate against a plain loop: float32, batch by batch, Pillow's PNG.

mbgan.generate is run for few and for many images; the images between the two, over the time between
the two, are its speed without its start. It also marks each image and writes the manifest.
"""

from pathlib import Path

from benchmarks.measure import Measures, Plan, process, ratios, record, run
from benchmarks.workers import Worker, folder_of, python

MANY = {64: 2400, 256: 160}  # images besides the few
FEW = 16


def trained(folder: Path, *words: str) -> Path:
    """Train hardly at all, by mbgan.train; return the run folder."""
    images = "total_images=10", "eval_every=10"  # a turn of five steps of 2
    short = ["batch_size=2", *images, "full_metrics=null", "metrics.max_images=16"]
    process("mbgan.train", *short, *words, f"hydra.run.dir={folder}")
    return folder


def at(image_size: int, n: int, plan: Plan) -> Measures:
    """Measure the paper's generator at one size."""
    root = folder_of(plan.scratch, str(image_size))
    folder = trained(root / "run", f"image_size={image_size}")
    for_plain = folder_of(root, "plain")
    plain = Worker(python("benchmarks.plain", "generate", image_size, FEW, n, for_plain))
    plain.turn()  # to warm up
    ours, theirs = [], []
    for i in range(plan.rounds):
        few, many = (
            process("mbgan.generate", f"run={folder}", f"n={k}", f"out={root / f'{i}_{k}'}").seconds
            for k in (FEW, FEW + n)
        )
        if many <= few:
            raise RuntimeError(f"the start of mbgan.generate varies by more than {n} images take")
        ours.append(n / (many - few))
        images, seconds = plain.turn()
        theirs.append(images / seconds)
    plain.close()
    yield f"generation/{image_size}/mbgan", record("images/s", ours)
    yield f"generation/{image_size}/plain", record("images/s", theirs)
    yield f"generation/{image_size}/mbgan against plain", ratios(ours, theirs)


def measure(plan: Plan) -> Measures:
    """Measure two sizes."""
    for image_size, n in {32: 64}.items() if plan.quick else MANY.items():
        yield from at(image_size, n, plan)


if __name__ == "__main__":
    run(measure)
