"""The training images as an endless stream of shuffled batches."""

from collections.abc import Iterator
from itertools import count

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from mbgan.latents import Draws, seed_of


def turn(x: Tensor, pose: Tensor) -> Tensor:
    """Return each image in one of the eight poses of the square (the dihedral group D4).

    Args:
        x: images [N, C, H, W] with H = W.
        pose: [N], 0..7; bit 0 mirrors left-right, bit 1 top-bottom, bit 2 swaps the axes.
    """
    left_right, top_bottom, swap = (
        (pose >> bit & 1).bool()[:, None, None, None] for bit in range(3)
    )
    x = torch.where(left_right, x.flip(3), x)
    x = torch.where(top_bottom, x.flip(2), x)
    return torch.where(swap, x.transpose(2, 3), x)


class BatchStream(IterableDataset[Tensor]):
    """Epochs of shuffled images laid end to end, cut into batches; it never ends.

    The stream is a function of the seed: whoever knows how many images were drawn can go on from
    there, with any batch size, number of devices or of worker processes. Every image comes once
    per epoch; a batch may reach over the end of one.

    Args:
        images: training images [N, 3, S, S], uint8; may be memory-mapped.
        batch_size: images of a batch over all devices.
        seed: of the order and the poses.
        start: images drawn already.
        d4: turn and mirror each image at random: tissue has no upright.
        rank: this process; it gets its own rows of each batch.
        world_size: number of processes; must divide batch_size.
    """

    def __init__(
        self,
        images: NDArray[np.uint8],
        batch_size: int,
        seed: int,
        start: int = 0,
        d4: bool = True,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        assert batch_size % world_size == 0, "MagnificationDataModule checks this"
        self.images, self.batch_size, self.seed, self.start = images, batch_size, seed, start
        self.d4, self.rank, self.world_size = d4, rank, world_size

    def __iter__(self) -> Iterator[Tensor]:
        """Yield this rank's rows [batch_size / world_size, 3, S, S] of each batch, uint8."""
        worker = get_worker_info()
        first, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        for i in count(first, stride):
            yield self.batch(self.start + i * self.batch_size)

    def batch(self, position: int) -> Tensor:
        """Return this rank's rows of the batch that begins after `position` images."""
        n = self.batch_size // self.world_size
        rows = [self._index(position + self.rank * n + i) for i in range(n)]
        x = torch.from_numpy(self.images[rows])  # fancy indexing copies, also from a memory map
        if self.d4:
            draws = Draws(self.seed, position, self.rank, self.world_size)
            x = turn(x, (draws.uniform("d4", n) * 8).long())
        return x

    def _index(self, item: int) -> int:
        epoch, place = divmod(item, len(self.images))
        if epoch != getattr(self, "_epoch", None):
            rng = np.random.default_rng(seed_of(self.seed, "order", epoch))
            self._epoch, self._order = epoch, rng.permutation(len(self.images))
        return int(self._order[place])
