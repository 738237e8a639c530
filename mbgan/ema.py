"""Exponential moving average of the generator's weights."""

import torch
from torch import nn


def ema_decay(half_life: float, images: int, images_seen: int, ramp_up: float = 0.05) -> float:
    """Return the share of the old average that is kept over a stretch of images.

    The half-life is measured in images and grows with the run at first, so that a short run is
    not an average over its random start (Karras et al. 2020, training configuration of ADA).

    Args:
        half_life: images after which a weight counts half; 0 keeps nothing (no averaging).
        images: images seen since the last update, at least 1.
        images_seen: images seen in all.
        ramp_up: the half-life is at most this share of images_seen.
    """
    half_life = min(half_life, ramp_up * images_seen)
    return 0.5 ** (images / half_life) if half_life > 0 else 0.0


@torch.no_grad()
def update_ema(average: nn.Module, current: nn.Module, decay: float) -> None:
    """Move `average` towards `current`: weights by 1 - decay, buffers (batch norm's) at once."""
    torch._foreach_lerp_(list(average.parameters()), list(current.parameters()), 1 - decay)
    for old, new in zip(average.buffers(), current.buffers(), strict=True):
        old.copy_(new)
