"""Augmentation inside the loop: `(x, draws, name) -> x`, differentiable, real and fake alike."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mbgan.latents import Draws


class Augment(nn.Module):
    """No augmentation; the base of those that are one.

    Differentiable, with its own numbers for each image; the same on real and generated images.
    """

    def forward(self, x: Tensor, draws: Draws, name: str) -> Tensor:
        """Return images x [N, 3, H, W] in [-1, 1], augmented.

        Args:
            x: images [N, 3, H, W] in [-1, 1].
            draws: the step's random numbers.
            name: what these images are; another name draws other numbers.
        """
        return x

    def observe(self, d_real: Tensor, draws: Draws) -> None:
        """Take note of the scores of real images, once a critic step."""


class Translation(Augment):
    """Shift each image by whole pixels, zero-padded (DiffAugment; Zhao et al. 2020, sec. 3).

    Args:
        ratio: largest shift in each direction, as a share of the side; 0.125 in the paper.

    Raises:
        ValueError: if ratio is outside [0, 0.5].
    """

    def __init__(self, ratio: float = 0.125) -> None:
        super().__init__()
        if not 0 <= ratio <= 0.5:
            raise ValueError(f"ratio must be in [0, 0.5], got {ratio}")
        self.ratio = ratio

    def forward(self, x: Tensor, draws: Draws, name: str) -> Tensor:
        """Return images x [N, 3, H, W], each shifted by its own amount."""
        n, _, height, width = x.shape
        reach = round(self.ratio * height)
        shift = (draws.uniform(f"translation/{name}", n, 2) * (2 * reach + 1)).long().to(x.device)
        rows = torch.arange(height, device=x.device) + shift[:, :1]  # [N, H]
        columns = torch.arange(width, device=x.device) + shift[:, 1:]  # [N, W]
        padded = F.pad(x, [reach] * 4)  # [N, 3, H + 2 reach, W + 2 reach]
        batch = torch.arange(n, device=x.device)[:, None, None]
        moved = padded.permute(0, 2, 3, 1)[batch, rows[:, :, None], columns[:, None, :]]
        return moved.permute(0, 3, 1, 2)  # [N, 3, H, W], channels last in memory
