"""Add a finished run to the tables: python score.py NAME RUN.

Scores the averaged generator as the run left it (no checkpoint is picked), by 494 images against
all 494 held-out ones, and writes a line to results.csv, the run's curve to curves.csv, its images
to figures/NAME.png. The sheet of nearest training images shows real ones, so it stays in the run.
"""

import csv
import json
import sys
from pathlib import Path

import torch
from torch import Tensor

from mbgan.assembly import load_data, load_generator
from mbgan.data.stream import turn
from mbgan.gan import generate
from mbgan.images import grid, save_png
from mbgan.latents import fixed_latents
from mbgan.metrics.distances import kid, kid_error
from mbgan.metrics.features import EfficientNetLite0, EfficientNetLite2, Extractor
from mbgan.metrics.neighbors import density_coverage, nearest, precision_recall
from mbgan.runs import Run

HERE = Path(__file__).parent
SEED = 1  # of the latents; evaluations while training use 0


def append(path: Path, rows: list[dict[str, object]]) -> None:
    """Add rows to a CSV file, with a header if it is new."""
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerows(rows)


def copies(
    extractor: Extractor, fake: Tensor, train: Tensor, held_out: Tensor
) -> tuple[dict[str, float], Tensor]:
    """Return how near fakes lie to training images, and the index of each fake's nearest pose.

    The nearest training image in eight poses; held-out images are the control: a generator that
    copies lies nearer to the training images than they do.
    """
    poses = torch.cat([turn(train, torch.full((len(train),), pose)) for pose in range(8)])
    known = extractor.extract(poses).features
    near, place = nearest(extractor.extract(fake).features, known)
    control, _ = nearest(extractor.extract(held_out).features, known)
    closer = float((near < control.median()).double().mean())
    ratio = float(near.median() / control.median())
    return {"nearest_ratio": round(ratio, 3), "closer_than_median": round(closer, 3)}, place


def main(name: str, folder: str) -> None:
    """Score one run."""
    run = Run(Path(folder))
    generator, origin = load_generator(run, "last")
    data = load_data(run)
    real, train = torch.from_numpy(data.test[:]), torch.from_numpy(data.train[:])
    fake = generate(generator, fixed_latents(range(len(real)), generator.z_dim, SEED))
    row: dict[str, object] = {"name": name, "images_seen": origin["images_seen"]}
    status = json.loads(run.status.read_text())
    parts = [*status["earlier"], status]  # of a run that was resumed
    row["cpu_minutes"] = round(sum(part["cpu_s"] for part in parts) / 60, 1)
    for extractor in (EfficientNetLite0(), EfficientNetLite2()):
        a, b = extractor.extract(real).features, extractor.extract(fake).features
        short = extractor.name.removeprefix("efficientnet_")
        row[f"kid_{short}"] = round(1000 * kid(a, b), 1)
        row[f"error_{short}"] = round(1000 * kid_error(a, b), 1)
        if extractor.name == "efficientnet_lite0":
            pairs = (*precision_recall(a, b), *density_coverage(a, b))
            names = ("precision", "recall", "density", "coverage")
            row |= {key: round(value, 3) for key, value in zip(names, pairs, strict=True)}
            found, place = copies(extractor, fake, train, real)
            row |= found
    row |= {f"parameters_{part}": n for part, n in status["parameters"].items()}
    append(HERE / "results.csv", [row])
    keep = ("images_seen", "kid/efficientnet_lite0", "kid/efficientnet_lite2")
    curve = [{"name": name} | {key: line[key] for key in keep} for line in run.read_metrics()]
    append(HERE / "curves.csv", curve)
    save_png(grid(fake[:40], columns=10), HERE / "figures" / f"{name}.png")
    poses = torch.cat([turn(train, torch.full((len(train),), pose)) for pose in range(8)])
    save_png(
        grid(torch.cat([fake[:16], poses[place[:16]]]), columns=16), run.samples / "nearest.png"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
