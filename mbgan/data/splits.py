"""Which images train and which are held out: seeded, by class, never a patient on both sides.

`split` serves a folder of images as it is; `merge_groups`, `assign` and `check` a prepared one;
`folds` the studies.
"""

import logging
import math
import warnings
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import StratifiedGroupKFold

from mbgan.data.dealing import deal
from mbgan.data.folder import ImageFile

log = logging.getLogger(__name__)

SPLITS = ("train", "test", "val")


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
    _check_seed(seed)
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


def subset(labels: Sequence[str], names: Sequence[str], n: int, seed: int) -> NDArray[np.int64]:
    """Return the sorted indices of n images in which each class keeps its share.

    With one seed, a smaller n is a part of a larger one. Depends on names, not on their order.

    Args:
        labels: class of each image [N].
        names: of each image [N], all different.
        n: images wanted, 1 to N.
        seed: 0 to 2**32 - 1.

    Raises:
        ValueError: if a number is out of range.
    """
    _check_seed(seed)
    if not 1 <= n <= len(labels):
        raise ValueError(f"n_train must be from 1 to {len(labels)}, got {n}; null takes all")
    by_name = np.array(sorted(range(len(names)), key=names.__getitem__), dtype=np.int64)
    return np.sort(by_name[_stratified_order(np.asarray(labels)[by_name], seed)[:n]])


def merge_groups(
    patients: Sequence[str | None], clusters: Sequence[int], files: Sequence[Hashable]
) -> list[str]:
    """Return what each image belongs to that must never straddle a split.

    Images of one patient, of one cluster of duplicates or from one file (tiles) are joined, and
    so are images joined to the same third one.

    Args:
        patients: of each image [N]; None (or pandas' NaN) where unknown.
        clusters: number of each image's cluster of duplicates [N]; -1 for none (unreadable, blank).
        files: what each image was cut from [N]; tiles of one image share it.

    Returns:
        Names of groups [N]: "patient 7", "patient 7 + 9" where these two share a picture,
        "image cluster 12" (its lowest number) where no patient is known, "" where nothing is.
    """
    images, ties, nodes = list[int](), list[int](), dict[Hashable, int]()  # edges image - tie
    for i, (patient, cluster, file) in enumerate(zip(patients, clusters, files, strict=True)):
        held = [("file", file)]
        held += [("patient", patient)] if isinstance(patient, str) else []
        held += [("cluster", cluster)] if cluster >= 0 else []
        images += [i] * len(held)
        ties += [len(patients) + nodes.setdefault(tie, len(nodes)) for tie in held]
    n = len(patients) + len(nodes)
    graph = coo_array((np.ones(len(ties)), (images, ties)), shape=(n, n))
    parts = connected_components(graph, directed=False)[1][: len(patients)].tolist()
    owners, numbers = defaultdict[int, set[str]](set), defaultdict[int, set[int]](set)
    for part, patient, cluster in zip(parts, patients, clusters, strict=True):
        owners[part] |= {patient} if isinstance(patient, str) else set()
        numbers[part] |= {cluster} if cluster >= 0 else set()
    return [_group_name(owners[part], numbers[part]) for part in parts]


def _group_name(patients: set[str], clusters: set[int]) -> str:
    if patients:  # 2 before 10
        return "patient " + " + ".join(sorted(patients, key=lambda p: (p.zfill(9), p)))
    return f"image cluster {min(clusters)}" if clusters else ""


