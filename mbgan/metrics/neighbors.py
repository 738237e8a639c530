"""Scores from nearest neighbors in feature space: does each image lie where the others lie?

Distances are Euclidean, made a block of rows at a time, so that memory does not grow with both
numbers of images. They come from products of float64: in float32 equal images would be up to 1e-3
of a feature's length apart.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

BLOCK = 2**23  # distances at once: 64 MiB in float64


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
    radii_real, radii_fake = radius(real, k), radius(fake, k)
    near_fake, near_real = torch.zeros(len(fake), dtype=torch.bool), []
    for rows, block in blocks(real, fake):
        near_fake |= (block <= radii_real[rows, None]).any(0)
        near_real.append((block <= radii_fake).any(1))
    return float(near_fake.double().mean()), float(torch.cat(near_real).double().mean())


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

    The distance is taken once more from the difference: of an exact copy it is 0.

    Args:
        x: features [N, F].
        y: features [M, F].
    """
    distances, places = [], []
    for rows, block in blocks(x, y):
        place = block.argmin(1)
        places.append(place)
        distances.append((x[rows].double() - y[place].double()).norm(dim=1))
    return torch.cat(distances), torch.cat(places)


def blocks(x: Tensor, y: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yield rows of x and their distances [rows, M] to all of y, block by block.

    From `|x|^2 + |y|^2 - 2 xy`, off by about 1e-8 of a feature's length where two are equal. That
    is what cdist does, less its copy of y for every block.

    Args:
        x: features [N, F].
        y: features [M, F].
    """
    y = y.double()
    squares, step = y.norm(dim=1).square(), max(1, BLOCK // len(y))
    for start in range(0, len(x), step):
        rows = slice(start, start + step)
        part = x[rows].double()
        block = torch.addmm(squares, part, y.T, alpha=-2)  # [rows, M]
        block += part.norm(dim=1, keepdim=True).square()
        yield rows, block.clamp_min_(0).sqrt_()
