"""A set of scores under one protocol: which images, how many, by which extractor."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.stats import mannwhitneyu, sem
from scipy.stats import t as student
from torch import Tensor

from mbgan.images import Rows
from mbgan.latents import seed_of
from mbgan.metrics import histology, kernel, memorization
from mbgan.metrics.axes import fid_extrapolated, principal_axes
from mbgan.metrics.distances import diversity, fid, inception_score, vendi_ratio
from mbgan.metrics.features import Extractor, Features
from mbgan.metrics.floor import halves
from mbgan.metrics.likelihood import fld_gap
from mbgan.metrics.neighbors import density_coverage, precision_recall
from mbgan.metrics.nuclei import typical_nucleus
from mbgan.metrics.similarity import ms_ssim

INFINITY = float("inf")
MOST_AXES = 64  # as Meehan et al. 2020 take: 260 images on each side have halves for that many


@dataclass(frozen=True)
class Sample:
    """Images and what an extractor sees in them."""

    images: Tensor  # [N, 3, S, S], uint8
    seen: Features

    def part(self, rows: Any) -> "Sample":
        """Return some of the images, by their places or a mask."""
        return Sample(self.images[rows], Features(*(values[rows] for values in self.seen)))


@dataclass(frozen=True)
class Training:
    """Training images, as scores of memorization want them."""

    images: Tensor  # [N, 3, S, S], uint8
    features: Tensor  # [8, N, F] in the eight poses, see `memorization.poses`

    def part(self, rows: Any) -> "Training":
        """Return some of the images, by their places or a mask."""
        return Training(self.images[rows], self.features[:, rows])


@dataclass(frozen=True)
class Pair:
    """Features of both sides, and what several scores need of them."""

    real: Features
    fake: Features

    @cached_property
    def precision_recall(self) -> tuple[float, float]:
        """Return `neighbors.precision_recall`."""
        return precision_recall(self.real.features, self.fake.features)

    @cached_property
    def density_coverage(self) -> tuple[float, float]:
        """Return `neighbors.density_coverage`."""
        return density_coverage(self.real.features, self.fake.features)


class Score(NamedTuple):
    """A number that compares reals and fakes by their features, and the range it cannot leave."""

    of: Callable[[Pair], float]
    low: float = 0.0
    high: float = INFINITY


def of_features(score: Callable[[Tensor, Tensor], float]) -> Callable[[Pair], float]:
    """Return a score of real and fake features [N, F] as one of a pair."""
    return lambda pair: score(pair.real.features, pair.fake.features)


QUICK: dict[str, Score] = {
    "kid": Score(of_features(kernel.kid), low=-INFINITY),
    "fid": Score(of_features(fid)),
    "inception_score": Score(lambda pair: inception_score(pair.fake.logits), low=1.0),
    "diversity": Score(of_features(diversity)),
}
FULL = QUICK | {
    "precision": Score(lambda pair: pair.precision_recall[0], high=1.0),
    "recall": Score(lambda pair: pair.precision_recall[1], high=1.0),
    "density": Score(lambda pair: pair.density_coverage[0]),
    "coverage": Score(lambda pair: pair.density_coverage[1], high=1.0),
    "vendi_ratio": Score(of_features(vendi_ratio)),
}


class Suite:
    """Scores of fakes against held-out images.

    Args:
        extractor: turns images into features.
        max_images: at most this many images on each side; None for all that are held out.
        floor_splits: random half splits of the reals for the real-vs-real floor in `full`.
        nucleus_px: diameter of a usual nucleus for the histology in `full`, px; None to find it
            in the real images.

    Raises:
        ValueError: if max_images is under 2, floor_splits negative or nucleus_px under 2.
    """

    def __init__(
        self,
        extractor: Extractor,
        max_images: int | None = None,
        floor_splits: int = 0,
        nucleus_px: float | None = None,
    ) -> None:
        if max_images is not None and max_images < 2:
            raise ValueError(f"metrics.max_images must be null or at least 2, got {max_images}")
        if floor_splits < 0:
            raise ValueError(f"metrics.floor_splits must be at least 0, got {floor_splits}")
        if nucleus_px is not None and not nucleus_px >= 2:
            raise ValueError(f"metrics.nucleus_px must be null or at least 2, got {nucleus_px}")
        self.extractor, self.max_images = extractor, max_images
        self.floor_splits, self.nucleus_px = floor_splits, nucleus_px

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
        """Return each quick score that the images have, keyed by its name and the extractor's."""
        pair = Pair(real, fake)
        found = {self.key(name): measured(score, pair) for name, score in QUICK.items()}
        return {key: entry["value"] for key, entry in found.items() if entry["value"] is not None}

    def key(self, name: str) -> str:
        """Return a score's key: no two extractors' numbers meet under one."""
        return f"{name}/{self.extractor.name}"

    def full(
        self,
        real: Sample,
        fake: Sample,
        train: Training | None = None,
        patients: Sequence[str] | None = None,
    ) -> dict[str, dict[str, Any]]:
        """Return each score with all that is known of its uncertainty.

        `interval` holds 95 %: of KID and histology by the bootstrap, of the others by the spread
        among random halves of both sides (Shao & Wu 1989). Reals are drawn by patients, or as if
        they were independent, which is too narrow where patients gave several. `floor` is what
        halves of the reals score against each other, with n_each on a side, and beside it the
        mean of halves of the fakes against halves of the reals. `p` is how likely so large
        a KID is among images dealt at random, or, of copy_test, distances to training images as
        small as the fakes'. A score that these images do not have stands as null, with the reason.

        Args:
            real: n_real held-out images.
            fake: n_fake images.
            train: what the generator learned from; None leaves out scores of memorization.
            patients: of the real images [n_real]; None if unknown.
        """
        n_real, n_fake = len(real.images), len(fake.images)
        over = "images" if patients is None else "patients"
        pair = Pair(real.seen, fake.seen)
        splits = half_splits(pair, patients, self.floor_splits)
        result: dict[str, dict[str, Any]] = {}
        for name, score in (FULL | along_axes(real, fake, train) | against(train)).items():
            entry = result[self.key(name)] = measured(score, pair)
            if entry["value"] is not None and splits:
                entry |= among_halves(score, entry["value"], splits) | {"interval_over": over}
        if min(n_real, n_fake) >= 3:
            kernels = kernel.Kernels.of(real.seen.features, fake.seen.features)
            names = None if patients is None else np.asarray(patients)
            entry = {"interval": list(kernel.interval(kernels, names)), "interval_over": over}
            result[self.key("kid")] |= entry | {"p": kernel.permutation_p(kernels)}
        if train is not None:
            result[self.key("copy_test")] = copy_test(real.seen, fake.seen, train)
        wide = real.seen.features.shape[1]
        if min(n_real, n_fake) <= wide:
            result[self.key("fid")]["note"] = (
                f"mostly bias, as there are no more images than features ({wide})"
            )
        result[self.key("inception_score")]["note"] = (
            "1 is the least; by ImageNet's classes, not tissue's: read it beside the reals' own"
        )
        result["ms_ssim"] = pixel_diversity(real.images, fake.images)
        return result | self.histology(real.images, fake.images, patients)

    def histology(
        self, real: Tensor, fake: Tensor, patients: Sequence[str] | None
    ) -> dict[str, dict[str, Any]]:
        """Return the distance of each statistic of the tissue, see `histology.compare`."""
        try:
            nucleus_px = self.nucleus_px or typical_nucleus(real)
            real_values, fake_values = (
                histology.measure(images, nucleus_px) for images in (real, fake)
            )
        except ValueError as error:
            return {"histology": {"value": None, "reason": str(error)}}
        found = histology.compare(
            real_values, fake_values, patients, floor_splits=self.floor_splits
        )
        return {f"histology/{name}": {"value": None} | entry for name, entry in found.items()}


