"""What can be wrong with a picture itself: measures of one image, and checks that judge them."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

log = logging.getLogger(__name__)

MEASURES = (
    "background",
    "contrast",
    "sharpness",
    "dark",
    "bright",
    "saturated",
    "colorfulness",
    "swapped",
)
WORKING_SIDE = 256  # px; larger images are shrunk to the area of this square, smaller ones stay
MIN_FOR_MEDIAN = 20  # images; the median of fewer moves with every image


@dataclass(frozen=True)
class Check:
    """A limit on one measure, and what becomes of the images beyond it.

    Args:
        measure: one of `MEASURES`, or "min_side", the shorter side in px.
        verdict: warn keeps the image and says so; drop leaves it out.
        above: flag values greater than this.
        below: flag values less than this.
        relative: divide by the median of the image's magnification first.

    Raises:
        ValueError: if measure or verdict is unknown, or not exactly one limit is given.
    """

    measure: str
    verdict: Literal["warn", "drop"]
    above: float | None = None
    below: float | None = None
    relative: bool = False

    def __post_init__(self) -> None:
        known = (*MEASURES, "min_side")
        if self.measure not in known:
            raise ValueError(
                f"the measure of a check must be one of {', '.join(known)}, got {self.measure!r}"
            )
        if self.verdict not in ("warn", "drop"):
            raise ValueError(f"the verdict of a check must be warn or drop, got {self.verdict!r}")
        if (self.above is None) == (self.below is None):
            raise ValueError(
                "a check must have one limit, above or below, "
                f"got above={self.above} and below={self.below} for {self.measure}"
            )

    @property
    def rule(self) -> str:
        """What the check says, in words: "sharpness under 0.6 of the median"."""
        limit = f"over {self.above:g}" if self.above is not None else f"under {self.below:g}"
        return f"{self.measure} {limit}" + (" of the median" if self.relative else "")


class Finding(NamedTuple):
    """Why a check flagged an image, and what the check asks for."""

    reason: str
    verdict: Literal["warn", "drop"]


def judge(table: pd.DataFrame, checks: Mapping[str, Check]) -> list[list[Finding]]:
    """Return each row's findings, in the order of the checks; a measure that is NaN gives none.

    A relative check says nothing of a magnification with fewer than 20 measured images; it logs
    so.

    Args:
        table: a row an image, with the columns magnification, width and height (px, 0 if
            unreadable) and those of `MEASURES` that the checks name.
        checks: by name, which begins the reason.
    """
    findings: list[list[Finding]] = [[] for _ in range(len(table))]
    for name, check in checks.items():
        values = _values(table, check)
        if check.relative:
            values = values / _medians(values, table["magnification"], name)
        if check.above is not None:
            flagged, limit = values > check.above, f"over {check.above:g}"
        else:
            flagged, limit = values < check.below, f"under {check.below:g}"
        of = " of the median" if check.relative else ""
        for row in np.flatnonzero(flagged):
            text = f"{name} ({check.measure} {values.iloc[row]:.3g}{of}, {limit})"
            findings[row].append(Finding(text, check.verdict))
    return findings


def _values(table: pd.DataFrame, check: Check) -> pd.Series:
    if check.measure == "min_side":
        sides = table[["width", "height"]].min(axis=1)
        return sides.where(sides > 0)
    return table[check.measure]


def _medians(values: pd.Series, magnifications: pd.Series, name: str) -> pd.Series:
    """Return the median of each row's magnification, NaN where too few values make one."""
    groups = values.groupby(magnifications)
    counts = groups.count()
    for magnification, n in counts[counts < MIN_FOR_MEDIAN].items():
        log.warning(
            "the check %s is left out at %s: its median needs %d images, got %d",
            *(name, magnification or "unknown magnification", MIN_FOR_MEDIAN, n),
        )
    return groups.transform("median").where(groups.transform("count") >= MIN_FOR_MEDIAN)


