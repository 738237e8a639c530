"""Exponential moving average of the generator's weights."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def ema_decay(half_life: float, images: int, images_seen: int, ramp_up: float) -> float:
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
    """Move `average` towards `current`: weights by 1 - decay, buffers at once."""
    torch._foreach_lerp_(list(average.parameters()), list(current.parameters()), 1 - decay)
    for old, new in zip(average.buffers(), current.buffers(), strict=True):
        old.copy_(new)


@torch.no_grad()
def settle(average: nn.Module, draw: Callable[..., Tensor], *inputs: Tensor) -> None:
    """Give batch norm the statistics of the averaged weights' own images.

    Those of the generator in training belong to other weights, and to its last few batches: with
    them, averaged weights draw other colors and contrasts than they were trained to. Standing
    statistics of Brock et al. 2019 (app. D). Without batch norm there is nothing to do.

    Args:
        average: generator in eval mode, and left there.
        draw: runs it on some rows of each input.
        inputs: what its images are drawn from, such as latents [N, z_dim].
    """
    norms = [module for module in average.modules() if isinstance(module, _BatchNorm)]
    if not norms:
        return
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain average over all batches
        norm.train()
    for rows in zip(*(x.split(64) for x in inputs), strict=True):
        draw(*rows)
    for norm in norms:
        norm.eval()
