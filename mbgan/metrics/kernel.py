"""Kernel distance of two samples (KID), with what is known of its uncertainty at small n.

Everything follows from three kernel matrices, computed once. For equal distributions the
estimate is a degenerate U-statistic: its plain bootstrap is far too wide there, see `interval`.
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import brentq
from torch import Tensor

from mbgan.latents import seed_of
from mbgan.metrics.distances import check_sizes


@dataclass(frozen=True)
class Kernels:
    """Cubic kernels (x^T y / F + 1)^3 among real and generated images (Binkowski et al. 2018)."""

    rr: Tensor  # [n_real, n_real]
    ff: Tensor  # [n_fake, n_fake]
    rf: Tensor  # [n_real, n_fake]

    @classmethod
    def of(cls, real: Tensor, fake: Tensor) -> "Kernels":
        """Return the kernels of features [n_real, F] and [n_fake, F], float64.

        Raises:
            ValueError: if a side has fewer than 2 images.
        """
        check_sizes(real, fake)
        pairs = ((real, real), (fake, fake), (real, fake))
        return cls(*((a @ b.T / real.shape[1] + 1) ** 3 for a, b in pairs))

    def kid(self) -> float:
        """Return the unbiased squared distance over all pairs (their eq. 4); n may differ.

        0 on average for equal distributions at any n, so it may be negative.
        """
        return float(off_diagonal(self.rr) + off_diagonal(self.ff) - 2 * self.rf.mean())


def kid(real: Tensor, fake: Tensor) -> float:
    """Return the squared kernel distance of features [n_real, F] and [n_fake, F], see `Kernels`."""
    return Kernels.of(real, fake).kid()


def off_diagonal(k: Tensor) -> Tensor:
    """Return the mean [] of a square matrix's entries off its diagonal."""
    n = len(k)
    return (k.sum() - k.diagonal().sum()) / (n * (n - 1))


def interval(
    kernels: Kernels, patients: np.ndarray | None = None, resamples: int = 1000
) -> tuple[float, float]:
    """Return the 95 % interval of KID: the distances that the estimate does not contradict.

    Each distance d is judged by the spread that the estimate would have if d were the truth, as
    Wilson does for shares [ours]: that of equal distributions, which is the permutation test's,
    and a normal part whose variance grows as d does. For small shifts both grow as their square.
    Its rate is the bootstrap's, drawn towards that of a shift along the images' own axes where the
    estimate is too close to 0 to tell. Below 0 the spread is that of equal distributions.

    Args:
        kernels: of the two samples.
        patients: names [n_real] of the real images' patients, which are then drawn as a whole, for
            the spread of equal distributions too; None draws images.
        resamples: of the bootstrap, and permutations.
    """
    linear, quadratic = bootstrap(kernels, patients, resamples)
    null = permuted(kernels, resamples) if patients is None else quadratic
    spread, kid = float(null.std()), kernels.kid()
    # The linear part of a sample is never 0, though for equal distributions the true one is: its
    # variance is too large by twice the quadratic part's (Efron & Stein 1981).
    excess = float((linear.var() - 2 * quadratic.var()).clamp(min=0))
    usual = 4 * sum(mean_eigenvalue(k) / len(k) for k in (kernels.rr, kernels.ff))
    rate = (excess + spread * usual) / max(max(kid, 0) + spread, 1e-300)
    normal = (linear - linear.mean()) / linear.std().clamp(min=1e-300)

    def end(quantile: float) -> float:
        def rest(distance: float) -> float:
            spread = null + normal * (rate * distance) ** 0.5
            return kid - distance - float(spread.quantile(quantile))

        if rest(0) <= 0:
            return rest(0)
        return float(brentq(rest, 0, 2 * (abs(kid) + float(null.abs().max())) + 128 * rate))

    return end(0.975), end(0.025)


