"""Numbers that change with the run: functions of the images seen by the critic."""

import math
from collections.abc import Callable
from dataclasses import dataclass

Schedule = Callable[[float], float]  # images seen -> value


@dataclass(frozen=True)
class Constant:
    """The same value all along."""

    value: float

    def __call__(self, images: float) -> float:
        """Return the value."""
        return self.value


@dataclass(frozen=True)
class Halving:
    """Exponential decay from start, halved over every half_life images.

    Raises:
        ValueError: if half_life is not positive.
    """

    half_life: float
    start: float = 1.0

    def __post_init__(self) -> None:
        if not self.half_life > 0:
            raise ValueError(f"half_life must be over 0 images, got {self.half_life}")

    def __call__(self, images: float) -> float:
        """Return the value after so many images."""
        return self.start * 0.5 ** (images / self.half_life)


@dataclass(frozen=True)
class Cosine:
    """Half a cosine from start to end over so many images, then end (as in Huang et al. 2024).

    Raises:
        ValueError: if images is not positive.
    """

    start: float
    end: float
    images: float

    def __post_init__(self) -> None:
        if not self.images > 0:
            raise ValueError(f"the images of a schedule must be over 0, got {self.images}")

    def __call__(self, images: float) -> float:
        """Return the value after so many images."""
        share = min(images / self.images, 1)
        return self.end + (self.start - self.end) * (1 + math.cos(math.pi * share)) / 2
