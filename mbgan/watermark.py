"""An invisible mark in pixels: this image was generated.

A tile of noise, known by its key, is repeated over the image and added to its brightness (spread
spectrum; Cox et al. 1997). Its waves are 3 to 10 pixels long: shorter ones JPEG removes, longer
ones show. The detector folds an image onto one tile and looks at the phases of those waves alone
(Kuglin & Hines 1975), at every shift, since a crop moves the tiles. Of an unmarked image phases
have nothing to do with the key, so false alarms are as rare as among random numbers, whatever
the image shows. Nothing here resists scaling, turning, or somebody who knows the key.

Needs numpy and Pillow alone.
"""

import hashlib
import io
from bisect import bisect_left
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

TILE = 32  # px
BAND = 0.1, 0.32  # cycles a pixel
THRESHOLD = 5.3  # standard deviations; of 1,024 shifts of noise the highest is above once in 10^4
CLEAR = 8.0  # what an image must show after JPEG 75, so that a crop of it still shows enough
STRENGTHS = (1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0)  # levels of brightness, root mean square


@lru_cache
def _waves(key: str) -> tuple[NDArray[np.complex128], NDArray[np.bool_]]:
    """Return the tile's waves [TILE, TILE] of length 1, and which of them are in the band."""
    frequency = np.fft.fftfreq(TILE)
    radius = np.hypot(*np.meshgrid(frequency, frequency))
    inside = (radius >= BAND[0]) & (radius <= BAND[1])
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")
    noise = np.fft.fft2(np.random.default_rng(seed).standard_normal((TILE, TILE)))
    return np.where(inside, noise / np.abs(noise), 0), inside


@lru_cache(maxsize=4)
def _patterns(key: str, height: int, width: int) -> list[NDArray[np.int16]]:
    """Return what is added to an image, [H, W, 1] for each of STRENGTHS."""
    tile = np.fft.ifft2(_waves(key)[0]).real
    tile /= tile.std()
    pattern = np.tile(tile, (-(-height // TILE), -(-width // TILE)))[:height, :width, None]
    return [np.rint(level * pattern).astype(np.int16) for level in STRENGTHS]


def strength(image: NDArray[np.uint8], key: str) -> float:
    """Return how clearly an image [H, W, 3] bears the mark; above THRESHOLD it does.

    In standard deviations of what an unmarked image shows at one shift.
    """
    waves, inside = _waves(key)
    red, green, blue = (image[..., i].astype(np.float64) for i in range(3))
    light = (red + green + blue) / 3
    detail = light - _blurred(light, 9)
    detail /= np.sqrt(_blurred(detail**2, 17)) + 1  # nuclei would outshout the rest
    height, width = (-(-side // TILE) * TILE for side in light.shape)
    whole = np.zeros((height, width))
    whole[: light.shape[0], : light.shape[1]] = detail
    folded = np.fft.fft2(whole.reshape(height // TILE, TILE, width // TILE, TILE).sum((0, 2)))
    phases = np.where(inside, folded / (np.abs(folded) + 1e-12), 0)
    # Of unmarked images a sum of cosines of random angles: its variance is the number of waves.
    shifts = np.fft.ifft2(phases * waves.conj()).real * TILE**2 / np.sqrt(inside.sum())
    return float(shifts.max())


def mark(image: NDArray[np.uint8], key: str) -> NDArray[np.uint8]:
    """Return an image [H, W, 3] with the mark, as weak as will do after JPEG of quality 75.

    Found by halving, as a stronger mark is clearer.
    """
    patterns = _patterns(key, *image.shape[:2])

    def marked(level: int) -> NDArray[np.uint8]:
        return (image + patterns[level]).clip(0, 255).astype(np.uint8)

    def clear(level: int) -> bool:
        return strength(_jpeg(marked(level)), key) >= CLEAR

    weakest = bisect_left(range(len(patterns)), True, key=clear)
    return marked(min(weakest, len(patterns) - 1))


def _jpeg(image: NDArray[np.uint8], quality: int = 75) -> NDArray[np.uint8]:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def _blurred(x: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    """Return means over squares of odd side; edges are continued."""
    height, width = x.shape
    total = x.take(_places(height, side), 0).cumsum(0)
    x = (total[side:] - total[:-side]) / side
    total = x.take(_places(width, side), 1).cumsum(1)
    return (total[:, side:] - total[:, :-side]) / side


def _places(length: int, side: int) -> NDArray[np.int64]:
    return np.arange(-(side // 2) - 1, length + side // 2).clip(0, length - 1)
