"""Pixel ranges, grids and PNG files: the only place that converts between [-1, 1] and uint8."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from mbgan.files import whole


def to_uint8(x: Tensor) -> Tensor:
    """Map images from [-1, 1] to 0..255, rounding to the nearest level.

    Args:
        x: images [N, 3, H, W], float, nominally in [-1, 1]; values outside are clipped.

    Returns:
        Images [N, 3, H, W], uint8.
    """
    return ((x.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def from_uint8(x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Map images [N, 3, H, W] from 0..255 to [-1, 1] (exact inverse of `to_uint8`)."""
    return x.to(dtype) / 127.5 - 1


def grid(x: Tensor, columns: int | None = None, gap: int = 2) -> Tensor:
    """Return one image [3, rows, columns] that shows all images side by side on white.

    Args:
        x: images [N, 3, H, W], uint8.
        columns: images in a row; by default the side of the smallest square that holds them.
        gap: white pixels between neighbors.
    """
    n, channels, height, width = x.shape
    columns = columns or math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    sheet = x.new_full(
        (channels, rows * (height + gap) - gap, columns * (width + gap) - gap), fill_value=255
    )
    for i, image in enumerate(x):
        top, left = i // columns * (height + gap), i % columns * (width + gap)
        sheet[:, top : top + height, left : left + width] = image
    return sheet


def save_png(image: Tensor, path: Path) -> None:
    """Write an image [3, H, W], uint8, as PNG, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as draft:
        Image.fromarray(image.permute(1, 2, 0).cpu().numpy()).save(draft, format="PNG")


class Rows:
    """Some images of an array that may be on disk; copied only when they are asked for.

    Args:
        array: images [N, 3, S, S], uint8.
        index: of these images [n].
        conditions: number [N] of each image's condition; all 0 if None.
    """

    def __init__(
        self,
        array: NDArray[np.uint8],
        index: NDArray[np.int64],
        conditions: NDArray[np.int64] | None = None,
    ) -> None:
        self.array, self.index = array, index
        everyone = np.zeros(len(array), dtype=np.int64) if conditions is None else conditions
        self.conditions = everyone[index]

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, rows: Any) -> NDArray[np.uint8]:
        """Return copies of images, given by their places here."""
        return self.array[self.index[rows]]
