"""What a classifier is trained on: real images, synthetic ones, both, or real ones changed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mbgan.data.stream import BatchStream
from mbgan.gan import generate
from mbgan.images import Rows
from mbgan.latents import fixed_latents, seed_of
from mbgan.metrics.features import Extractor
from mbgan.metrics.memorization import TAIL, match_others, nearest_pose, poses
from mbgan.networks import Generator
from mbgan.studies.classifiers import Classifier
from mbgan.studies.utility_folds import Fold
from mbgan.studies.utility_scores import loss, score

MOST_DRAWS = 10  # times the images wanted, before a generator of near-copies is given up
Balance = Literal["even", "as_real"]


@dataclass(frozen=True)
class Arm:
    """A training set.

    Attributes:
        name: real, synthetic, real + synthetic or real + classical.
        ratio: of the extra images to the real ones of the fold; 0 without any.
        real: whether the real images are in it.
        extra: which pool the extra ones are of, "" for none.
    """

    name: str
    ratio: float
    real: bool
    extra: str

    @property
    def title(self) -> str:
        """What it is called where ratios differ."""
        return f"{self.name} x {self.ratio:g}" if self.real and self.extra else self.name


def arms_of(ratios: Sequence[float]) -> list[Arm]:
    """Return the four kinds of arm, those with extra images at each ratio.

    Raises:
        ValueError: if a ratio is not above 0.
    """
    if not ratios or not all(ratio > 0 for ratio in ratios):
        raise ValueError(f"ratios must be above 0, at least one, got {list(ratios)}")
    both = [
        Arm(f"real + {pool}", ratio, True, pool)
        for pool in ("synthetic", "classical")
        for ratio in ratios
    ]
    return [Arm("real", 0, True, ""), Arm("synthetic", 1, False, "synthetic"), *both]


def wanted(labels: NDArray[np.int64], ratio: float, balance: Balance) -> list[int]:
    """Return how many extra images [K] each class gets: ratio times the real ones in all.

    Args:
        labels: class of each real image [N], 0 .. K - 1.
        ratio: of extra to real images.
        balance: even gives every class as many, as_real what its share of the real ones is; at
            least one either way.

    Raises:
        ValueError: if balance is neither.

    >>> wanted(np.array([0, 0, 0, 1]), 2, "even"), wanted(np.array([0, 0, 0, 1]), 2, "as_real")
    ([4, 4], [6, 2])
    """
    if balance not in ("even", "as_real"):
        raise ValueError(f"balance must be even or as_real, got {balance!r}")
    counts = np.bincount(labels)
    shares = (
        counts / counts.sum() if balance == "as_real" else np.full(len(counts), 1 / len(counts))
    )
    return np.maximum(1, np.rint(ratio * len(labels) * shares)).astype(int).tolist()


@dataclass(frozen=True)
class Pool:
    """Images that arms take the first ones of, class by class.

    Attributes:
        images: [N, 3, S, S], uint8.
        labels: [N].
        rejected: images that were drawn and left out, of each class.
    """

    images: Tensor
    labels: NDArray[np.int64]
    rejected: list[int]

    def first(self, counts: Sequence[int]) -> NDArray[np.int64]:
        """Return the places of the first images of each class, as many as counts says."""
        places = [np.flatnonzero(self.labels == k)[:n] for k, n in enumerate(counts)]
        return np.concatenate(places)


def pooled(parts: Sequence[Tensor], rejected: Sequence[int]) -> Pool:
    """Return the pool of images by class."""
    labels = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    return Pool(torch.cat(list(parts)), labels, list(rejected))


def synthetic(
    generator: Generator,
    classes: Sequence[list[int]],
    counts: Sequence[int],
    seed: int,
    accept: Callable[[Tensor], Tensor] | None = None,
) -> Pool:
    """Return images of a generator, as many of each class as counts says.

    Args:
        generator: in eval mode.
        classes: of each class, the numbers of the generator's conditions that stand for it.
        counts: images wanted of each class.
        seed: of the latents.
        accept: returns which of images [N, 3, S, S] may be used; None for all.

    Raises:
        ValueError: if so many are rejected that too few are left.
    """
    parts, rejected = [], []
    for k, (conditions, n) in enumerate(zip(classes, counts, strict=True)):
        kept: list[Tensor] = []
        drawn = have = 0
        while have < n:
            if drawn >= MOST_DRAWS * n:
                raise ValueError(
                    f"reject_copies left {have} of {drawn} generated images of class {k}, and {n} "
                    "are needed: the generator draws near-copies of its training images; train it "
                    "longer or on more images, or set reject_copies=false to see what they do"
                )
            places = range(drawn, drawn + max(n - have, 16 if accept else 1))
            z = fixed_latents(places, generator.z_dim, seed_of(seed, "class", k))
            condition = torch.tensor([conditions[i % len(conditions)] for i in places])
            images = generate(generator, z, condition)
            drawn += len(images)
            if accept is not None:
                images = images[accept(images)]
            kept.append(images)
            have += len(images)
        parts.append(torch.cat(kept)[:n])
        rejected.append(drawn - have)
    return pooled(parts, rejected)


def classical(
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    counts: Sequence[int],
    transforms: Sequence[Any],
    seed: int,
) -> Pool:
    """Return real images turned, mirrored and transformed, as many of each class as counts says.

    Args:
        images: [N, 3, S, S].
        labels: [N].
        counts: images wanted of each class.
        transforms: of albumentations.
        seed: of what they draw.
    """
    parts = []
    for k, n in enumerate(counts):
        rows = Rows(images, np.flatnonzero(labels == k))
        stream = BatchStream(rows, n, seed_of(seed, "classical", k), transforms=transforms)
        parts.append(stream.batch(0)[0])
    return pooled(parts, [0] * len(parts))


def no_copies(extractor: Extractor, train: Tensor) -> Callable[[Tensor], Tensor]:
    """Return what tells which images are no near-copies of training images.

    A near-copy lies nearer to a training image, in any of its eight poses, than all but the
    closest twentieth of training images lie to others.

    Args:
        extractor: by which distances are measured.
        train: images [N, 3, S, S], uint8, at least 2.
    """
    known = torch.stack([extractor.extract(pose).features for pose in poses(train)])
    usual = match_others(known).distance.quantile(TAIL)
    return lambda images: nearest_pose(known, extractor.extract(images).features).distance >= usual


def measure(
    arms: Sequence[Arm],
    classifiers: Mapping[str, Classifier],
    seen: Mapping[str, Tensor],
    labels: NDArray[np.int64],
    fold: Fold,
    pools: Mapping[str, Pool],
    balance: Balance,
    classes: Sequence[str],
    seed: int,
) -> list[dict[str, Any]]:
    """Return the scores of every classifier and arm in a fold, a row a score.

    Arms share the images that tune and test, the settings that are tried, the budget and the
    random numbers of each classifier; they differ in what it is trained on.

    Args:
        arms: training sets.
        classifiers: by name.
        seen: what each classifier looks at [N, ...], of all real images of the study.
        labels: class of each [N], 0 .. K - 1.
        fold: which of them fit, tune and test.
        pools: extra images by name.
        balance: of the extra images, see `wanted`.
        classes: names [K].
        seed: of the classifiers.
    """
    rows = []
    for name, classifier in classifiers.items():
        extra = {key: classifier.look(pool.images) for key, pool in pools.items()}
        x_val, x_test = seen[name][fold.val], seen[name][fold.test]
        for arm in arms:
            x, y = seen[name][fold.fit][: None if arm.real else 0], labels[fold.fit]
            y = y[: len(x)]
            if arm.extra:
                pool = pools[arm.extra]
                places = pool.first(wanted(labels[fold.fit], arm.ratio, balance))
                x = torch.cat([x, extra[arm.extra][places]])
                y = np.concatenate([y, pool.labels[places]])
            fitted = {s: classifier.fit(x, y, s, seed) for s in classifier.settings}
            losses = {s: loss(predict(x_val), labels[fold.val]) for s, predict in fitted.items()}
            best = min(losses, key=losses.__getitem__)
            head = {
                **{"repeat": fold.repeat, "fold": fold.number, "train_share": fold.share},
                **{"n_train": len(fold.fit) + len(fold.val), "n_test": len(fold.test)},
                **{"classifier": name, "arm": arm.name, "ratio": arm.ratio, "title": arm.title},
                **{"n_images": len(y), "setting": best},
            }
            found = score(fitted[best](x_test), labels[fold.test], classes)
            rows += [head | {"score": key, "value": value} for key, value in found.items()]
    return rows
