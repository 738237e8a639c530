"""How likely training and held-out images are among Gaussians around the fakes."""

from collections.abc import Iterator

import torch
from torch import Tensor

from mbgan.metrics.memorization import check
from mbgan.metrics.neighbors import blocks

HELD = 2**27  # squared distances kept over the epochs, else made anew: 1 GiB


def fld_gap(
    train: Tensor, held_out: Tensor, fake: Tensor, epochs: int = 50, lr: float = 0.5
) -> float:
    """Return how much likelier training images are than held-out ones, below 0 for overfitting.

    The generalization gap of the feature likelihood divergence (Jiralerspong et al. 2023, sec. 3):
    equal parts of isotropic Gaussians centered on the fakes, the width of each fitted to the
    training images; 100 / F times the difference of mean negative log-likelihoods, train less
    held-out. Features are scaled to mean 0 and variance 1 over the training images.

    Args:
        train: features [P, N, F] of training images in P poses, at least 2 images.
        held_out: features [n_real, F].
        fake: features [n_fake, F].
        epochs: passes of Adam over the training images.
        lr: its learning rate, on the log of the variance.

    Raises:
        ValueError: as `nearest_pose`.
    """
    check(train, held_out=held_out, fake=fake)
    flat = train.flatten(0, 1).double()
    deviation, mean = torch.std_mean(flat, dim=0, correction=0)
    kept = deviation > 1e-9 * deviation.max()
    flat, held_out, fake = (
        ((x.double() - mean) / deviation)[:, kept] for x in (flat, held_out, fake)
    )
    log_variance = torch.zeros(len(fake), dtype=torch.float64)
    optimizer, width = torch.optim.Adam([log_variance], lr=lr), flat.shape[1]
    kept_squares = list(_squares(flat, fake)) if len(flat) * len(fake) <= HELD else None
    for _ in range(epochs):
        for squares in kept_squares or _squares(flat, fake):
            log_variance.grad = _slope(squares, log_variance, width)
            optimizer.step()
            log_variance.clamp_(min=-600)  # of an exact copy it falls for ever; exp must hold it
    train_nll, held_out_nll = (
        -torch.cat([_logs(s, log_variance, width).logsumexp(1) for s in found])
        for found in (kept_squares or _squares(flat, fake), _squares(held_out, fake))
    )
    return float(100 * (train_nll.mean() - held_out_nll.mean()) / width)


def _squares(x: Tensor, y: Tensor) -> Iterator[Tensor]:
    return (block.square_() for _, block in blocks(x, y))


def _logs(squares: Tensor, log_variance: Tensor, width: int) -> Tensor:
    """Return log densities [N, M] of M Gaussians, but for constants, from squared distances."""
    return torch.addcmul(width * log_variance, squares, (-log_variance).exp()).mul_(-0.5)


def _slope(squares: Tensor, log_variance: Tensor, width: int) -> Tensor:
    """Return the gradient [M] of the mean negative log-likelihood over F by the log-variances.

    In closed form, a few rows at a time that fit into a core's cache: a fifth of autograd's time.
    """
    shares, weighted = torch.zeros_like(log_variance), torch.zeros_like(log_variance)
    for part in squares.split(max(1, 2**17 // len(log_variance))):
        share = _logs(part, log_variance, width).softmax(1)  # of each Gaussian in p(x)
        shares += share.sum(0)
        weighted += share.mul_(part).sum(0)
    return (shares - weighted * (-log_variance).exp() / width) / (2 * len(squares))
