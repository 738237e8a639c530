"""Nuclei of an H&E image: where hematoxylin is dark against its surroundings, and how large.

Validated on drawn images, 10x and 100x, where nuclei are known: on average their number is within
10 % and the nuclear-cytoplasmic ratio within 0.05. On real images they are not: in epithelium as
blue as its nuclei, folds, cell borders and the edge to paler tissue count as nuclei, and pale
nuclei with a dark rim come in pieces. Look at `find_nuclei` of a few before you believe them.

Densities are natural optical densities: -ln of the share of the light that tissue lets through.
The light is read from each image, as the 99th percentile of each channel (as in
`mbgan.data.stain`): an image without any glass comes out paler than it is, real or fake alike.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from skimage.feature import peak_local_max
from skimage.filters import threshold_otsu
from skimage.segmentation import watershed

from mbgan.stains import EOSIN, HEMATOXYLIN

SMALLEST = 64  # px a side
DARK = 32  # level below which the clearest parts of an image are no light
TISSUE = 0.15  # least mean density of tissue; between GLASS and TISSUE of mbgan.data.stain
MIN_TISSUE = 0.01  # share of the image, as in mbgan.data.stain
# Nuclei hold at least this much more hematoxylin than other tissue. Of noise that is split in two
# the parts are 0.05 apart; of the phantom's palest nuclei (Purkinje cells) and cytoplasm, 0.35.
CONTRAST = 0.2
AROUND = 2  # nuclei across the square in which a pixel is compared
MIDDLE = 0.45  # from the lowest to the highest; at 0.5 the phantom's nuclei at 10x come too small
BASIS = np.array([HEMATOXYLIN, EOSIN, np.cross(HEMATOXYLIN, EOSIN)])
TO_AMOUNTS = np.linalg.inv(BASIS / np.linalg.norm(BASIS, axis=1, keepdims=True))[:, :2]  # [3, 2]

Values = NDArray[np.float64]  # [N]


def find_nuclei(rgb: NDArray[np.uint8], nucleus_px: float) -> NDArray[np.int32]:
    """Return the number of the nucleus at each pixel [H, W], from 1; 0 where there is none.

    Hematoxylin is unmixed (Ruifrok & Johnston 2001). Nuclear is what lies above Otsu's threshold
    within tissue and, where hematoxylin varies, above the middle of its extremes around (Bernsen
    1986, ICPR, p. 1251): in blue epithelium everything lies above the threshold. Peaks of the
    distance to the border, and a little of darkness, are one nucleus each; watershed gives them
    their pixels.

    Args:
        rgb: image [H, W, 3].
        nucleus_px: diameter of a usual nucleus, px; sets smoothing and least distance.
    """
    density = optical_density(rgb)
    if density is None:
        return np.zeros(rgb.shape[:2], np.int32)
    return segment(density, density.mean(2) > TISSUE, nucleus_px)


def typical_nucleus(images: torch.Tensor, most: int = 32) -> float:
    """Return the diameter of a usual nucleus in px, as the scale at which hematoxylin varies most.

    A disk of radius r answers strongest to the scale-normalized Laplacian at sigma = r / sqrt 2
    (Lindeberg 1998, IJCV 30:79, sec. 5). The variance of that answer over an image, relative to
    its largest and averaged over images, is greatest at the nuclei's scale. From 3 px to a
    quarter of the side: an answer of 3 px says that nuclei are that small or smaller, and groups of
    them may count as one. Small dark nuclei draw it down: of oral mucosa at 400x, 224 px a side,
    it finds 4.4 px where lymphocytes have 4 to 5 and epithelium has 7. Where um per pixel are
    known, 7 um over them is as good a guess.

    Args:
        images: real ones [N, 3, H, W], uint8.
        most: an even choice of at most so many is looked at.

    Raises:
        ValueError: if the images are no such images, or none has tissue.
    """
    check_images(images)
    chosen, answers = images[:: -(-len(images) // most)], []
    diameters = np.geomspace(3, min(images.shape[2:]) / 4, 16)
    for rgb in arrays_of(chosen):
        density = optical_density(rgb)
        if density is None or (density.mean(2) > TISSUE).mean() < MIN_TISSUE:
            continue
        amount = (density @ TO_AMOUNTS)[..., 0]
        sigmas = diameters / 8**0.5
        answer = np.array([s * s * ndimage.gaussian_laplace(amount, s).std() for s in sigmas])
        answers.append(answer / answer.max())
    if not answers:
        raise ValueError(f"nuclei need tissue, found none in {len(chosen)} images; set nucleus_px")
    return float(diameters[np.mean(answers, axis=0).argmax()])


def segment(
    density: NDArray[np.floating], tissue: NDArray[np.bool_], nucleus_px: float
) -> NDArray[np.int32]:
    """Return `find_nuclei` of optical densities [H, W, 3], tissue [H, W] being known."""
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
    low, high = _extremes(root, tissue, round(AROUND * nucleus_px))
    nuclear &= (root > (1 - MIDDLE) * low + MIDDLE * high) | (high**2 - low**2 < CONTRAST)
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


def _extremes(root: Values, tissue: NDArray[np.bool_], side: int) -> tuple[Values, Values]:
    """Return the lowest and the highest value of tissue around each pixel [H, W], smoothed."""
    side |= 1  # odd, so that the pixel is in the middle
    low = ndimage.minimum_filter(np.where(tissue, root, np.inf), side)
    high = ndimage.maximum_filter(np.where(tissue, root, 0), side)
    low[np.isinf(low)] = 0  # no tissue around
    return ndimage.uniform_filter(low, side), ndimage.uniform_filter(high, side)


def shapes(label: NDArray[np.int32]) -> tuple[Values, Values]:
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


def light_of(rgb: NDArray[np.uint8]) -> NDArray[np.floating]:
    """Return the levels [3] of the clearest parts of an image [H, W, 3]."""
    return np.percentile(rgb, 99, axis=(0, 1))


def optical_density(rgb: NDArray[np.uint8]) -> NDArray[np.floating] | None:
    """Return optical densities [H, W, 3], or None of an image that is constant or has no light."""
    light = light_of(rgb)
    if light.min() < DARK or not np.ptp(rgb.reshape(-1, 3), axis=0).any():
        return None
    return np.asarray(-np.log((rgb + 1.0) / (light + 1)))  # of glass about 0


def arrays_of(images: torch.Tensor) -> NDArray[np.uint8]:
    """Return images [N, 3, H, W] as pictures [N, H, W, 3]."""
    return np.ascontiguousarray(images.permute(0, 2, 3, 1).cpu().numpy())


def check_images(images: torch.Tensor) -> None:
    """Refuse what is no images [N, 3, H, W], uint8, of at least SMALLEST px a side."""
    shape = list(images.shape)
    if images.dtype != torch.uint8 or images.ndim != 4 or shape[1] != 3 or not shape[0]:
        raise ValueError(
            f"images must be [N, 3, H, W] uint8, got {shape} {images.dtype}; "
            "mbgan.images.to_uint8 converts"
        )
    if min(shape[2:]) < SMALLEST:
        raise ValueError(f"images must be at least {SMALLEST} px a side, got {shape[2:]}")
