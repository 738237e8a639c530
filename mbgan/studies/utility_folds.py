"""Folds of the utility study: who is with whom, what trains, tunes and tests, who has seen what."""

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mbgan.data.cache import ImageSet
from mbgan.data.decode import read_image
from mbgan.data.duplicates import Fingerprint, find_duplicates, fingerprint
from mbgan.data.folder import ImageFile
from mbgan.data.splits import folds, merge_groups, subset
from mbgan.latents import seed_of


@dataclass(frozen=True)
class Fold:
    """One fold of one repeat, at one size of the training side.

    Attributes:
        repeat: from 0.
        number: of the fold in its repeat, from 0.
        share: of the images of `fit` before it was cut to this size.
        fit: places of the images that train generator and classifiers, sorted.
        val: places of those that tune; no group of theirs is in fit.
        test: places of those that score; no group of theirs is in fit or val.
    """

    repeat: int
    number: int
    share: float
    fit: NDArray[np.int64]
    val: NDArray[np.int64]
    test: NDArray[np.int64]

    @property
    def name(self) -> str:
        """Name of its folder, the same whatever other folds there are."""
        return f"repeat{self.repeat}-fold{self.number}-train{100 * self.share:g}"


@dataclass(frozen=True)
class Material:
    """The images of a study.

    Attributes:
        pixels: [N, 3, S, S], uint8.
        files: of each image [N].
        classes: names [K], sorted.
        labels: class of each image [N], 0 .. K - 1.
        groups: what each image [N] belongs to, from `groups_of`.
        sha256: of the images.
    """

    pixels: NDArray[np.uint8]
    files: list[ImageFile]
    classes: list[str]
    labels: NDArray[np.int64]
    groups: list[str]
    sha256: str

    @property
    def counts(self) -> dict[str, int]:
        """Images of each class."""
        return dict(zip(self.classes, np.bincount(self.labels).tolist(), strict=True))

    @property
    def rarest(self) -> str:
        """The class with the fewest images."""
        return min(self.classes, key=self.counts.__getitem__)

    @property
    def summary(self) -> str:
        """What they are, in words."""
        known = sum(file.patient is not None for file in self.files)
        kind = "patients" if known == len(self.files) else "clusters of duplicates, as patients"
        kind += (
            ""
            if known == len(self.files)
            else (" are unknown" if not known else f" of {len(self.files) - known} are unknown")
        )
        each = ", ".join(f"{name} {n}" for name, n in self.counts.items())
        return f"{len(self.files)} images ({each}), tested by {len(set(self.groups))} {kind}"


def material(found: ImageSet) -> Material:
    """Return decoded images with their classes and groups."""
    labels = [file.label for file in found.files]
    classes = sorted(set(labels))
    numbers = np.array([classes.index(label) for label in labels])
    groups = groups_of(found.files)
    return Material(found.images, found.files, classes, numbers, groups, found.sha256)


def groups_of(files: Sequence[ImageFile]) -> list[str]:
    """Return what each image belongs to: its patient, else its cluster of duplicates, or both."""
    clusters = find_duplicates(fingerprints(files)).clusters.tolist()
    return merge_groups([file.patient for file in files], clusters, [file.name for file in files])


def fingerprints(files: Sequence[ImageFile]) -> list[Fingerprint]:
    """Return the fingerprint of each image; each is read once in a process."""
    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(_fingerprint, (file.path for file in files)))


@cache
def _fingerprint(path: Path) -> Fingerprint:
    return fingerprint(np.asarray(read_image(path).rgb))


