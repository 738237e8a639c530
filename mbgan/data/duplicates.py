"""The same image twice: turned, re-compressed, trimmed or resized copies, found and clustered."""

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, NamedTuple

import cv2
import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

POSES = range(8)  # of the square: transposed (4), upside down (2), mirrored (1)
SIDE = 64  # px of the structure
SURROUNDINGS = 5.0  # px of the structure, a standard deviation
NOISE = 4.0  # gray levels; fainter structure is dust, grain and compression
COARSE_SIDE = 8  # px of the copy that finds candidates: 3 % trimmed of a side is 0.24 px here
BLOCK = 1024  # images compared at once with as many others: in 8 poses, 32 MiB
# Measured on 1,331 real and 355 drawn images, and on copies of a third or more of them: turned,
# re-compressed (JPEG 50 to 95), brighter or darker by 15 %, up to 3 % trimmed from each side.
MIN_CONTRAST = 0.25  # blank fields with vignetting and grain have 0.15, others 0.32 and more
MIN_COARSE_CORRELATION = 0.72  # copies have 0.78 and more; of 10,000 other pairs, 0 to 43


@dataclass(frozen=True)
class Fingerprint:
    """What is kept of an image to find its copies, about 4 kB."""

    pixels_sha256: str  # of the pixels, the same in all eight poses
    phash: str  # DCT hash of the image as it lies, 64 bits in hex
    structure: bytes  # local contrast [SIDE, SIDE], uint8 about 128, the same in all eight poses


class Pair(NamedTuple):
    """Two images that are copies of each other, by their places in the sequence."""

    first: int
    second: int
    kind: Literal["exact", "near"]
    similarity: float  # correlation of the structures, 1 for exact


@dataclass(frozen=True)
class Duplicates:
    """Copies among n images."""

    clusters: NDArray[np.int64]  # [n]; copies share a number, counted from 0 by first appearance
    pairs: list[Pair]  # of exact copies, each with the first of them; sorted


