"""How a microscope's field becomes square images: squeezed as a whole, or cut into tiles."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol


class Box(NamedTuple):
    """A part of an image, in pixels from its upper left corner."""

    x: int
    y: int
    width: int
    height: int


class Fields(Protocol):
    """What `mbgan.data.inspection` needs to know of large fields."""

    def boxes(self, width: int, height: int) -> Sequence[Box]:
        """Return the parts of an image that become images of the data set; none if too small."""


@dataclass(frozen=True)
class Squash:
    """The whole field becomes one image; the sides' ratio is given up (sec. III.B)."""

    def boxes(self, width: int, height: int) -> list[Box]:
        """Return the one box that holds everything."""
        return [Box(0, 0, width, height)]


@dataclass(frozen=True)
class Tile:
    """The field is cut into squares, which keep the sides' ratio.

    The grid is centered; what is left at the edges is under one stride and is left out.

    Args:
        size: side of a tile in pixels of the original.
        stride: from one tile to the next, in the same pixels; less than size makes tiles overlap.

    Raises:
        ValueError: if a number is out of range.
    """

    size: int
    stride: int

    def __post_init__(self) -> None:
        for name in ("size", "stride"):
            if getattr(self, name) < 1:
                raise ValueError(f"fields.{name} must be at least 1, got {getattr(self, name)}")

    def boxes(self, width: int, height: int) -> list[Box]:
        """Return the tiles, row by row."""
        return [
            Box(x, y, self.size, self.size)
            for y in self._starts(height)
            for x in self._starts(width)
        ]

    def _starts(self, side: int) -> range:
        rest = side - self.size  # how far the last tile may begin
        return range(rest % self.stride // 2, rest + 1, self.stride)
