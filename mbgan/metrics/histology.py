"""What a pathologist asks of an image: its stain, its glass, its sharpness, its nuclei.

`measure` turns images into one number per image and statistic, `compare` sets those of fakes
beside those of reals. Nuclei are validated on drawn images, 10x and 100x, where they are known:
on average their number is within 10 % and the nuclear-cytoplasmic ratio within 0.05. On real
images they are not: where cytoplasm holds as much hematoxylin as nuclei (deep blue epithelium),
it is cut into pieces that count as nuclei. Look at `find_nuclei` of a few before you believe them.

Densities are natural optical densities: -ln of the share of the light that tissue lets through.
The light is read from each image, as the 99th percentile of each channel (as in
`mbgan.data.stain`): an image without any glass comes out paler than it is, real or fake alike.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from joblib import Parallel, delayed
from numpy.typing import NDArray
from scipy import ndimage
from scipy.stats import wasserstein_distance
from skimage.feature import peak_local_max
from skimage.filters import threshold_otsu
from skimage.segmentation import watershed

from mbgan.latents import seed_of
from mbgan.metrics.floor import halves
from mbgan.stains import EOSIN, HEMATOXYLIN

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
SMALLEST = 64  # px a side
DARK = 32  # level below which the clearest parts of an image are no light
TISSUE = 0.15  # least mean density of tissue; between GLASS and TISSUE of mbgan.data.stain
MIN_TISSUE = 0.01  # share of the image, as in mbgan.data.stain
# Nuclei hold at least this much more hematoxylin than other tissue. Of noise that is split in two
# the parts are 0.05 apart; of the phantom's palest nuclei (Purkinje cells) and cytoplasm, 0.35.
CONTRAST = 0.2
BASIS = np.array([HEMATOXYLIN, EOSIN, np.cross(HEMATOXYLIN, EOSIN)])
TO_AMOUNTS = np.linalg.inv(BASIS / np.linalg.norm(BASIS, axis=1, keepdims=True))[:, :2]  # [3, 2]

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
    _check_images(images)
    if not nucleus_px >= 2:
        raise ValueError(
            f"nucleus_px must be at least 2 px, got {nucleus_px}; smaller nuclei cannot be told "
            "apart: use larger images or a higher magnification"
        )
    rows = Parallel(n_jobs=jobs)(delayed(_measure)(rgb, nucleus_px) for rgb in _arrays(images))
    return {name: np.array([row.get(name, np.nan) for row in rows]) for name in STATISTICS}


def typical_nucleus(images: torch.Tensor, most: int = 32) -> float:
    """Return the diameter of a usual nucleus in px, as the scale at which hematoxylin varies most.

    A disk of radius r answers strongest to the scale-normalized Laplacian at sigma = r / sqrt 2
    (Lindeberg 1998, IJCV 30:79, sec. 5). The variance of that answer over an image, relative to
    its largest and averaged over images, is greatest at the nuclei's scale. From 3 px to a
    quarter of the side; at 3 px, groups of smaller nuclei may count as one. Fine texture draws it
    down: of oral mucosa at 400x it finds 4 px where nuclei have about 11. Where um per pixel are
    known, 7 um over them is the better guess.

    Args:
        images: real ones [N, 3, H, W], uint8.
        most: an even choice of at most so many is looked at.

    Raises:
        ValueError: if the images are no such images, or none has tissue.
    """
    _check_images(images)
    chosen, answers = images[:: -(-len(images) // most)], []
    diameters = np.geomspace(3, min(images.shape[2:]) / 4, 16)
    for rgb in _arrays(chosen):
        density = _density(rgb)
        if density is None or (density.mean(2) > TISSUE).mean() < MIN_TISSUE:
            continue
        amount = (density @ TO_AMOUNTS)[..., 0]
        sigmas = diameters / 8**0.5
        answer = np.array([s * s * ndimage.gaussian_laplace(amount, s).std() for s in sigmas])
        answers.append(answer / answer.max())
    if not answers:
        raise ValueError(f"nuclei need tissue, found none in {len(chosen)} images; set nucleus_px")
    return float(diameters[np.mean(answers, axis=0).argmax()])


def find_nuclei(rgb: NDArray[np.uint8], nucleus_px: float) -> NDArray[np.int32]:
    """Return the number of the nucleus at each pixel [H, W], from 1; 0 where there is none.

    Hematoxylin is unmixed (Ruifrok & Johnston 2001) and split by Otsu's threshold within tissue.
    Peaks of the distance to the border, and a little of darkness, are one nucleus each; watershed
    gives them their pixels.

    Args:
        rgb: image [H, W, 3].
        nucleus_px: diameter of a usual nucleus, px; sets smoothing and least distance.
    """
    density = _density(rgb)
    if density is None:
        return np.zeros(rgb.shape[:2], np.int32)
    return _segment(density, density.mean(2) > TISSUE, nucleus_px)


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
            n_each = min(len(a) for a, _ in split)
            result["floor"] = {"mean": float(np.mean(floor)), "range": [min(floor), max(floor)]}
            result["floor"] |= {"n_each": n_each, "splits": len(split)}
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
    density = _density(rgb)
    if density is None:
        return {}
    tissue = density.mean(2) > TISSUE
    row = {
        "light": float(_light(rgb).mean()),
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
    label = _segment(density, tissue, nucleus_px)
    row["nuclei"] = float(label.max())
    row["nuclear_density"] = row["nuclei"] / tissue.sum() * 1e4
    # Cell borders do not show in H&E, so that tissue stands for the cells. This is the ratio of
    # cytology, nuclear over whole cell, in [0, 1] (Vaickus & Tambouret 2015, Cancer Cytopathol
    # 123:524), not nuclear over cytoplasmic area, which has no bound where cells press.
    row["nc_ratio"] = (label > 0).sum() / tissue.sum()
    area, eccentricity = _shapes(label)
    if len(area):
        row["nuclear_area"] = float(np.median(area))
        row["eccentricity"] = float(np.median(eccentricity))
    return row


def _segment(
    density: NDArray[np.floating], tissue: NDArray[np.bool_], nucleus_px: float
) -> NDArray[np.int32]:
    none = np.zeros(tissue.shape, np.int32)
    if tissue.mean() < MIN_TISSUE:
        return none
    amount = ndimage.gaussian_filter((density @ TO_AMOUNTS)[..., 0], 0.1 * nucleus_px)
    # The square root evens the wide spread of nuclei with the narrow one of cytoplasm: without it
    # the threshold lies too high, and nuclei lose 8 % of the tissue at 10x.
    root = np.sqrt(np.maximum(amount, 0))
    nuclear = (root > threshold_otsu(root[tissue])) & tissue
    rest = tissue & ~nuclear
    if not nuclear.any() or amount[nuclear].mean() - amount[rest].mean() < CONTRAST:
        return none
    depth = ndimage.gaussian_filter(ndimage.distance_transform_edt(nuclear), 0.1 * nucleus_px)
    # In nuclei of few pixels many are equally deep: darkness tells their centers.
    height = depth / nucleus_px + 0.15 * root / root[nuclear].mean()
    apart = max(1, round(0.3 * nucleus_px))
    peaks = peak_local_max(height, apart, labels=nuclear.astype(np.int32), exclude_border=False)
    seeds = none.copy()
    seeds[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    label = watershed(-height, seeds, mask=nuclear)
    sizes = np.bincount(label.ravel())
    kept = sizes >= 0.1 * np.pi / 4 * nucleus_px**2  # specks are no nuclei
    kept[0] = False
    return np.asarray((np.cumsum(kept) * kept)[label], np.int32)


def _shapes(label: NDArray[np.int32]) -> tuple[Values, Values]:
    """Return area [K] and eccentricity [K] of the nuclei that do not reach the image's border.

    As scikit-image's regionprops has them, from second moments, which takes 50 times as long.
    """
    y, x = np.nonzero(label)
    of, n = label[y, x], int(label.max()) + 1
    area = np.bincount(of, minlength=n)
    count = np.maximum(area, 1)
    dx, dy = (v - (np.bincount(of, v, n) / count)[of] for v in (x, y))
    xx, yy, xy = (np.bincount(of, v, n) / count for v in (dx * dx, dy * dy, dx * dy))
    xx, yy = xx + 1 / 12, yy + 1 / 12  # a pixel is a square, not a point
    spread = np.hypot((xx - yy) / 2, xy)
    middle = (xx + yy) / 2
    border = np.concatenate([label[0], label[-1], label[:, 0], label[:, -1]])
    whole = np.setdiff1d(np.arange(1, n), border)
    return area[whole], np.sqrt(2 * spread / (middle + spread))[whole]


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


def _light(rgb: NDArray[np.uint8]) -> NDArray[np.floating]:
    return np.percentile(rgb, 99, axis=(0, 1))


def _density(rgb: NDArray[np.uint8]) -> NDArray[np.floating] | None:
    """Return optical densities [H, W, 3], or None of an image that is constant or has no light."""
    light = _light(rgb)
    if light.min() < DARK or not np.ptp(rgb.reshape(-1, 3), axis=0).any():
        return None
    return np.asarray(-np.log((rgb + 1.0) / (light + 1)))  # of glass about 0


def _arrays(images: torch.Tensor) -> NDArray[np.uint8]:
    return np.ascontiguousarray(images.permute(0, 2, 3, 1).cpu().numpy())


def _check_images(images: torch.Tensor) -> None:
    shape = list(images.shape)
    if images.dtype != torch.uint8 or images.ndim != 4 or shape[1] != 3 or not shape[0]:
        raise ValueError(
            f"images must be [N, 3, H, W] uint8, got {shape} {images.dtype}; "
            "mbgan.images.to_uint8 converts"
        )
    if min(shape[2:]) < SMALLEST:
        raise ValueError(f"images must be at least {SMALLEST} px a side, got {shape[2:]}")
