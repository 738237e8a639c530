"""Pulls the generated images' features, as a set, towards those of remembered real ones.

A critic scores images one at a time: a generator that draws one kind of tissue well may please it.
"""

import torch
from torch import Tensor, nn

from mbgan.latents import Draws


class Matching(nn.Module):
    """Kernel distance of a batch's features to real ones (Li et al. 2015, eq. 5), unbiased.

    With the cubic kernel of KID, on features of a frozen network (dos Santos et al. 2019) that are
    scaled to unit spread of the real ones [ours]. Real features are remembered over many batches.

    Args:
        length: F of the features.
        capacity: real images remembered, the latest ones.
        least: real images below which nothing is asked for.
    """

    memory: Tensor  # [capacity, F], latest first
    remembered: Tensor  # []

    def __init__(self, length: int, capacity: int = 1024, least: int = 256) -> None:
        super().__init__()
        self.least = least
        self.register_buffer("memory", torch.zeros(capacity, length))
        self.register_buffer("remembered", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def remember(self, features: Tensor, draws: Draws) -> None:
        """Add features [N, F] of real images, of all devices."""
        new = gathered(features, draws).to(self.memory)
        self.memory.copy_(torch.cat([new, self.memory])[: len(self.memory)])
        self.remembered.add_(len(new)).clamp_(max=len(self.memory))

    def forward(self, features: Tensor, draws: Draws) -> Tensor:
        """Return the distance [] of features [N, F] of generated images, up to a constant.

        On several devices its gradients, once averaged over them, are those of the whole batch.
        """
        real = self.memory[: int(self.remembered)]
        if len(real) < self.least:
            return features.new_zeros(())
        mean, std = real.mean(0), real.std(0) + 1e-4  # some channels are always 0
        own, real = (features - mean) / std, (real - mean) / std
        every = gathered(own.detach(), draws)
        n = len(own)
        others = torch.cat([every[: draws.rank * n], every[(draws.rank + 1) * n :]])
        alone = kernel(own, own)
        # Pairs with another device's image are counted there once more, without this gradient.
        pairs = alone.sum() - alone.diagonal().sum() + 2 * kernel(own, others).sum()
        within = draws.world_size * pairs / (len(every) * (len(every) - 1))
        return within - 2 * kernel(own, real).mean()


def kernel(a: Tensor, b: Tensor) -> Tensor:
    """Return (a^T b / F + 1)^3 of features a [N, F] and b [M, F], [N, M]."""
    return (a @ b.T / a.shape[1] + 1) ** 3


def gathered(x: Tensor, draws: Draws) -> Tensor:
    """Return the rows [N world_size, F] of all devices, in order, without their graph."""
    if draws.world_size == 1:
        return x
    parts = [torch.empty_like(x) for _ in range(draws.world_size)]
    torch.distributed.all_gather(parts, x.contiguous())
    return torch.cat(parts)