def fingerprint(rgb: NDArray[np.uint8]) -> Fingerprint:
    """Return the fingerprint of an image [H, W, 3], 0..255.

    Raises:
        ValueError: if it is not such an image, or has no pixels.
    """
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3 or not rgb.size:
        raise ValueError(f"rgb must be uint8 [H, W, 3], got {rgb.dtype} {list(rgb.shape)}")
    gray = Image.fromarray(rgb).convert("L")
    luma = np.asarray(gray)  # [H, W]
    pixels = np.ascontiguousarray(rgb).view("V3")[..., 0]  # [H, W]; whole pixels turn faster
    # Hash only the poses with the smallest brightness of the corners: most often a single one.
    y, x = (n - n // 2 for n in luma.shape)
    halves = (luma[:y], luma[-y:])
    corners = np.array([[h[:, :x].sum(), h[:, -x:].sum()] for h in halves])
    keys = [(_turn(luma, p).shape, _turn(corners, p).tolist()) for p in POSES]
    shape, _ = first = min(keys)
    digests = {}
    for pose in POSES:
        if keys[pose] == first:
            digest = hashlib.sha256(repr(shape).encode())
            digest.update(_turn(pixels, pose).tobytes())
            digests[digest.hexdigest()] = pose
    smallest = min(digests)
    structure = _local_contrast(np.ascontiguousarray(_turn(luma, digests[smallest])))
    return Fingerprint(smallest, str(imagehash.phash(gray)), structure.tobytes())


def find_duplicates(fingerprints: Sequence[Fingerprint], threshold: float = 0.8) -> Duplicates:
    """Return clusters of images that show the same field, and the pairs that make them.

    Exact copies have the same pixels in any of the eight poses. Near copies have the same local
    contrast once pose, shift and scale are undone, whatever their size, brightness, compression
    and a few percent trimmed from each side; a field photographed again is one too, if the
    microscope was hardly moved. An image without structure (a blank field) has exact copies only.
    A cluster holds all that is linked by pairs; the order of fingerprints does not matter.

    Args:
        fingerprints: of n images.
        threshold: smallest correlation of near copies, in (0, 1]. Copies had 0.93 and more, fields
            photographed again 0.86 and more, pairs of different fields at most 0.75.

    Raises:
        ValueError: if threshold is out of range.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must be in (0, 1], got {threshold}")
    places = dict[str, list[int]]()  # of the same pixels
    for i, image in enumerate(fingerprints):
        places.setdefault(image.pixels_sha256, []).append(i)
    pairs = [Pair(same[0], i, "exact", 1.0) for same in places.values() for i in same[1:]]
    # Sorted by digest: a pair is then compared the same way round in any order of fingerprints.
    distinct = [places[digest][0] for digest in sorted(places)]
    uneven = [i for i in distinct if _structure(fingerprints[i]).std() >= MIN_CONTRAST]
    for a, b, similarity in _near_pairs([fingerprints[i] for i in uneven], threshold):
        first, second = sorted((uneven[a], uneven[b]))
        pairs.append(Pair(first, second, "near", similarity))
    return Duplicates(_clusters(len(fingerprints), pairs), sorted(pairs))


def _turn(a: NDArray[Any], pose: int) -> NDArray[Any]:
    """Return a view of a [..., H, W] in one of the eight poses."""
    if pose & 4:
        a = a.swapaxes(-1, -2)
    return a[..., :: -1 if pose & 2 else 1, :: -1 if pose & 1 else 1]


@cache
def _light_falloff() -> NDArray[np.float32]:
    """Return an orthonormal basis [SIDE * SIDE, 6] of the quadratic polynomials of y and x."""
    y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j].reshape(2, -1)
    basis = np.linalg.qr(np.stack([np.ones_like(x), y, x, y * y, y * x, x * x], 1))[0]
    return basis.astype(np.float32)


def _local_contrast(luma: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return 128 + 32 * how far pixels are from their surroundings, in their standard deviations.

    What is left of an image [SIDE, SIDE] without vignetting, lamp and stain: fields of one slide,
    and blank fields of one microscope, have little of it in common.
    """
    x = cv2.resize(luma, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    falloff = _light_falloff()
    x -= (falloff @ (falloff.T @ x.ravel())).reshape(x.shape)
    x -= _blur(x, SURROUNDINGS)
    x /= np.sqrt(_blur(x * x, SURROUNDINGS) + NOISE**2)
    return np.clip(np.rint(32 * x + 128), 0, 255).astype(np.uint8)


def _blur(x: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    blurred = cv2.GaussianBlur(x, (0, 0), sigma, borderType=cv2.BORDER_REFLECT)
    return np.asarray(blurred, dtype=np.float32)


def _structure(image: Fingerprint) -> NDArray[np.float32]:
    """Return the local contrast [SIDE, SIDE] in standard deviations."""
    levels = np.frombuffer(image.structure, np.uint8).astype(np.float32)
    levels -= 128
    levels /= 32
    return levels.reshape(SIDE, SIDE)


def _near_pairs(
    images: Sequence[Fingerprint], threshold: float
) -> Iterator[tuple[int, int, float]]:
    """Yield a, b and similarity of the near copies among images, a < b."""
    coarse = np.empty((len(images), COARSE_SIDE, COARSE_SIDE), np.float32)
    for small, image in zip(coarse, images, strict=True):
        blurred = _blur(_structure(image), SIDE / COARSE_SIDE / 2)
        small[:] = cv2.resize(blurred, small.shape, interpolation=cv2.INTER_AREA)
        small -= small.mean()
        small /= np.linalg.norm(small)

    def similarity(a: int, b: int, pose: int) -> float:
        turned = np.ascontiguousarray(_turn(_structure(images[a]), pose))
        return _correlation_when_aligned(turned, _structure(images[b]))

    with ThreadPoolExecutor() as pool:  # cv2 lets go of the interpreter's lock
        for candidates in _candidates(coarse):
            similarities = pool.map(similarity, *candidates.T)
            for (a, b, _), found in zip(candidates.tolist(), similarities, strict=True):
                if found >= threshold:
                    yield a, b, found


def _candidates(coarse: NDArray[np.float32]) -> Iterator[NDArray[np.int64]]:
    """Yield blocks [K, 3] of a, b and the pose of a in which it looks like b, a < b.

    Args:
        coarse: zero mean, unit norm [N, COARSE_SIDE, COARSE_SIDE].
    """
    n = len(coarse)
    flat = coarse.reshape(n, COARSE_SIDE**2)
    for i in range(0, n, BLOCK):
        rows = np.stack([_turn(coarse[i : i + BLOCK], pose) for pose in POSES])
        for j in range(i, n, BLOCK):
            scores = rows.reshape(*rows.shape[:2], -1) @ flat[j : j + BLOCK].T  # [8, rows, columns]
            best = scores.max(0)
            if i == j:
                best = np.triu(best, 1)
            a, b = np.nonzero(best >= MIN_COARSE_CORRELATION)
            yield np.stack([i + a, j + b, scores[:, a, b].argmax(0)], 1)


def _correlation_when_aligned(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Return the correlation of two structures after the best affine map of b onto a.

    By ECC (Evangelidis & Psarakis 2008, IEEE TPAMI 30:1858), whose few steps reach shifts and
    scales of some percent. Both must be about 0, which fills what comes from outside the frame.
    """
    steps = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 8, 1e-3)
    start, everywhere = np.eye(2, 3, dtype=np.float32), np.ones(a.shape, np.uint8)
    try:
        return cv2.findTransformECC(a, b, start, cv2.MOTION_AFFINE, steps, everywhere, 3)[0]
    except cv2.error as error:
        if error.code != cv2.Error.StsNoConv:
            raise
        return 0.0  # nothing to hold on to


def _clusters(n: int, pairs: Sequence[Pair]) -> NDArray[np.int64]:
    first, second = np.array([pair[:2] for pair in pairs], dtype=np.int64).reshape(-1, 2).T
    graph = coo_array((np.ones(len(pairs)), (first, second)), shape=(n, n))
    return connected_components(graph, directed=False)[1].astype(np.int64)