def measure(rgb: NDArray[np.uint8]) -> dict[str, float]:
    """Return the `MEASURES` of an image [H, W, 3], RGB, shrunk by area to 256 x 256 px or less.

    Densities are optical, to base e. Measures of tissue are NaN where that is under 1 % of the
    image, or without a structure to measure.

    - background: share of pixels that are near-white, in [0, 1].
    - contrast: density of the darkest percent minus that of the lightest, noise smoothed away.
    - sharpness: how much steeper the edges are than after a Gaussian blur of 2 px, across their
      softest direction; 0 where that blur changes nothing. Depends on tissue and optics.
    - dark: share of pixels of which no channel reaches 80, a third of white.
    - bright: share of the stained tissue with a channel clipped at white.
    - saturated: share of pixels with a channel clipped at black while another is above 100.
    - colorfulness: of the tissue, 0 for grays (Hasler & Suesstrunk 2003, SPIE 5007:87, M3).
    - swapped: growth of blue minus red density with the total. Negative in H&E, where the darkest
      is hematoxylin, which absorbs red; positive if red and blue are swapped.
    """
    height, width = rgb.shape[:2]
    if (shrink := WORKING_SIDE / (height * width) ** 0.5) < 1:
        size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
        rgb = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
    channels = np.ascontiguousarray(np.moveaxis(rgb, -1, 0))  # [3, H, W]
    lightest, darkest = channels.max(0), channels.min(0)  # [H, W]
    light = np.percentile(channels[:, ::2, ::2], 99, axis=(1, 2), keepdims=True)  # [3, 1, 1]
    densities = np.log((light + 1).astype(np.float32) / (channels + np.float32(1)))  # [3, H, W]
    # Macenko et al. 2009 (ISBI, p. 1107) take under 0.15 for unstained. The light may have a
    # color, but where it is below 200 the whole image may be tissue: 172 = 200 exp(-0.15).
    tissue = (densities.max(0) >= 0.15) | (darkest < 172)
    # The offset keeps noise in the black from counting as contrast.
    density = -np.log((cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY) + np.float32(8)) / 263)  # [H, W]
    low, high = np.percentile(cv2.GaussianBlur(density, (0, 0), 2)[::2, ::2], [1, 99])
    measures = {
        "background": 1 - tissue.mean(),
        "contrast": high - low,
        "dark": (lightest < 80).mean(),
        "saturated": ((darkest <= 3) & (lightest > 100)).mean(),
    }
    some = np.zeros_like(tissue)  # enough for colors, in a quarter of the time
    some[::2, ::2] = tissue[::2, ::2]
    if tissue[::2, ::2].mean() >= 0.01:
        stains = densities[:, some]  # [3, N]
        measures |= {
            "sharpness": _sharpness(density, tissue),
            "bright": _bright(lightest[some], stains),
            "colorfulness": _colorfulness(channels[:, some]),
            "swapped": _swapped(stains),
        }
    return {name: float(measures.get(name, np.nan)) for name in MEASURES}


def _sharpness(density: NDArray[np.float32], tissue: NDArray[np.bool_]) -> float:
    """Return the least ratio, less 1, of fine to coarse slope over four directions.

    Slopes of optical density do not depend on exposure, nor their ratio on staining; the steepest
    twentieth are edges, whatever the tissue. Motion blurs one direction and leaves the others.
    """
    near = cv2.dilate(tissue.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
    (fine_x, fine_y), (coarse_x, coarse_y) = (_slopes(density, s)[:, near] for s in (0.7, 2.0))
    ratios = []
    for angle in np.arange(4) * np.pi / 4:
        x, y = np.float32(np.cos(angle)), np.float32(np.sin(angle))
        fine, coarse = (x * fine_x + y * fine_y) ** 2, (x * coarse_x + y * coarse_y) ** 2  # [N]
        steep = fine >= np.percentile(fine, 95)
        if (total := coarse[steep].sum()) > 1e-6:
            ratios.append(np.sqrt(fine[steep].sum() / total) - 1)
    return min(ratios, default=np.nan)


def _slopes(image: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    smooth = cv2.GaussianBlur(image, (0, 0), sigma)
    return np.stack([cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1)])


def _bright(lightest: NDArray[np.uint8], densities: NDArray[np.float32]) -> float:
    stained = densities.max(0) > 0.2  # not the pale glow of a tinted light
    return (lightest[stained] >= 252).mean() if stained.any() else np.nan


def _colorfulness(channels: NDArray[np.uint8]) -> float:
    red, green, blue = channels.astype(np.float32)
    opponents = np.stack([red - green, (red + green) / 2 - blue])  # [2, N]
    return float(np.linalg.norm(opponents.std(1)) + 0.3 * np.linalg.norm(opponents.mean(1)))


def _swapped(densities: NDArray[np.float32]) -> float:
    red, green, blue = densities
    total = densities.sum(0)
    # Keratin, muscle and blood, deep in eosin, hold little red density, swapped or not. Each of
    # the two limits keeps hematoxylin and leaves out tissue that the other keeps.
    limits = (green <= 1.75 * np.maximum(red, blue), green <= 3 * np.minimum(red, blue))
    return float(np.min([_slope((blue - red)[kept], total[kept]) for kept in limits]))


def _slope(y: NDArray[np.float32], x: NDArray[np.float32]) -> float:
    """Return that of the regression line, NaN where x hardly differs."""
    if len(x) < 16 or x.var() < 1e-6:
        return np.nan
    return float(np.mean(y * (x - x.mean())) / x.var())