def along_axes(real: Sample, fake: Sample, train: Training | None) -> dict[str, Score]:
    """Return FID along as many axes as halves of these images can be extrapolated along.

    They are those of the training images, else of both sides together: neither side's own.
    """
    axes = min(MOST_AXES, min(len(real.images), len(fake.images)) // 4 - 1)
    if axes < 1:
        return {}
    known = [real.seen.features, fake.seen.features] if train is None else list(train.features)
    along = principal_axes(torch.cat(known), axes)
    return {
        f"fid_{along.directions.shape[1]}_axes": Score(
            of_features(lambda real, fake: fid_extrapolated(real, fake, along)), low=-INFINITY
        )
    }


def pixel_diversity(real: Tensor, fake: Tensor) -> dict[str, Any]:
    """Return the mean MS-SSIM of the fakes, as floor that of the reals, and Mann-Whitney's p.

    Intervals are Student's, as no image is in two pairs.
    """
    try:
        of_real, of_fake = (ms_ssim(images).numpy() for images in (real, fake))
    except ValueError as error:
        return {"value": None, "reason": str(error)}
    if min(len(of_real), len(of_fake)) < 2:
        n = f"n_real={len(real)}, n_fake={len(fake)}"
        return {"value": None, "reason": f"pairs need at least 4 images on each side, got {n}"}
    means, intervals = [float(x.mean()) for x in (of_real, of_fake)], []
    for values, mean in zip((of_real, of_fake), means, strict=True):
        reach = float(student.ppf(0.975, len(values) - 1) * sem(values))
        intervals.append([mean - reach, min(1.0, mean + reach)])
    floor = {"n_each": len(real), "splits": 1, "mean": means[0], "range": intervals[0]}
    found = {"value": means[1], "interval": intervals[1], "interval_over": "images", "floor": floor}
    return found | {"p": float(mannwhitneyu(of_real, of_fake).pvalue)}


def against(train: Training | None) -> dict[str, Score]:
    """Return scores of memorization, for a generator that learned from these images.

    Their floor, real images in place of fakes, says what is usual.
    """
    if train is None:
        return {}
    known = train.features
    return {
        "authenticity": Score(
            of_features(lambda _, fake: memorization.authenticity(known, fake)), high=1.0
        ),
        "fld_gap": Score(of_features(lambda real, fake: fld_gap(known, real, fake)), low=-INFINITY),
    }


def copy_test(real: Features, fake: Features, train: Training) -> dict[str, Any]:
    """Return z and p of `memorization.copy_test`, or the reason why there are none."""
    try:
        found = memorization.copy_test(train.features, real.features, fake.features)
    except ValueError as error:
        return {"value": None, "reason": str(error)}
    return {"value": found.z, "p": found.p}


def verdict(real: Sample, fake: Sample, train: Training) -> dict[str, Any]:
    """Return whether fakes are copies, and by which rule; or the reason why nobody can tell."""
    n_train = len(train.images)
    sides = train.features, real.seen.features, fake.seen.features
    try:
        found = memorization.verdict(*sides, (train.images, real.images, fake.images))
    except ValueError as error:
        return {"verdict": None, "reason": str(error), "n_train": n_train}
    numbers = asdict(found)
    return {"verdict": numbers.pop("word"), "n_train": n_train} | numbers


def measured(score: Score, pair: Pair) -> dict[str, Any]:
    """Return a score's value, or None and the reason why these images have none."""
    try:
        value = score.of(pair)
    except ValueError as error:
        return {"value": None, "reason": str(error)}
    if not math.isfinite(value):
        return {"value": None, "reason": "no number: the features of one side are all equal"}
    return {"value": value}


Splits = Sequence[tuple[Pair, Pair]]  # halves of the reals; one of them with a half of the fakes


def half_splits(pair: Pair, patients: Sequence[str] | None, times: int) -> Splits:
    """Return random halves of both sides; patients are on one side of a split of the reals."""

    def taken(side: Features, rows: Any) -> Features:
        return Features(*(values[rows] for values in side))

    n_real, n_fake = len(pair.real.features), len(pair.fake.features)
    of_reals = halves(patients or list(map(str, range(n_real))), n_real, times)
    of_fakes = halves(list(map(str, range(n_fake))), n_fake, times)
    found = []
    for (a, b), (c, _) in zip(of_reals, of_fakes, strict=False):
        half = taken(pair.real, a)
        found.append((Pair(half, taken(pair.real, b)), Pair(half, taken(pair.fake, c))))
    return found


def among_halves(score: Score, value: float, splits: Splits) -> dict[str, Any]:
    """Return the 95 % interval of a value and what it can be compared with, from random halves.

    A half drawn without replacement lies about as far from its sample as that from its
    distribution. The interval is around the value of all, as halves have another bias.
    """
    n_each = min(len(pair.real.features) for pair, _ in splits)
    reals, fakes = (
        [v for pair in pairs if (v := measured(score, pair)["value"]) is not None]
        for pairs in zip(*splits, strict=True)
    )
    found: dict[str, Any] = {"floor": {"n_each": n_each, "splits": len(reals)}}
    if len(fakes) > 1:
        reach = float(student.ppf(0.975, len(fakes) - 1) * np.std(fakes, ddof=1))
        found["interval"] = [max(score.low, value - reach), min(score.high, value + reach)]
    if fakes and reals:
        found["floor"] |= {"mean": float(np.mean(reals)), "range": [min(reals), max(reals)]}
        found["floor"]["of_fakes"] = float(np.mean(fakes))
    return found
