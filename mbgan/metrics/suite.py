"""A set of scores under one protocol: which images, how many, by which extractor."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mbgan.images import Rows
from mbgan.latents import seed_of
from mbgan.metrics.distances import diversity, fid, inception_score
from mbgan.metrics.features import Extractor, Features
from mbgan.metrics.floor import halves
from mbgan.metrics.kernel import Kernels, interval, kid, permutation_p
from mbgan.metrics.neighbors import density_coverage, precision_recall

Score = Callable[[Features, Features], float]  # of reals and fakes
VERSION = 2  # of the form of `Suite.full`
QUICK: dict[str, Score] = {
    "kid": lambda real, fake: kid(real.features, fake.features),
    "fid": lambda real, fake: fid(real.features, fake.features),
    "inception_score": lambda real, fake: inception_score(fake.logits),
    "diversity": lambda real, fake: diversity(real.features, fake.features),
}
FULL = QUICK | {
    "precision": lambda real, fake: precision_recall(real.features, fake.features)[0],
    "recall": lambda real, fake: precision_recall(real.features, fake.features)[1],
    "density": lambda real, fake: density_coverage(real.features, fake.features)[0],
    "coverage": lambda real, fake: density_coverage(real.features, fake.features)[1],
}


class Suite:
    """Scores of fakes against held-out images.

    Args:
        extractor: turns images into features.
        max_images: at most this many images on each side; None for all that are held out.
        floor_splits: random half splits of the reals for the real-vs-real floor in `full`.

    Raises:
        ValueError: if max_images is under 2 or floor_splits negative.
    """

    def __init__(
        self, extractor: Extractor, max_images: int | None = None, floor_splits: int = 0
    ) -> None:
        if max_images is not None and max_images < 2:
            raise ValueError(f"metrics.max_images must be null or at least 2, got {max_images}")
        if floor_splits < 0:
            raise ValueError(f"metrics.floor_splits must be at least 0, got {floor_splits}")
        self.extractor, self.max_images = extractor, max_images
        self.floor_splits = floor_splits

    def rows(self, n: int) -> np.ndarray:
        """Return which of n held-out images scores are taken against, in order.

        The same ones in every run on this split, whatever its seed.
        """
        order = np.random.default_rng(seed_of("held-out")).permutation(n)
        return np.sort(order[: n if self.max_images is None else self.max_images])

    def pick(self, held_out: Rows) -> tuple[Tensor, Tensor]:
        """Return the images of `rows` [n, 3, S, S], uint8, and their conditions [n]."""
        rows = self.rows(len(held_out))
        return torch.from_numpy(held_out[rows]), torch.from_numpy(held_out.conditions[rows])

    def scores(self, real: Features, fake: Features) -> dict[str, float]:
        """Return each quick score of the fakes, keyed by its name and the extractor's."""
        return {f"{key}/{self.extractor.name}": score(real, fake) for key, score in QUICK.items()}

    def full(
        self, real: Features, fake: Features, patients: Sequence[str] | None = None
    ) -> dict[str, dict[str, Any]]:
        """Return each score with all that is known of its uncertainty.

        KID has a 95 % interval over patients, or over images as if they were independent, which
        is too narrow where patients gave several; and the probability p of so large a distance
        among images dealt at random. All have the real-vs-real floor, what random parts of the
        reals, of whole patients, score against each other at half of n_real or less. A score that
        so few images do not have stands as null, with the reason.

        Args:
            real: of n_real images.
            fake: of n_fake images.
            patients: of the real images [n_real]; None if unknown.
        """
        result: dict[str, dict[str, Any]] = {}
        groups = list(map(str, range(len(real.features)))) if patients is None else patients
        splits = [
            tuple(Features(*(values[rows] for values in real)) for rows in pair)
            for pair in halves(groups, len(groups), self.floor_splits)
        ]
        for key, score in FULL.items():
            entry = result[f"{key}/{self.extractor.name}"] = measured(score, real, fake)
            if splits and entry["value"] is not None and key != "inception_score":
                entry["floor"] = floor(score, splits)
        if min(len(real.features), len(fake.features)) >= 3:
            entry = result[f"kid/{self.extractor.name}"]
            kernels = Kernels.of(real.features, fake.features)
            known = None if patients is None else np.asarray(patients)
            entry["interval"] = interval(kernels, known)
            entry["interval_over"] = "images" if patients is None else "patients"
            entry["p"] = permutation_p(kernels)
        return result

    def part(
        self, real: Features, fake: Features, rows: Tensor, patients: Sequence[str] | None = None
    ) -> dict[str, Any]:
        """Return n and the scores in `full` of some rows [n], or the reason why there are none."""
        n = int(rows.sum())
        if n < 2:
            return {"n": n, "scores": {}, "reason": f"scores need 2 held-out images, got {n}"}
        real, fake = (Features(*(values[rows] for values in side)) for side in (real, fake))
        if patients is not None:
            patients = [patients[i] for i in rows.nonzero().flatten().tolist()]
        return {"n": n, "scores": self.full(real, fake, patients)}


def measured(score: Score, real: Features, fake: Features) -> dict[str, Any]:
    """Return a score's value, or None and the reason why these images have none."""
    try:
        return {"value": score(real, fake)}
    except ValueError as error:
        return {"value": None, "reason": str(error)}


def floor(score: Score, splits: Sequence[tuple[Features, ...]]) -> dict[str, Any]:
    """Return what a score says of real images against real ones, with its range."""
    sizes = [len(a.features) for a, _ in splits]
    values = [measured(score, a, b)["value"] for a, b in splits]
    values = [value for value in values if value is not None]
    if not values:
        return {"mean": None, "range": None, "n_each": min(sizes), "splits": 0}
    spread = {"mean": float(np.mean(values)), "range": [min(values), max(values)]}
    return spread | {"n_each": min(sizes), "splits": len(values)}


def table(result: dict[str, Any]) -> str:
    """Return a scored run (the content of scores.json) as lines for the terminal."""
    lines = [
        f"{result['magnification']}, {result['images_seen']} images seen, "
        f"checkpoint {result['checkpoint']}; n_real {result['n_real']}, n_fake {result['n_fake']}, "
        f"extractor {result['extractor']} ({result['extractor_sha256'][:12]})",
        f"{'score':34} {'value':>10}  {'95 % interval':22}{'p':7}real-vs-real floor (range)",
    ]
    if result["critic_extractor"] == result["extractor"]:
        lines.insert(1, "the critic learned by this extractor, so these scores flatter the run")
    lines += _lines(result["scores"])
    for name, part in result["by_condition"].items():
        lines.append(f"{name}: " + part.get("reason", f"n {part['n']} on each side"))
        lines += _lines(part["scores"])
    return "\n".join(lines)


def _lines(scores: dict[str, dict[str, Any]]) -> list[str]:
    lines = []
    for key, score in scores.items():
        if score["value"] is None:
            lines.append(f"{key:34} {'-':>10}  {score['reason']}")
            continue
        interval, floor = "-", "-"
        if "interval" in score:
            interval = "{:.4g} .. {:.4g}".format(*score["interval"])
        if score.get("floor", {}).get("splits"):
            floor = "{mean:.4g} ({range[0]:.4g} .. {range[1]:.4g}) at n = {n_each}"
            floor = floor.format(**score["floor"])
        p = f"{score['p']:.3f}" if "p" in score else "-"
        note = "  (about 1 for one tissue)" if key.startswith("inception_score") else ""
        lines.append(f"{key:34} {score['value']:10.4g}  {interval:22}{p:7}{floor}{note}")
    return lines
