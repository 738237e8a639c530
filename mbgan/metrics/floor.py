"""What scores say of real images against real ones: below that, no score can tell anything."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mbgan.latents import seed_of
from mbgan.metrics.kernel import kid


def real_vs_real(
    features: Tensor, groups: Sequence[str], n_each: int, comparisons: int
) -> list[float]:
    """Return the KID of random disjoint parts of one set of real images, see `halves`.

    Args:
        features: of the images [N, F], float64.
        groups: of each image [N], such as its patient.
        n_each: images on each side.
        comparisons: how many.
    """
    return [kid(features[a], features[b]) for a, b in halves(groups, n_each, comparisons)]


def halves(
    groups: Sequence[str], n_each: int, comparisons: int
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Yield the places [n] of images on either side of random splits in two, equally many.

    Args:
        groups: of each image [N], such as its patient; none is on both sides of a split.
        n_each: images on each side; fewer where whole groups do not fill it.
        comparisons: how many; a split that leaves a side with less than 2 images is left out.
    """
    rng, names = np.random.default_rng(seed_of("real_vs_real")), np.unique(groups)
    number = np.searchsorted(names, groups)
    for _ in range(comparisons):
        rank = rng.permutation(len(names))[number]  # of each image's group
        order = np.argsort(rank, kind="stable")
        ends = np.flatnonzero(np.diff(rank[order])) + 1  # where one group ends
        if not len(ends):
            return
        middle = ends[np.abs(ends - min(n_each, len(order) / 2)).argmin()]
        n = min(n_each, middle, len(order) - middle)
        if n < 2:
            continue
        a, b = (rng.permutation(side)[:n] for side in np.split(order, [middle]))
        yield a, b


def smallest_difference(kids: Sequence[float]) -> float:
    """Return the difference of two generators' KIDs that the real images can tell apart.

    Args:
        kids: of real images against real ones, at the number of images that will be compared.
    """
    return detectable(float(np.std(kids, ddof=1)))


def detectable(sd: float) -> float:
    """Return the difference of two KIDs that can be told apart, if each has this deviation.

    A two-sided test at 5 % finds it in 80 % of the cases: (1.96 + 0.84) standard deviations of
    their difference, each with that of real against real. A lower bound: far from the reals, KID
    varies more.
    """
    return (1.96 + 0.84) * 2**0.5 * sd
