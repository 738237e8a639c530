"""Stain of H&E images: measured, and brought to that of one target image.

Density is natural optical density: -ln of the share of the light that the stained tissue lets
through. The light is read from each image, as its clearest parts: torchstain assumes 240, and most
of 1,331 real images are off by more than 15 levels, so that their glass would count as tissue.
"""

import math
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from torchstain.numpy.normalizers import NumpyMacenkoNormalizer

Levels = NDArray[np.floating]  # [H, W, 3], 0..255

WHITE = 240  # level of clear glass in normalized images; it and the + 1 below are torchstain's
# Least mean density of tissue: the length of gray at ln(10) * 0.15, Macenko's. torchstain's 0.15
# in every channel leaves 1 % of a bluish section. Between GLASS and TISSUE the normalized colors
# fade in, so that no seam shows.
GLASS, TISSUE = 0.1, 0.2
MIN_TISSUE = 0.01  # share of the pixels
MIN_PIXELS = 100  # of tissue, so that the percentiles 1 and 99 mean something
MIN_ANGLE = 5.0  # degrees between two stains; the noise of JPEG makes up to 4 of one
MEASURED = 256 * 256  # pixels at most; of larger images every k-th row and column
CANDIDATES = 2048  # for the medoid, at most: their distances take 34 MB


class NoStain(ValueError):
    """An image in which two stains cannot be told apart; its message is the reason."""