def bootstrap(
    kernels: Kernels, patients: np.ndarray | None = None, resamples: int = 1000
) -> tuple[Tensor, Tensor]:
    """Return linear and quadratic parts [resamples] of resampled KIDs, less the estimate.

    Weights e of resampled images, less 1, enter the estimate in a linear part (each image's mean
    kernel) and in a quadratic one (Hoeffding's decomposition).

    Args:
        kernels: of the two samples.
        patients: names [n_real] of the real images' patients, which are then drawn as a whole;
            None draws images.
        resamples: how many.
    """
    rng = np.random.default_rng(seed_of("bootstrap"))
    e_real = centered_weights(rng, resamples, len(kernels.rr), patients)  # [B, n_real]
    e_fake = centered_weights(rng, resamples, len(kernels.ff))
    (n, m), across = kernels.rf.shape, doubly_centered(kernels.rf)
    rr, ff = hollow(doubly_centered(kernels.rr)), hollow(doubly_centered(kernels.ff))
    g_real = hollow(kernels.rr).sum(1) / (n - 1) - kernels.rf.mean(1)  # [n_real]
    g_fake = hollow(kernels.ff).sum(1) / (m - 1) - kernels.rf.mean(0)
    linear = 2 * (e_real @ (g_real - g_real.mean()) / n + e_fake @ (g_fake - g_fake.mean()) / m)
    quadratic = ((e_real @ rr) * e_real).sum(1) / (n * (n - 1))
    quadratic += ((e_fake @ ff) * e_fake).sum(1) / (m * (m - 1))
    quadratic -= 2 * ((e_real @ across) * e_fake).sum(1) / (n * m)
    return linear, quadratic


def permutation_p(kernels: Kernels, permutations: int = 1000) -> float:
    """Return how often images dealt to the two sides at random are as far apart: a p-value.

    Exact at any n if images are independent (Gretton et al. 2012, sec. 8.1 on the null).
    """
    # Ties are those that rounding makes of the same deal.
    tie = 1e-12 * float(kernels.rf.abs().mean())
    reached = permuted(kernels, permutations) >= kernels.kid() - tie
    return (1 + int(reached.sum())) / (1 + permutations)


def permuted(kernels: Kernels, permutations: int) -> Tensor:
    """Return KIDs [permutations] of all images dealt to the two sides at random."""
    n, m = kernels.rf.shape
    rows = (torch.cat([kernels.rr, kernels.rf], 1), torch.cat([kernels.rf.T, kernels.ff], 1))
    k = hollow(torch.cat(rows))
    rng = np.random.default_rng(seed_of("permutation"))
    order = rng.permuted(np.tile(np.arange(n + m) < n, (permutations, 1)), axis=1)
    side = torch.from_numpy(order).to(k)
    real = side @ k  # [permutations, n + m]: kernels with those on the real side
    rr, total = (real * side).sum(1), k.sum()
    rf = (real * (1 - side)).sum(1)
    ff = total - rr - 2 * rf
    return rr / (n * (n - 1)) + ff / (m * (m - 1)) - 2 * rf / (n * m)


def mean_eigenvalue(k: Tensor) -> float:
    """Return the mean eigenvalue of the covariance of a kernel's features, weighted by itself."""
    k = doubly_centered(k) / len(k)
    return float(k.square().sum() / k.trace().clamp(min=1e-300))


def centered_weights(
    rng: np.random.Generator, resamples: int, n: int, patients: np.ndarray | None = None
) -> Tensor:
    """Return how often each of n images is drawn again, less 1, [resamples, n] in float64.

    Args:
        rng: draws them.
        resamples: how many.
        n: images of a sample, drawn n times with replacement.
        patients: their names [n]; as many patients as there are are drawn instead.
    """
    names, of = np.unique(np.arange(n) if patients is None else patients, return_inverse=True)
    counts = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), resamples)
    return torch.from_numpy(counts[:, of] - 1.0)


def doubly_centered(k: Tensor) -> Tensor:
    """Return a matrix less its row and column means."""
    return k - k.mean(1, keepdim=True) - k.mean(0, keepdim=True) + k.mean()


def hollow(k: Tensor) -> Tensor:
    """Return a square matrix with a diagonal of zeros."""
    return k - torch.diag(k.diagonal())