def plan(
    images: Material,
    n_folds: int,
    n_repeats: int,
    n_inner: int,
    shares: Sequence[float],
    seed: int,
) -> list[Fold]:
    """Return all folds, repeat by repeat; more repeats or shares leave the others as they are.

    Args:
        images: of the study.
        n_folds: of a repeat, at least 2.
        n_repeats: at least 1.
        n_inner: one of so many parts of the training side tunes; fewer where a class has fewer
            groups there.
        shares: of the images that fit, in (0, 1]; smaller ones are parts of larger ones.
        seed: 0 to 2**32 - 1.

    Raises:
        ValueError: if a number is out of range, there is but one class, or a class has too few
            groups or images to be in every part.
    """
    labels, groups = [images.classes[k] for k in images.labels], images.groups
    names = [file.name for file in images.files]
    classes = Counter(labels)
    if len(classes) < 2:
        raise ValueError(
            f"a classifier needs at least 2 classes, got {', '.join(classes) or 'none'}; put each "
            "class into a folder of its own, or set data.root to where there are several"
        )
    if n_inner < 2:
        raise ValueError(f"n_inner must be at least 2, got {n_inner}")
    if not shares or not all(0 < share <= 1 for share in shares):
        raise ValueError(f"train_shares must be in (0, 1], at least one, got {list(shares)}")
    if len(set(groups)) == 1:
        raise ValueError(
            f"patients must be held out, and all {len(labels)} images are of {groups[0]}; add "
            "images of other patients"
        )
    held_by = Counter(label for label, _ in set(zip(labels, groups, strict=True)))
    if (fewest := min(held_by.items(), key=lambda item: (item[1], item[0])))[1] < 3:
        raise ValueError(
            "each class needs at least 3 patients (or image clusters), to fit, to tune and to test "
            f"by, and {fewest[0]!r} has {fewest[1]}; add images of others, or leave that class out"
        )
    label_of, name_of = np.asarray(labels), np.asarray(names)
    found = []
    for i, (train, test) in enumerate(folds(labels, groups, n_folds, n_repeats, seed)):
        fit, val = inner(label_of, groups, train, n_inner, seed_of(seed, "inner", i) % 2**32)
        lost = set(classes) - set(label_of[test])
        if lost:
            raise ValueError(
                f"every class must be in every fold, and {min(lost)!r} is not in fold "
                f"{i % n_folds} of repeat {i // n_folds}; lower n_folds, or change seed"
            )
        for share in shares:
            n = max(1, round(share * len(fit)))
            part = fit[subset(label_of[fit].tolist(), name_of[fit].tolist(), n, seed=0)]
            if lost := set(classes) - set(label_of[part]):
                raise ValueError(
                    f"every class must train, and a share of {share:g} ({n} images) has none of "
                    f"{min(lost)!r}; raise train_shares"
                )
            found.append(Fold(i // n_folds, i % n_folds, share, part, val, test))
    return found


def inner(
    labels: NDArray[np.str_],
    groups: Sequence[str],
    train: NDArray[np.int64],
    n_inner: int,
    seed: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the places that fit and those that tune, of a training side; no group is on both.

    Raises:
        ValueError: if a class has a single group there, or cannot be on both sides.
    """
    own, of = labels[train].tolist(), [groups[i] for i in train]
    held_by = Counter(label for label, _ in set(zip(own, of, strict=True)))
    rarest, n = min(held_by.items(), key=lambda item: (item[1], item[0]))
    if n < 2:
        raise ValueError(
            f"each class needs 2 patients (or image clusters) on the training side, one to fit and "
            f"one to tune by, and {rarest!r} has 1 there; raise n_folds"
        )
    for fit, val in folds(own, of, min(n_inner, n), 1, seed):
        if len({own[i] for i in val}) == len({own[i] for i in fit}) == len(held_by):
            return train[fit], train[val]
    raise ValueError(f"{rarest!r} cannot both fit and tune, as its {n} groups differ too much")


def check_unseen(
    images: Material, folds: Sequence[Fold], seen: Sequence[ImageFile], generator: str
) -> None:
    """Refuse a generator that has seen test images, their patients or copies of them.

    Images are known by their pixels, in any pose, and by near copies (`data.duplicates`), so that
    a renamed, turned or re-compressed file does not pass; patients by the groups of the images.

    Args:
        images: of the study.
        folds: whose test images count.
        seen: what the generator was trained on, or picked by.
        generator: what it is called, for the error.

    Raises:
        ValueError: if it has.
    """
    count = len(images.files)
    clusters = find_duplicates(fingerprints([*images.files, *seen])).clusters
    is_seen = np.isin(clusters[:count], clusters[count:])
    tests = np.unique(np.concatenate([fold.test for fold in folds]))
    of_seen = np.isin(images.groups, np.asarray(images.groups)[is_seen])
    if of_seen[tests].any():
        same, also = int(is_seen[tests].sum()), int((of_seen & ~is_seen)[tests].sum())
        first = images.files[tests[of_seen[tests]][0]].name
        raise ValueError(
            f"generator must not have seen what tests it, but {generator} was trained on, or "
            f"picked by, {same} of {len(tests)} test images and others of the patients (or image "
            f"clusters) of {also} more, such as {first}; set generator=null to train one in each "
            "fold, or test on images of other patients"
        )