def assign(
    labels: Sequence[str],
    magnifications: Sequence[str],
    groups: Sequence[str],
    names: Sequence[str],
    shares: Mapping[str, float],
    seed: int,
) -> list[str]:
    """Return "train", "test" or "val" for each image: whole groups, by class and magnification.

    A group is on one side at every magnification. Depends on which names make a group, not on
    their order or on what groups are called.

    Args:
        labels: class of each image [N].
        magnifications: of each image [N].
        groups: of each image [N], from `merge_groups`.
        names: of each image [N]; the first of a group stands for it.
        shares: of the images, for "test" and "val"; 0 for none, the rest trains.
        seed: 0 to 2**32 - 1.

    Raises:
        ValueError: if a number is out of range or there are fewer groups than sides.
    """
    _check_seed(seed)
    held = {side: share for side, share in shares.items() if share != 0}
    if not (set(shares) <= {"test", "val"} and min(held.values(), default=0) >= 0):
        raise ValueError(f"shares must be of test and val, each at least 0, got {dict(shares)}")
    if not sum(held.values()) < 1:
        raise ValueError(f"shares must leave images to train on, got {dict(shares)}; sum below 1")
    share = {"train": 1 - sum(held.values()), **held}
    sides = [side for side in SPLITS if side in share]
    first = dict[str, str]()
    for group, name in zip(groups, names, strict=True):
        first[group] = min(name, first.get(group, name))
    if len(first) < len(sides):
        raise ValueError(
            f"{', '.join(sides)} need at least {len(sides)} groups (patients, or image clusters "
            f"where these are unknown), got {len(first)}; set the share of val to 0, or add images "
            "of other patients"
        )
    place = {group: i for i, group in enumerate(sorted(first, key=lambda g: (first[g], g)))}
    of = np.array([place[group] for group in groups])
    cells = [f"{a} at {b}" for a, b in zip(labels, magnifications, strict=True)]
    dealt = deal(of, [cells, magnifications], [share[side] for side in sides], [seed], 10)
    there = set(zip(cells, dealt.tolist(), strict=True))
    lost = [
        f"{cell} in {side}"
        for cell in sorted(set(cells))
        for i, side in enumerate(sides)
        if (cell, i) not in there
    ]
    if lost:
        log.warning(
            "no images of %s: to be in %s, a class needs %d patients (or image clusters)",
            *(", ".join(lost), " and ".join(sides), len(sides)),
        )
    for i, side in enumerate(sides):
        n = int((dealt == i).sum())
        if abs(n / len(dealt) - share[side]) > 0.1:
            log.warning(
                "%s holds %d of %d images, not a share of %g: patients stay whole",
                *(side, n, len(dealt), share[side]),
            )
    return [sides[i] for i in dealt]


def check(groups: Sequence[str], splits: Sequence[str]) -> None:
    """Hold the splits of a prepared folder to their promise.

    Args:
        groups: of each image [N], from `merge_groups`.
        splits: of each image [N]: "train", "test", "val" or "" for none.

    Raises:
        ValueError: if a group is on two sides, or a split is none of these.
    """
    side_of = dict[str, str]()
    for group, side in zip(groups, splits, strict=True):
        if side not in ("", *SPLITS):
            raise ValueError(
                f"a split must be {', '.join(SPLITS)} or empty, got {side!r}; "
                "rebuild the splits with mbgan.prepare"
            )
        if side and side_of.setdefault(group, side) != side:
            kind = "patient" if group.startswith("patient ") else "image cluster"
            raise ValueError(
                f"{kind} {group.removeprefix(f'{kind} ')!r} is in both {side_of[group]} and "
                f"{side}; rebuild the splits with mbgan.prepare"
            )


def folds(
    labels: Sequence[str], groups: Sequence[str], n_folds: int, n_repeats: int, seed: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Return the sorted indices to train on and to test on, n_repeats * n_folds pairs of them.

    In each repeat every image is tested once, and never while its group trains. Depends on
    groups, not on the order of the images.

    Args:
        labels: class of each image [N].
        groups: of each image [N], from `merge_groups`.
        n_folds: at least 2.
        n_repeats: how often the groups are dealt anew, at least 1.
        seed: 0 to 2**32 - 1.

    Raises:
        ValueError: if a number is out of range, or a class has fewer groups than n_folds.
    """
    _check_seed(seed)
    if n_folds < 2:
        raise ValueError(f"n_folds must be at least 2, got {n_folds}")
    if n_repeats < 1:
        raise ValueError(f"n_repeats must be at least 1, got {n_repeats}")
    held_by = Counter(label for label, _ in set(zip(labels, groups, strict=True)))
    rarest, n = min(held_by.items(), key=lambda item: (item[1], item[0]), default=("", 0))
    if n < n_folds:
        raise ValueError(
            f"n_folds must be at most the number of patients (or image clusters) of each class, "
            f"got {n_folds} where {rarest!r} has {n}; lower n_folds, or leave that class out"
        )
    of = np.unique(groups, return_inverse=True)[1]
    shares = [1 / n_folds] * n_folds
    dealt = (deal(of, [labels], shares, [seed, repeat], 1) for repeat in range(n_repeats))
    return (
        (np.flatnonzero(sides != fold), np.flatnonzero(sides == fold))
        for sides in dealt
        for fold in range(n_folds)
    )


def _check_seed(seed: int) -> None:
    if not 0 <= seed < 2**32:
        raise ValueError(f"the seed of the split must be from 0 to {2**32 - 1}, got {seed}")


def _stratified_order(labels: NDArray[np.str_], seed: int) -> NDArray[np.int64]:
    """Return all indices in an order of which every beginning holds each class by its share."""
    rng = np.random.default_rng(seed)
    place = np.empty(len(labels))  # in [0, 1); each class is spread evenly, from a random start
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        place[members] = (np.arange(len(members)) + rng.random()) / len(members)
        if len(members) == 1:
            place[members] = 0  # an only image trains
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
