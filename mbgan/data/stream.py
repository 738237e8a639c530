"""The training images as an endless stream of shuffled batches."""

import os
import random
from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from mbgan.images import Rows
from mbgan.latents import Draws, seed_of

# Before anybody imports albumentations, which asks pypi.org for news else; Hydra imports it
# after this module, for the transforms of a config.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")


def turn(x: Tensor, pose: Tensor) -> Tensor:
    """Return each image in one of the eight poses of the square (the dihedral group D4).

    Args:
        x: images [N, C, H, W] with H = W.
        pose: [N], 0..7; bit 0 mirrors left-right, bit 1 top-bottom, bit 2 swaps the axes.
    """
    out = torch.empty_like(x)
    for image, result, bits in zip(x, out, pose.tolist(), strict=True):
        if bits & 1:
            image = image.flip(2)
        if bits & 2:
            image = image.flip(1)
        result.copy_(image.transpose(1, 2) if bits & 4 else image)
    return out


class BatchStream(IterableDataset[tuple[Tensor, Tensor]]):
    """Epochs of shuffled images laid end to end, cut into batches; it never ends.

    The stream is a function of the seed: whoever knows how many images were drawn can go on from
    there, with any batch size, number of devices or of worker processes. Every image comes once
    per epoch; a batch may reach over the end of one.

    Args:
        images: training images, with their conditions.
        batch_size: images of a batch over all devices.
        seed: of the order, the poses and the transforms.
        start: images drawn already.
        d4: turn and mirror each image at random: tissue has no upright.
        rank: this process; it gets its own rows of each batch.
        world_size: number of processes; must divide batch_size.
        transforms: of albumentations, applied in turn to each image [S, S, 3], uint8, before d4;
            what they draw depends on the seed and on the image's place in the stream alone.

    Raises:
        ValueError: if a transform is none of albumentations, or images come out in another form.
    """

    def __init__(
        self,
        images: Rows,
        batch_size: int,
        seed: int,
        start: int = 0,
        d4: bool = True,
        rank: int = 0,
        world_size: int = 1,
        transforms: Sequence[Any] = (),
    ) -> None:
        assert batch_size % world_size == 0, "MagnificationDataModule checks this"
        self.images, self.batch_size, self.seed, self.start = images, batch_size, seed, start
        self.d4, self.rank, self.world_size = d4, rank, world_size
        self.compose = _compose(transforms) if transforms else None
        self.transform(images[:1], [start])  # a transform that does not fit fails here

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield this rank's n = batch_size / world_size rows of each batch.

        Images [n, 3, S, S], uint8, and the numbers [n] of their conditions, int64.
        """
        worker = get_worker_info()
        first, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        for i in count(first, stride):
            yield self.batch(self.start + i * self.batch_size)

    def batch(self, position: int) -> tuple[Tensor, Tensor]:
        """Return this rank's rows of the batch that begins after `position` images."""
        n = self.batch_size // self.world_size
        items = range(position + self.rank * n, position + (self.rank + 1) * n)
        rows = self.rows(items)
        originals = self.images[rows]  # fancy indexing copies, also from a memory map
        x = torch.from_numpy(self.transform(originals, items))
        if self.d4:
            draws = Draws(self.seed, position, self.rank, self.world_size)
            x = turn(x, (draws.uniform("d4", n) * 8).long())
        return x, torch.from_numpy(self.images.conditions[rows])

    def rows(self, items: Iterable[int]) -> list[int]:
        """Return which of the images stand at these places in the stream."""
        return [self._index(item) for item in items]

    def transform(self, x: NDArray[np.uint8], items: Iterable[int]) -> NDArray[np.uint8]:
        """Return images x [N, 3, S, S], uint8, transformed as at these places in the stream.

        Raises:
            ValueError: if images come out in another form.
        """
        if self.compose is None:
            return x
        out = np.empty_like(x)
        for before, after, item in zip(x, out, items, strict=True):
            seed = seed_of(self.seed, "transforms", item)
            # Not set_random_seed, which gives all transforms the same numbers: of two at p=0.5
            # either both would be applied or none.
            self.compose.set_random_state(np.random.default_rng(seed), random.Random(seed))  # noqa: S311 - no secret
            image = np.ascontiguousarray(np.moveaxis(before, 0, -1))  # [S, S, 3]
            result = self.compose(image=image)["image"]
            if result.shape != image.shape or result.dtype != np.uint8:
                raise ValueError(
                    f"transforms must return images {list(image.shape)}, uint8, got "
                    f"{list(result.shape)}, {result.dtype}; add a resize to image_size, and leave "
                    "the conversion to tensors and floats out"
                )
            after[:] = np.moveaxis(result, -1, 0)
        return out

    def _index(self, item: int) -> int:
        epoch, place = divmod(item, len(self.images))
        if epoch != getattr(self, "_epoch", None):
            rng = np.random.default_rng(seed_of(self.seed, "order", epoch))
            self._epoch, self._order = epoch, rng.permutation(len(self.images))
        return int(self._order[place])


def _compose(transforms: Sequence[Any]) -> Any:
    import albumentations as A  # two seconds, which a run without transforms is spared

    for item in transforms:
        if not isinstance(item, A.BasicTransform | A.BaseCompose):
            raise ValueError(
                f"transforms must be albumentations transforms, got {item!r}; "
                "write each as _target_: albumentations.NAME"
            )
    return A.Compose(list(transforms))


def preview(stream: BatchStream, n: int, versions: int = 4) -> Tensor:
    """Return images as they are, then several versions of each as the critic may see them.

    Args:
        stream: of the training images.
        n: images to show, spread over all; at most these.
        versions: of each image.

    Returns:
        Images [(1 + versions) * m, 3, S, S], uint8, with m the lesser of n and the images there
        are: the m originals, then their first versions, and so on (a grid of m columns).
    """
    total = len(stream.images)
    rows = np.linspace(0, total - 1, min(n, total)).astype(int)
    originals = stream.images[rows]
    sheets = [torch.from_numpy(originals)]
    for version in range(versions):
        items = (rows + version * total).tolist()
        x = torch.from_numpy(stream.transform(originals, items))
        if stream.d4:
            draws = Draws(stream.seed, version)
            x = turn(x, (draws.uniform("preview", len(rows)) * 8).long())
        sheets.append(x)
    return torch.cat(sheets)
