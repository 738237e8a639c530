"""Score the finished runs that results.csv lacks: python score.py RUNS.

Scores the averaged generator as a run left it (no checkpoint is picked), by as many images as are
held out. Writes a line to results.csv, the run's curve to curves.csv and its images to
figures/NAME.png. The sheet of nearest training images shows real ones, so it stays in the run.
"""

import csv
import json
import sys
from pathlib import Path

import torch
from torch import Tensor

from mbgan.assembly import load_data, load_generator, quiet_libraries
from mbgan.data.datamodule import MagnificationDataModule
from mbgan.data.stream import turn
from mbgan.gan import generate
from mbgan.images import grid, save_png
from mbgan.latents import fixed_latents
from mbgan.metrics.distances import diversity
from mbgan.metrics.features import EfficientNetLite0, EfficientNetLite2
from mbgan.metrics.kernel import Kernels, bootstrap
from mbgan.metrics.neighbors import density_coverage, nearest, precision_recall
from mbgan.runs import Run

HERE = Path(__file__).parent
SEED = 1  # of the latents; evaluations while training use 0
LITE0, LITE2 = EfficientNetLite0(), EfficientNetLite2()


class Reals:
    """What runs on the same images are scored against, extracted once.

    Args:
        data: a run's.
    """

    def __init__(self, data: MagnificationDataModule) -> None:
        self.images, train = torch.from_numpy(data.test[:]), torch.from_numpy(data.train[:])
        self.features = [extractor.extract(self.images).features for extractor in (LITE0, LITE2)]
        # A generator that learned from turned images may copy them turned.
        self.poses = torch.cat([turn(train, torch.full((len(train),), p)) for p in range(8)])
        self.known = LITE0.extract(self.poses).features
        self.control = nearest(self.features[0], self.known)[0].median()


def scores(reals: Reals, fake: Tensor) -> tuple[dict[str, float], Tensor]:
    """Return the scores of fakes [n, 3, S, S], uint8, and the pose that is nearest to each [n]."""
    row: dict[str, float] = {}
    seen = [extractor.extract(fake).features for extractor in (LITE0, LITE2)]
    for name, real, features in zip(("lite0", "lite2"), reals.features, seen, strict=True):
        kernels = Kernels.of(real, features)
        row[f"kid_{name}"] = round(1000 * kernels.kid(), 1)
        linear, quadratic = bootstrap(kernels)
        error = (linear.var() - quadratic.var()).clamp(min=0).sqrt()
        row[f"error_{name}"] = round(1000 * float(error), 1)
    row["precision"], row["recall"] = precision_recall(reals.features[0], seen[0])
    row["density"], row["coverage"] = density_coverage(reals.features[0], seen[0])
    row["diversity"] = diversity(reals.features[0], seen[0])
    row = {key: round(value, 3) for key, value in row.items()}
    # Held-out images are the control: a generator that copies is nearer to what it trained on.
    near, place = nearest(seen[0], reals.known)
    row["nearer_than_held_out"] = round(float((near < reals.control).double().mean()), 3)
    return row, place


def append(path: Path, rows: list[dict[str, object]]) -> None:
    """Add rows to a CSV file, with a header if it is new."""
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerows(rows)


def add(name: str, run: Run, reals: Reals) -> None:
    """Score one run and write it down."""
    generator, origin = load_generator(run, "last")
    z = fixed_latents(range(len(reals.images)), generator.z_dim, SEED)
    fake = generate(generator, z)
    found, place = scores(reals, fake)
    status = json.loads(run.status.read_text())
    parts = [*status["earlier"], status]  # of a run that was resumed
    row: dict[str, object] = {"name": name, "images_seen": origin["images_seen"]}
    row["cpu_minutes"] = round(sum(part["cpu_s"] for part in parts) / 60, 1)
    row |= found | {f"parameters_{part}": n for part, n in status["parameters"].items()}
    append(HERE / "results.csv", [row])
    keep = ("images_seen", "kid/efficientnet_lite0", "kid/efficientnet_lite2")
    curve = [{"name": name} | {key: line[key] for key in keep} for line in run.read_metrics()]
    append(HERE / "curves.csv", curve)
    save_png(grid(fake[:40], columns=10), HERE / "figures" / f"{name}.png")
    pairs = torch.cat([fake[:16], reals.poses[place[:16]]])
    save_png(grid(pairs, columns=16), run.samples / "nearest.png")
    print(name, row, flush=True)


def main(runs: str) -> None:
    """Score what is finished."""
    quiet_libraries()
    results, known = HERE / "results.csv", dict[str, Reals]()
    done = (
        {line.split(",")[0] for line in results.read_text().splitlines()}
        if results.exists()
        else set()
    )
    with (HERE / "runs.csv").open() as file:
        names = [row["name"] for row in csv.DictReader(file)]
    for name in names:
        run = Run(Path(runs) / name)
        if name in done or not run.status.is_file():
            continue
        status = json.loads(run.status.read_text())
        if status["status"] != "done":
            continue
        key = status["data"]["sha256"]
        if key not in known:
            known[key] = Reals(load_data(run))
        add(name, run, known[key])


if __name__ == "__main__":
    main(*sys.argv[1:])
