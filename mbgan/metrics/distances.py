"""Scores from features: torchmetrics does the mathematics, on features that exist already.

Every rank of a distributed run has all features, so the metrics have nothing to synchronize.
"""

import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.inception import InceptionScore
from torchmetrics.image.kid import KernelInceptionDistance

from mbgan.latents import seed_of


class Given(nn.Identity):
    """Stands where torchmetrics wants a network: the images it is handed are features."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features


def fid(real: Tensor, fake: Tensor) -> float:
    """Return the Frechet distance of Gaussians fitted to features (Heusel et al. 2017, eq. 6).

    Biased upwards by small samples: two sets of 150 images of one distribution are far from 0.

    Args:
        real: features [n_real, F], float64, at least 2.
        fake: features [n_fake, F], float64, at least 2.
    """
    check_sizes(real, fake)
    metric = FrechetInceptionDistance(Given(real.shape[1]), sync_on_compute=False)
    return compare(metric.set_dtype(torch.float64), real, fake)


def kid(real: Tensor, fake: Tensor) -> float:
    """Return the squared kernel distance (Binkowski et al. 2018, eq. 4), cubic kernel.

    The unbiased estimate over all pairs: 0 on average for equal distributions at any n, so it
    may be negative.

    Args:
        real: features [n, F], float64.
        fake: features [n, F], float64; as many as the real ones.

    Raises:
        ValueError: if the numbers of images differ or are under 2.
    """
    check_sizes(real, fake)
    if len(real) != len(fake):
        raise ValueError(f"kid needs n_real = n_fake, got {len(real)} and {len(fake)}")
    # One subset that holds everything: the order in which it is drawn does not matter.
    metric = KernelInceptionDistance(
        Given(real.shape[1]), subsets=1, subset_size=len(real), sync_on_compute=False
    )
    return compare(metric.set_dtype(torch.float64), real, fake)


def kid_error(real: Tensor, fake: Tensor) -> float:
    """Return the standard error of `kid` by leaving out one image at a time.

    The jackknife over both samples (Efron & Stein 1981), images taken as independent: where
    several images come from one patient it is too small.

    Args:
        real: features [n, F], float64, at least 3.
        fake: features [n, F], float64; as many as the real ones.
    """
    n, width = real.shape
    pairs = ((real, real), (fake, fake), (real, fake))
    k_rr, k_ff, k_rf = ((a @ b.T / width + 1) ** 3 for a, b in pairs)
    variance = 0.0
    for within, cross in ((k_rr, k_rf.sum(1)), (k_ff, k_rf.sum(0))):
        within.fill_diagonal_(0)
        # kid without image i, up to the other sample's own term, the same for every i.
        without_i = (within.sum() - 2 * within.sum(1)) / ((n - 1) * (n - 2))
        without_i -= 2 * (cross.sum() - cross) / (n * (n - 1))
        variance += (n - 1) / n * float((without_i - without_i.mean()).square().sum())
    return variance**0.5


def diversity(real: Tensor, fake: Tensor) -> float:
    """Return the mean squared distance from a fake to its nearest other fake, over the reals' own.

    About 1 for equal distributions at equal n, 0 where the fakes are one image or a few, however
    far those lie apart: the mean over all pairs still finds two images half as diverse as many.

    Args:
        real: features [n_real, F], float64, at least 2.
        fake: features [n_fake, F], float64, at least 2.
    """
    check_sizes(real, fake)
    nearest = []
    for features in (fake, real):
        distances = torch.cdist(features, features).fill_diagonal_(torch.inf)
        nearest.append(distances.min(1).values.square().mean())
    return float(nearest[0] / nearest[1])


def inception_score(logits: Tensor) -> float:
    """Return exp E[KL(p(y|x) || p(y))] (Salimans et al. 2016); about 1 for a single tissue.

    Args:
        logits: class logits [N, classes]; the mean over (up to) 10 equal parts is returned.
    """
    splits = min(10, len(logits))
    metric = InceptionScore(Given(logits.shape[1]), splits=splits, sync_on_compute=False)
    with torch.random.fork_rng(devices=[]):  # torchmetrics shuffles with the global generator
        torch.manual_seed(seed_of("inception_score"))
        metric.update(logits)
        return float(metric.compute()[0])


def compare(metric: Metric, real: Tensor, fake: Tensor) -> float:
    """Return a two-sample metric of torchmetrics, without disturbing the global generator."""
    with torch.random.fork_rng(devices=[]):
        metric.update(real, real=True)
        metric.update(fake, real=False)
        value = metric.compute()
    return float(value[0] if isinstance(value, tuple) else value)


def check_sizes(real: Tensor, fake: Tensor) -> None:
    """Refuse samples without a variance.

    Raises:
        ValueError: if a side has fewer than 2 images.
    """
    if min(len(real), len(fake)) < 2:
        raise ValueError(
            "scores need at least 2 images on each side, "
            f"got n_real={len(real)}, n_fake={len(fake)}"
        )
