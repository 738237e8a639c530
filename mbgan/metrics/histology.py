"""What a pathologist asks of an image: its stain, its glass, its sharpness, its nuclei.

`measure` turns images into one number per image and statistic, `compare` sets those of fakes
beside those of reals. How nuclei are found, and how far to believe them, is in
`mbgan.metrics.nuclei`. Densities are natural optical densities under the light of each image.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from joblib import Parallel, delayed
from numpy.typing import NDArray
from scipy import ndimage
from scipy.stats import wasserstein_distance

from mbgan.latents import seed_of
from mbgan.metrics.floor import halves
from mbgan.metrics.nuclei import (
    MIN_TISSUE,
    TISSUE,
    TO_AMOUNTS,
    arrays_of,
    check_images,
    light_of,
    optical_density,
    segment,
    shapes,
)

STATISTICS = {
    "light": "level of the clearest parts, mean of the channels, 0..255",
    "background": "share of the image that is glass",
    "gaps": "share of the image that is glass closed in by tissue",
    "hematoxylin": "mean amount in tissue, optical density along the stain's vector",
    "eosin": "mean amount in tissue, optical density along the stain's vector",
    "hue": "of the mean tissue, degrees from 90 to 450: 240 is blue, 300 purple, 360 red",
    "spectrum_slope": "of log power over log frequency; about -2 in nature, 0 is noise",
    "high_frequency": "log10 of the share of energy above 3/4 of the highest frequency",
    "nuclei": "number in the image",
    "nuclear_density": "nuclei per 10,000 px of tissue",
    "nuclear_area": "median, px",
    "eccentricity": "median of the nuclei; 0 is a circle, 1 a line",
    "nc_ratio": "nuclear-cytoplasmic ratio: nuclear area over tissue area",
}
Values = NDArray[np.float64]  # [N], nan where an image has no such statistic


def measure(images: torch.Tensor, nucleus_px: float, jobs: int = 1) -> dict[str, Values]:
    """Return each of STATISTICS of each image [N].

    An image has nan where it has no answer: everywhere if it is constant or black; stain, hue,
    density and nuclear-cytoplasmic ratio if tissue is on under 1 % of it (of white images
    background is 1 and nuclei are 0); area and eccentricity if no nucleus is whole.

    Args:
        images: [N, 3, H, W], uint8, at least 64 px a side.
        nucleus_px: diameter of a usual nucleus, px: from `typical_nucleus` of the real images, or
            7 um over their um per pixel. The same for reals and fakes.
        jobs: processes; -1 for all cores.

    Raises:
        ValueError: if the images are no such images, or nucleus_px is under 2.
    """
    check_images(images)
    if not nucleus_px >= 2:
        raise ValueError(
            f"nucleus_px must be at least 2 px, got {nucleus_px}; smaller nuclei cannot be told "
            "apart: use larger images or a higher magnification"
        )
    rows = Parallel(n_jobs=jobs)(delayed(_measure)(rgb, nucleus_px) for rgb in arrays_of(images))
    return {name: np.array([row.get(name, np.nan) for row in rows]) for name in STATISTICS}


def compare(
    real: Mapping[str, Values],
    fake: Mapping[str, Values],
    groups: Sequence[str] | None = None,
    resamples: int = 1000,
    floor_splits: int = 20,
) -> dict[str, dict[str, Any]]:
    """Return how far the fakes' distribution of each statistic is from the reals'.

    `value` is the 1-D Wasserstein distance, the mean way by which sorted values differ, in
    standard deviations of the reals. `interval` holds 95 % of its bootstrap; as a resampled
    distance is larger on average, it is moved back by that. `floor` is what halves of the reals
    score against each other: a value within its range at n_each images says nothing.

    Args:
        real: `measure` of real images, at least 2.
        fake: `measure` of fakes, at least 2, with the same nucleus_px.
        groups: of each real image, such as its patient. They are drawn, and split, whole; without
            them images are taken as independent, and intervals are too narrow where several come
            from one patient. Fakes are independent.
        resamples: of the bootstrap.
        floor_splits: random splits of the reals in two.

    Returns:
        By statistic: value, interval, interval_over, n_real, n_fake, and floor where there are
        two groups to split. A statistic that cannot be compared has its reason instead.

    Raises:
        ValueError: if a side has under 2 images, or there is not one group per real image.
    """
    n_real, n_fake = (len(next(iter(side.values()))) for side in (real, fake))
    if min(n_real, n_fake) < 2:
        raise ValueError(
            f"statistics need at least 2 images on each side, got n_real={n_real}, n_fake={n_fake}"
        )
    if groups is not None and len(groups) != n_real:
        raise ValueError(f"groups must name each of {n_real} real images, got {len(groups)} names")
    names = np.arange(n_real) if groups is None else np.unique(groups, return_inverse=True)[1]
    over = "images" if groups is None else "patients"
    result: dict[str, dict[str, Any]] = {}
    for name, values in real.items():
        kept = np.isfinite(values)
        order = np.lexsort((names[kept], values[kept]))  # so that the order of images is no matter
        x, y = values[kept][order], np.sort(fake[name][np.isfinite(fake[name])])
        of = np.arange(len(x)) if groups is None else names[kept][order]
        result[name] = {"n_real": len(x), "n_fake": len(y)}
        if min(len(x), len(y)) < 2:
            reason = "under 2 images on a side have it: the others are blank or without nuclei"
            result[name] |= {"reason": reason}
        elif np.ptp(x) == 0:
            result[name] |= {"reason": f"all real images have {x[0]:g}: no spread to compare with"}
        else:
            distances = _Distances(x, y, of)
            result[name] |= distances.scores(resamples, floor_splits) | {"interval_over": over}
    return result


class _Distances:
    """Wasserstein distances of real values x [n] in groups [n] and fake values y [m]."""

    def __init__(self, x: Values, y: Values, groups: NDArray[np.intp]) -> None:
        self.x, self.y, self.groups, self.scale = x, y, groups, x.std()

    def scores(self, resamples: int, floor_splits: int) -> dict[str, Any]:
        value = self._between(self.x, self.y)
        drawn = np.array([self._between(*pair) for pair in self._resampled(resamples)])
        low, high = np.percentile(drawn, [2.5, 97.5]) - drawn.mean() + value
        result: dict[str, Any] = {"value": value, "interval": [max(0.0, float(low)), float(high)]}
        split = list(halves(self.groups, len(self.x) // 2, floor_splits))  # type: ignore[arg-type]
        if split:
            floor = [self._between(self.x[a], self.x[b]) for a, b in split]
            parts = halves(list(map(str, range(len(self.y)))), len(self.y) // 2, floor_splits)
            of_fakes = [
                self._between(self.x[a], self.y[c])
                for (a, _), (c, _) in zip(split, parts, strict=False)
            ]
            n_each = min(len(a) for a, _ in split)
            result["floor"] = {"mean": float(np.mean(floor)), "range": [min(floor), max(floor)]}
            result["floor"] |= {"n_each": n_each, "splits": len(split)}
            if of_fakes:
                result["floor"]["of_fakes"] = float(np.mean(of_fakes))
        return result

    def _between(self, x: Values, y: Values) -> float:
        return float(wasserstein_distance(x, y) / self.scale)

    def _resampled(self, times: int) -> list[tuple[Values, Values]]:
        rng = np.random.default_rng(seed_of("histology"))
        parts = [self.x[self.groups == group] for group in np.unique(self.groups)]
        pairs = []
        for _ in range(times):
            chosen = rng.integers(len(parts), size=len(parts))
            x = np.concatenate([parts[i] for i in chosen])
            pairs.append((x, self.y[rng.integers(len(self.y), size=len(self.y))]))
        return pairs


def _measure(rgb: NDArray[np.uint8], nucleus_px: float) -> dict[str, float]:
    density = optical_density(rgb)
    if density is None:
        return {}
    tissue = density.mean(2) > TISSUE
    row = {
        "light": float(light_of(rgb).mean()),
        "background": 1 - tissue.mean(),
        "gaps": (ndimage.binary_fill_holes(tissue) & ~tissue).mean(),
        **_spectrum(rgb),
        "nuclei": 0.0,
    }
    if tissue.mean() < MIN_TISSUE:
        return row
    mean = density[tissue].mean(0)  # [3]
    row["hematoxylin"], row["eosin"] = mean @ TO_AMOUNTS
    red, green, blue = np.exp(-mean)
    # Cut where H&E has no color, so that no red lies at both ends.
    hue = np.degrees(np.arctan2(3**0.5 * (green - blue), 2 * red - green - blue))
    row["hue"] = (hue - 90) % 360 + 90
    label = segment(density, tissue, nucleus_px)
    row["nuclei"] = float(label.max())
    row["nuclear_density"] = row["nuclei"] / tissue.sum() * 1e4
    # Cell borders do not show in H&E, so that tissue stands for the cells. This is the ratio of
    # cytology, nuclear over whole cell, in [0, 1] (Vaickus & Tambouret 2015, Cancer Cytopathol
    # 123:524), not nuclear over cytoplasmic area, which has no bound where cells press.
    row["nc_ratio"] = (label > 0).sum() / tissue.sum()
    area, eccentricity = shapes(label)
    if len(area):
        row["nuclear_area"] = float(np.median(area))
        row["eccentricity"] = float(np.median(eccentricity))
    return row


def _spectrum(rgb: NDArray[np.uint8]) -> dict[str, float]:
    """Return slope and top of the radial power spectrum (Durall et al. 2020, CVPR, eqs. 2 and 3).

    The top holds the corners of the plane of frequencies too, where a checkerboard lies.
    """
    gray = rgb.mean(2)
    window = np.outer(*(np.hanning(side + 2)[1:-1] for side in gray.shape))  # no seam at borders
    gray = (gray - np.average(gray, weights=window)) * window
    power = np.abs(np.fft.fft2(gray)) ** 2
    radius = 2 * np.hypot(*np.meshgrid(*map(np.fft.fftfreq, gray.shape), indexing="ij"))  # Nyquist
    side = min(gray.shape)
    ring = np.rint(radius * side / 2).astype(int)  # periods per image
    mean = np.bincount(ring.ravel(), power.ravel()) / np.maximum(np.bincount(ring.ravel()), 1)
    rings = np.arange(4, side // 2)  # below 4 the window blurs
    slope = np.polyfit(np.log(rings), np.log(mean[rings] + 1e-12), 1)[0]
    share = power[radius >= 0.75].sum() / power.sum()
    return {"spectrum_slope": float(slope), "high_frequency": float(np.log10(share + 1e-12))}
