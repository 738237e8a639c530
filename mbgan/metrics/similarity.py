"""Diversity of images by their pixels: does each look like the others, at any scale?"""

import torch
from torch import Tensor
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

from mbgan.latents import generator_of
from mbgan.metrics.distances import settled

BETAS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of scales, finest first (Wang et al. 2003)
WINDOW, BATCH = 11, 16  # pixels; pairs compared at once


def ms_ssim(images: Tensor, pairs: int = 200) -> Tensor:
    """Return multi-scale structural similarities [P] of pairs of images, 1 for equal ones.

    Their mean measures diversity (Odena et al. 2017, sec. 4.2): fakes less diverse than the reals
    are more alike. No image is in two pairs, so the values are independent. Images of fewer than
    176 pixels have fewer scales than five, whose weights are then divided by their sum; 64 pixels
    have three.

    Args:
        images: [N, 3, S, S], uint8, at least 2, S at least 11.
        pairs: at most; P is N / 2 where that is less.

    Raises:
        ValueError: if there are too few images, or too small ones.
    """
    n, side = len(images), images.shape[-1]
    if n < 2 or side < WINDOW:
        raise ValueError(
            f"ms_ssim needs at least 2 images of at least {WINDOW} pixels, got {n} of {side}"
        )
    # The window fits into the coarsest scale; for four, torchmetrics asks for a little more.
    scales = max(s for s in range(1, 6) if side // max(2 ** (s - 1), (s - 1) ** 2) >= WINDOW)
    betas = tuple(beta / sum(BETAS[:scales]) for beta in BETAS[:scales])
    drawn = torch.randperm(n, generator=generator_of("ms_ssim"))[: 2 * min(pairs, n // 2)]
    values = []
    for pair in settled(images)[drawn].unflatten(0, (-1, 2)).split(BATCH):
        first, second = pair.float().unbind(1)
        part = multiscale_structural_similarity_index_measure(
            first, second, reduction="none", data_range=255.0, betas=betas
        )
        values.append(torch.as_tensor(part).double())
    return torch.cat(values)
