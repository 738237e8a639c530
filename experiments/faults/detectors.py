"""How often do the notices of a run in trouble come, and how often for nothing?

python detectors.py JOBS: trains short healthy and broken runs (5 minutes on one core), so many at a
time, and writes their evaluations to detectors_rows.jsonl, and what was noticed to detectors.csv.
With the word `table` in place of JOBS it makes the latter of the former.
"""

import csv
import json
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from scipy.stats import binomtest
from torch import Tensor

from mbgan import assembly
from mbgan.callbacks import find
from mbgan.callbacks.evaluation import Evaluation
from mbgan.callbacks.health import WON, troubles
from mbgan.gan import GAN
from mbgan.verbs import conf_dir, register_resolvers

HERE = Path(__file__).parent
ROWS, TABLE = HERE / "detectors_rows.jsonl", HERE / "detectors.csv"
MODELS = {"dcgan": 2e-4, "wgan_gp_small": 1e-4}  # learning rate of both players
SETTINGS = [
    *("magnification=10x", "image_size=32", "batch_size=16"),
    *("metrics.max_images=40", "trainer=cpu"),
    *("trainer.precision=32-true", "extractor=efficientnet_lite0", "~logger.csv"),
    *("model.generator.width=8", "model.critic.width=8", "full_metrics=null"),
    *(f"callbacks.{name}=null" for name in ("samples", "checkpoints", "progress", "provenance")),
    *("callbacks.health=null", "callbacks.leaks=null", "callbacks.patience=null"),
]


def still(gan: GAN) -> None:
    """Let the generator keep its first weights."""
    gan.make_opt_g = lambda weights: torch.optim.SGD(weights, lr=0.0)


def few_latents(gan: GAN) -> None:
    """Let both generators draw from four latents only, slightly moved."""

    def moved(z: Tensor) -> Tensor:
        anchors = torch.randn(4, z.shape[1], generator=torch.Generator().manual_seed(0))
        return anchors[(z[:, 0] > 0).long() + 2 * (z[:, 1] > 0).long()] + 0.05 * z

    for generator in (gan.generator, gan.generator_ema):
        conditioned = generator.conditioned
        generator.conditioned = lambda z, condition, f=conditioned: f(moved(z), condition)


STILL = "generator stands still"
Damage = tuple[float, Callable[[GAN], None] | None]
DAMAGES: dict[str, Damage] = {  # factor of both learning rates, what is done to the GAN
    "none": (1, None),
    "learning rates x 100": (100, None),
    STILL: (1, still),
    "four latents": (1, few_latents),
}
KEYS = ("images_seen", *(f"{k}/efficientnet_lite0" for k in ("kid", "diversity")), "critic/ordered")
NOTICES = ("any", "collapse", "critic", "divergence", "numbers", "critic of any stretch")
LENGTHS = {"short": (2_000, 400), "long": (6_000, 1_500)}  # total_images, eval_every
RUNS = [
    *(("none", model, seed, "short") for seed in range(5) for model in MODELS),
    *((d, m, seed, "short") for seed in range(2) for d in DAMAGES if d != "none" for m in MODELS),
    *((damage, model, 0, "long") for damage in ("none", STILL) for model in MODELS),
]


def train(damage: str, model: str, seed: int, length: str) -> dict[str, Any]:
    """Train a run, and return its evaluations and the words it ended with."""
    register_resolvers()
    factor, harm = DAMAGES[damage]
    rate = factor * MODELS[model]
    images, every = LENGTHS[length]
    words = [f"model={model}", f"seed={seed}", f"total_images={images}", f"eval_every={every}"]
    words += [f"model.make_opt_{player}.lr={rate}" for player in "gd"]
    with (
        tempfile.TemporaryDirectory() as folder,
        initialize_config_dir(str(conf_dir()), version_base="1.3"),
    ):
        words.append(f"run_dir={folder}")
        parts = assembly.assemble(compose("train", [*SETTINGS, *words]))
        if harm is not None:
            harm(parts.gan)
        ended = "done"
        try:
            parts.trainer.fit(parts.gan, parts.datamodule)
        except FloatingPointError as error:
            ended = str(error)
    rows = find(parts.trainer, Evaluation).rows
    rows = [{key: row[key] for key in KEYS if key in row} for row in rows]
    run = {"damage": damage, "model": model, "seed": seed, "length": length}
    return run | {"ended": ended, "rows": rows}


def noticed(run: dict[str, Any]) -> set[str]:
    """Return what was noticed in a run at any evaluation, and "numbers" if those ended it."""
    rows, found = run["rows"], set[str]()
    for n in range(1, len(rows) + 1):
        found |= troubles(rows[:n], "efficientnet_lite0").keys()
    found |= {"numbers"} if run["ended"] != "done" else set()
    found |= {"any"} if found else set()
    ordered = [row["critic/ordered"] for row in rows if "critic/ordered" in row]
    if any(min(pair) > WON for pair in pairwise(ordered)):
        found.add("critic of any stretch")  # what it would be without ENOUGH
    return found


def write_table() -> None:
    """Count the runs in which each notice came."""
    runs = [json.loads(line) for line in ROWS.read_text().splitlines()]
    groups = defaultdict[tuple[str, str], list[set[str]]](list)
    for run in runs:
        groups[run["length"], run["damage"]].append(noticed(run))
    with TABLE.open("w", newline="") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(["length", "damage", "notice", "runs", "noticed", "share", "low", "high"])
        for group, found in groups.items():
            for notice in NOTICES:
                k = sum(
                    bool(f & set(NOTICES[1:5])) if notice == "any" else notice in f for f in found
                )
                ends = binomtest(k, len(found)).proportion_ci(method="exact")
                share, *ends = (f"{x:.2f}" for x in (k / len(found), ends.low, ends.high))
                out.writerow([*group, notice, len(found), k, share, *ends])


def main() -> None:
    """Train and count, or only count."""
    if sys.argv[1:] != ["table"]:
        with ProcessPoolExecutor(int(sys.argv[1])) as pool, ROWS.open("w") as file:
            for run in pool.map(train, *zip(*RUNS, strict=True)):
                file.write(json.dumps(run) + "\n")
                file.flush()
    write_table()


if __name__ == "__main__":
    main()