class Normalizer(Protocol):
    """Brings the stain of images to that of a target, and their light to white."""

    def fit(self, target: NDArray[np.uint8]) -> None:
        """Take the stain of target [H, W, 3]; raises NoStain if it has none."""

    def __call__(self, rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return rgb [H, W, 3] in the target's stain; raises NoStain if it has none of its own."""


class Identity:
    """Leaves every image as it is."""

    def fit(self, target: NDArray[np.uint8]) -> None:
        """Take nothing from the target."""

    def __call__(self, rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return rgb itself."""
        return rgb


class Macenko:
    """Unmixes hematoxylin and eosin, and mixes the target's in their place (Macenko et al. 2009).

    Follows torchstain's normalizer: what the two stains do not explain is left out, and the 99th
    percentile of each stain's amount is brought to the target's. Here that is of tissue alone, so
    that the glass around it makes no difference.
    """

    def __init__(self) -> None:
        self._colors: NDArray[np.float64] | None = None

    def fit(self, target: NDArray[np.uint8]) -> None:
        """Take the stains of target [H, W, 3]; raises NoStain if it has none."""
        self._colors = stain_colors(target)

    def __call__(self, rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return rgb [H, W, 3] in the target's stains; raises NoStain if it has none of its own."""
        assert self._colors is not None, "fit comes first"
        lit = _relight(rgb)
        density = _density(lit) @ (np.linalg.pinv(stain_colors(rgb)) @ self._colors)
        return _spare_glass(lit, WHITE * np.exp(-np.maximum(density, _density(255))) - 1)


class Reinhard:
    """Gives tissue the target's mean and spread in CIELAB (Reinhard et al. 2001, eqs. 10 and 11).

    Follows torchstain's normalizer, which has CIELAB for the paper's l-alpha-beta. Here mean and
    spread are of tissue alone, and an image without two stains is refused, as its single color
    would be stretched over both.
    """

    def __init__(self) -> None:
        self._moments: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None

    def fit(self, target: NDArray[np.uint8]) -> None:
        """Take the colors of target [H, W, 3]; raises NoStain if it has no two stains."""
        stain_colors(target)
        lit = _relight(target)
        self._moments = _moments(_lab(lit), lit)

    def __call__(self, rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return rgb [H, W, 3] in the target's colors; raises NoStain if it has no two stains."""
        assert self._moments is not None, "fit comes first"
        stain_colors(rgb)
        lit = _relight(rgb)
        lab = _lab(lit)
        (mean, spread), (to_mean, to_spread) = _moments(lab, lit), self._moments
        lab = (lab - mean) / spread * to_spread + to_mean
        return _spare_glass(lit, 255 * np.asarray(cv2.cvtColor(lab, cv2.COLOR_LAB2RGB), float))


def stain_colors(rgb: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the optical densities [2, 3] of the strongest hematoxylin and the strongest eosin.

    Each is the stain's unit vector of R, G and B, as torchstain finds it (Macenko et al. 2009),
    times the 99th percentile of its amount over the tissue. Densities are natural logarithms.

    Args:
        rgb: image [H, W, 3]; hematoxylin is the stain that absorbs more red.

    Raises:
        NoStain: if the image is nearly blank, or has one stain only.
    """
    step = math.ceil(math.sqrt(rgb.shape[0] * rgb.shape[1] / MEASURED))
    pixels = _relight(rgb[::step, ::step]).reshape(-1, 3)
    tissue = pixels[_density(pixels).mean(1) >= TISSUE]
    if len(tissue) < max(MIN_PIXELS, MIN_TISSUE * len(pixels)):
        raise NoStain(f"blank: tissue on {len(tissue)} of {len(pixels)} pixels")
    macenko = NumpyMacenkoNormalizer()
    macenko.fit(tissue[None], Io=WHITE, alpha=1, beta=-np.inf)  # tissue is chosen above
    vectors = macenko.HERef.T
    angle = np.degrees(np.arccos(np.clip(vectors[0] @ vectors[1], -1, 1)))
    if angle < MIN_ANGLE:
        raise NoStain(f"one stain: colors {angle:.1f} degrees apart, under {MIN_ANGLE:g}")
    return vectors * macenko.maxCRef[:, None]


def stain_vectors(rgb: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return unit vectors of optical density [2, 3], hematoxylin first; see `stain_colors`."""
    colors = stain_colors(rgb)
    return colors / np.linalg.norm(colors, axis=1, keepdims=True)


def medoid(colors: NDArray[np.float64]) -> int:
    """Return the index of the image whose stain is nearest to that of all others.

    The sum of its distances is least, so a few odd images do not draw it to them. Does not depend
    on the order of images. Of more than 2,048 it compares an even choice.

    Args:
        colors: `stain_colors` [N, 2, 3]; rows of NaN, images without stain, are left out.

    Raises:
        NoStain: if no image has stain.
    """
    flat = colors.reshape(len(colors), -1)  # [N, 6]
    stained = np.flatnonzero(np.isfinite(flat).all(1))
    if not len(stained):
        raise NoStain(f"none of {len(colors)} images has two stains; set stain=none")
    # Sorted, so that ties and rounding do not depend on the order either.
    stained = stained[np.lexsort(flat[stained].T)]
    stained = stained[:: math.ceil(len(stained) / CANDIDATES)]
    return int(stained[cdist(flat[stained], flat[stained]).sum(1).argmin()])


def _relight(rgb: NDArray[np.uint8]) -> Levels:
    """Return rgb [H, W, 3] as under white light: with the 99th percentile of each channel WHITE."""
    light = np.percentile(rgb, 99, axis=(0, 1))
    return (rgb + 1.0) * (WHITE / (light + 1)) - 1


def _density(lit: Levels | float) -> NDArray[np.floating]:
    return -np.log((np.asarray(lit) + 1) / WHITE)


def _lab(lit: Levels) -> NDArray[np.float32]:
    return np.asarray(cv2.cvtColor((lit / 255).astype(np.float32), cv2.COLOR_RGB2LAB), np.float32)


def _moments(
    lab: NDArray[np.float32], lit: Levels
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    tissue = lab[_density(lit).mean(-1) >= TISSUE]
    return tissue.mean(0), tissue.std(0)


def _spare_glass(lit: Levels, normalized: Levels) -> NDArray[np.uint8]:
    """Return normalized where there is tissue, lit where there is none, mixed between the two."""
    tissue = np.clip((_density(lit).mean(-1, keepdims=True) - GLASS) / (TISSUE - GLASS), 0, 1)
    return np.clip(np.rint(lit + tissue * (normalized - lit)), 0, 255).astype(np.uint8)
