"""Scores from nearest neighbors in feature space: does each image lie where the others lie?

Distances are Euclidean, made a block of rows at a time, so that memory does not grow with both
numbers of images.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

BLOCK = 2**25  # distances at once: 256 MiB in float64


def precision_recall(real: Tensor, fake: Tensor, k: int = 3) -> tuple[float, float]:
    """Return the shares of fakes near reals and of reals near fakes (Kynkäänniemi et al. 2019).

    An image is near a set if it lies in the ball of any of its images, which reaches to that
    image's k-th nearest neighbor in the set (their eq. 2). One outlier has a large ball: recall
    of a fake one may be high for nothing.

    Args:
        real: features [n_real, F], more than k.
        fake: features [n_fake, F], more than k.
        k: neighbors that make a ball; 3 in the paper.

    Raises:
        ValueError: if a side has no k neighbors.
    """
    return _covered(fake, real, k), _covered(real, fake, k)


def density_coverage(real: Tensor, fake: Tensor, k: int = 5) -> tuple[float, float]:
    """Return how densely fakes lie among reals, and the share of reals that have one near.

    Naeem et al. 2020, eqs. 3 and 4; balls are of real images only, so that an outlier among the
    fakes gains nothing. Of one distribution at equal n, density is about 1 and coverage about
    1 - 2^-k: 0.97 at k = 5.

    Args:
        real: features [n_real, F], more than k.
        fake: features [n_fake, F].
        k: neighbors that make a ball; 5 in the paper.

    Raises:
        ValueError: if the reals have no k neighbors.
    """
    radii, inside, near = radius(real, k), 0, []
    for rows, block in blocks(real, fake):
        within = block <= radii[rows, None]
        inside += int(within.sum())
        near.append(within.any(1))
    return inside / (k * len(fake)), float(torch.cat(near).double().mean())


def radius(x: Tensor, k: int) -> Tensor:
    """Return each image's distance [N] to its k-th nearest other one, of features x [N, F].

    Raises:
        ValueError: if there are no k others.
    """
    if len(x) <= k:
        raise ValueError(f"{k} nearest neighbors need more than {k} images, got {len(x)}")
    parts = []
    for rows, block in blocks(x, x):
        own = torch.arange(len(x))[rows]
        block[torch.arange(len(own)), own] = torch.inf
        parts.append(block.kthvalue(k, dim=1).values)
    return torch.cat(parts)


def nearest(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return each image's distance [N] to the nearest in y, and the place [N] of that one.

    Args:
        x: features [N, F].
        y: features [M, F].
    """
    parts = [block.min(dim=1) for _, block in blocks(x, y)]
    return torch.cat([part.values for part in parts]), torch.cat([part.indices for part in parts])


def blocks(x: Tensor, y: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yield rows of x and their distances [rows, M] to all of y, block by block.

    Args:
        x: features [N, F].
        y: features [M, F].
    """
    step = max(1, BLOCK // len(y))
    for start in range(0, len(x), step):
        rows = slice(start, start + step)
        yield rows, torch.cdist(x[rows].double(), y.double())


def _covered(x: Tensor, balls: Tensor, k: int) -> float:
    radii = radius(balls, k)
    parts = [(block <= radii).any(1) for _, block in blocks(x, balls)]
    return float(torch.cat(parts).double().mean())
