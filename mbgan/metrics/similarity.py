"""Diversity of images by their pixels: does each look like the others, at any scale?"""

import numpy as np
import torch
from torch import Tensor
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

from mbgan.latents import seed_of
from mbgan.metrics.distances import settled

BETAS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of scales, finest first (Wang et al. 2003)
WINDOW, BATCH = 11, 16  # pixels; pairs compared at once


def ms_ssim(images: Tensor, pairs: int = 200) -> float:
    """Return the mean multi-scale structural similarity of pairs of images, 1 if all are equal.

    As a measure of diversity (Odena et al. 2017, sec. 4.2): fakes less diverse than the reals are
    more alike, so compare with the same number of the reals. Images of fewer than 176 pixels have
    fewer scales than five, whose weights are then divided by their sum; 64 pixels have three.

    Args:
        images: [N, 3, S, S], uint8, at least 2, S at least 11.
        pairs: of different images, drawn if there are more.

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
    first, second = np.triu_indices(n, 1)
    if len(first) > pairs:
        drawn = np.random.default_rng(seed_of("ms_ssim")).choice(len(first), pairs, replace=False)
        first, second = first[drawn], second[drawn]
    x, values = settled(images).float(), []
    for i, j in zip(
        torch.from_numpy(first).split(BATCH), torch.from_numpy(second).split(BATCH), strict=True
    ):
        part = multiscale_structural_similarity_index_measure(
            x[i], x[j], reduction="none", data_range=255.0, betas=betas
        )
        values.append(part)
    return float(torch.cat(values).double().mean())
