"""Whole groups of images dealt to sides, so that each side holds its share of every stratum."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray


def deal(
    groups: NDArray[np.int64],
    strata: Sequence[ArrayLike],
    shares: Sequence[float],
    seed: Sequence[int],
    best_of: int,
) -> NDArray[np.int64]:
    """Return the side [N] of each image; sides hold their shares of all and of each stratum.

    The largest groups first, each to the side that lacks most of what it holds, in random orders.
    Not scikit-learn's StratifiedGroupKFold: its sides are equal, and where patients differ in
    size it deals nearly the same folds at every seed.

    Args:
        groups: number of each image's group [N], 0 to G - 1, G at least the number of sides.
        strata: lists [N] of strata, each list of another kind.
        shares: of the sides, which sum to 1; none stays empty.
        seed: of the orders.
        best_of: orders from which the best is taken, more where each leaves out a stratum on some
            side; with 1, seeds differ most.
    """
    rng, n_groups = np.random.default_rng(seed), int(groups.max()) + 1
    columns = [np.asarray(of) == value for of in strata for value in np.unique(of)]
    columns.append(np.ones(len(groups), dtype=bool))
    held = np.stack([np.bincount(groups[c], minlength=n_groups) for c in columns], 1)  # [G, K]
    total = held.sum(0)
    wanted = np.outer(shares, total)  # [S, K]
    size_class = np.log2(held[:, -1]).astype(int)  # random within a factor of two, else seeds agree
    best: tuple[int, float, NDArray[np.int64]] | None = None
    for attempt in range(10):
        if best is not None and best[0] == 0 and attempt >= best_of:
            break
        order = rng.permutation(n_groups)
        order = order[np.argsort(-size_class[order], kind="stable")]
        sides, lacks = np.empty(n_groups, dtype=np.int64), wanted.copy()
        empty = np.ones(len(shares), dtype=bool)
        for left, group in zip(range(n_groups, 0, -1), order, strict=True):
            gain = lacks @ (held[group] / total)  # half the fall of sum(lacks**2 / total), + const
            if left <= empty.sum():
                gain[~empty] = -np.inf
            side = int(gain.argmax())
            sides[group], empty[side] = side, False
            lacks[side] -= held[group]
        lost = int((lacks == wanted).sum())  # strata left out on a side
        found = (lost, float((lacks**2 / total).sum()), sides)
        best = found if best is None or found[:2] < best[:2] else best
    assert best is not None, "at least one order is tried"
    return best[2][groups]
