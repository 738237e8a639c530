"""Which images train and which are held out: seeded, by class, never a patient on both sides."""

import logging
import math
import warnings
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold

from mbgan.data.folder import ImageFile

log = logging.getLogger(__name__)


def split(
    files: Sequence[ImageFile], held_out: float, seed: int, n_train: int | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the indices into files of the training and of the held-out images, both sorted.

    Depends on names, not on the order of files. Where patients are known, each is on one side (an
    image without one counts as a patient of its own) and the held-out side is the fold nearest to
    the share asked; n_train then takes part of the training side, and leaves the held-out side as
    it is. Where none is known, or all images are of one patient (a warning says so), images are
    split one by one and all that do not train are held out. With one seed, a smaller n_train is a
    part of a larger one.

    Args:
        files: images of one magnification.
        held_out: share of the images kept from training, in (0, 1).
        seed: of the split, 0 to 2**32 - 1.
        n_train: use exactly this many training images; None for all.

    Raises:
        ValueError: if a number is out of range, or leaves fewer than 1 image to train on or 2 held
            out.
    """
    if not 0 < held_out < 1:
        raise ValueError(f"held_out must be in (0, 1), got {held_out}")
    if not 0 <= seed < 2**32:
        raise ValueError(f"the seed of the split must be from 0 to {2**32 - 1}, got {seed}")
    if n_train is not None and n_train < 1:
        raise ValueError(f"n_train must be at least 1, got {n_train}; null takes all")
    by_name = np.array(sorted(range(len(files)), key=lambda i: files[i].name), dtype=np.int64)
    labels = np.array([files[i].label for i in by_name])
    patients = [files[i].patient for i in by_name]
    if None not in patients and len(set(patients)) == 1:
        log.warning(
            "all images are of patient %s: split by image, so scores on the held-out side say "
            "nothing about other patients",
            patients[0],
        )
        patients = [None] * len(patients)
    if any(patients):
        held = _held_out_patients(labels, patients, held_out, seed)
        rest = np.setdiff1d(np.arange(len(files)), held)
        train = rest[_stratified_order(labels[rest], seed)][:n_train]
        at_most, reason = len(rest), "the images of all patients that are not held out"
    else:
        order = _stratified_order(labels, seed)
        n = n_train or len(files) - round(held_out * len(files))
        train, held = order[:n], order[n:]
        at_most, reason = len(files) - 2, "all images but the 2 that must be held out"
    if n_train and n_train > at_most >= 1:
        raise ValueError(
            f"n_train must be at most {at_most} ({reason}), got {n_train}; "
            "lower data.n_train or data.held_out, or add images"
        )
    if len(train) < 1 or len(held) < 2:
        raise ValueError(
            "a split needs at least 1 image to train on and 2 held out, got "
            f"{len(train)} and {len(held)} of {len(files)} at held_out={held_out}; "
            "change data.held_out or add images"
        )
    return np.sort(by_name[train]), np.sort(by_name[held])


def _stratified_order(labels: NDArray[np.str_], seed: int) -> NDArray[np.int64]:
    """Return all indices in an order of which every beginning holds each class by its share."""
    rng = np.random.default_rng(seed)
    place = np.empty(len(labels))  # in [0, 1); each class is spread evenly, from a random start
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        place[members] = (np.arange(len(members)) + rng.random()) / len(members)
    return np.argsort(place, kind="stable")


def _held_out_patients(
    labels: NDArray[np.str_], patients: list[str | None], held_out: float, seed: int
) -> NDArray[np.int64]:
    """Return the indices of whole patients that come nearest to the share held_out."""
    names = [i if patient is None else patient for i, patient in enumerate(patients)]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    groups = np.array([numbers[name] for name in names])
    folds_wanted = 1 / min(held_out, 1 - held_out)
    sides = list[NDArray[np.int64]]()
    for n_folds in {math.floor(folds_wanted), math.ceil(folds_wanted)}:
        n_folds = min(n_folds, len(numbers))
        # Where no class has a member for each fold, there is nothing to stratify by.
        strata = labels if max(Counter(labels).values()) >= n_folds else np.zeros(len(labels))
        folds = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed)
        with warnings.catch_warnings():  # of classes with fewer members than folds
            warnings.simplefilter("ignore", UserWarning)
            for rest, fold in folds.split(labels, strata, groups):
                sides.append(fold if held_out <= 0.5 else rest)
    n = len(labels)
    held = min(sides, key=lambda s: (not 2 <= len(s) < n, abs(len(s) - held_out * n)))
    if abs(len(held) / n - held_out) > 0.1:
        log.warning(
            "held out %d of %d images, not a share of %g: patients stay whole",
            *(len(held), n, held_out),
        )
    return held
