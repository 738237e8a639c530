"""Copies are found in any pose, size or compression; other fields of a slide are never joined."""

import hashlib
import io
import tracemalloc
from collections import Counter, defaultdict
from pathlib import Path

import cv2
import imagehash
import numpy as np
import pytest
from PIL import Image

from mbgan.data import duplicates
from mbgan.data.duplicates import Fingerprint, find_duplicates, fingerprint
from mbgan.data.phantom import PATIENTS, draw_image

SHARED = Path(__file__).parents[3] / "shared/data"  # beside the checkout
real = pytest.mark.skipif(not SHARED.is_dir(), reason=f"no real images at {SHARED}")


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def poses(rgb):
    """The eight poses of an image: four turns, and the same mirrored."""
    turned = [np.rot90(rgb, k) for k in range(4)]
    return [np.ascontiguousarray(p) for t in turned for p in (t, t[:, ::-1])]


def jpeg(rgb, quality):
    file = io.BytesIO()
    Image.fromarray(rgb).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def trim(rgb, top, bottom, left, right):
    """Cut shares of the sides off."""
    height, width = rgb.shape[:2]
    rows = slice(round(top * height), height - round(bottom * height))
    return np.ascontiguousarray(rgb[rows, round(left * width) : width - round(right * width)])


def resize(rgb, width, height):
    return cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA)


def relight(rgb, gain, offset):
    return np.clip(np.rint(rgb * gain + offset), 0, 255).astype(np.uint8)


def blank(seed, falloff=0.25):
    """An empty field [224, 224, 3] with vignetting and the grain of a sensor."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1:1:224j, -1:1:224j]
    light = 240 * (1 - falloff * ((x - 0.2) ** 2 + y**2) / 2) + rng.normal(0, 2, x.shape)
    return np.repeat(relight(light, 1, 0)[..., None], 3, axis=2)


def partition(fingerprints):
    """Clusters of two and more, as sets of the pixels' digests."""
    found = find_duplicates(fingerprints)
    clusters = defaultdict(set)
    for cluster, image in zip(found.clusters, fingerprints, strict=True):
        clusters[cluster].add(image.pixels_sha256)
    return {frozenset(cluster) for cluster in clusters.values() if len(cluster) > 1}


@pytest.fixture(scope="module")
def pictures():
    """Two fields of each of two slides at both magnifications [256, 256, 3]."""
    return [
        draw_image(magnification, PATIENTS[patient], patient, index, 0)[0]
        for magnification in ("10x", "100x")
        for patient in (1, 5)
        for index in (0, 1)
    ]


@pytest.fixture(scope="module")
def originals(pictures):
    return [fingerprint(picture) for picture in pictures]


@pytest.mark.parametrize("shape", [(6, 6), (5, 8), (7, 5), (1, 9), (1, 1)])
def test_digest_and_structure_are_the_same_in_all_eight_poses(shape):
    found = [fingerprint(pose) for pose in poses(noise(*shape))]
    assert len({(image.pixels_sha256, image.structure) for image in found}) == 1


@pytest.mark.parametrize("shape", [(6, 6), (4, 6)])
def test_poses_share_a_digest_where_all_corners_are_equally_bright(shape):
    """Corners decide which poses are hashed; when they are equal, pixels have to decide."""
    rgb = np.full((*shape, 3), 100, np.uint8)
    rgb[0, 0], rgb[0, 1] = 90, 110  # no pose looks like another
    assert len({fingerprint(pose).pixels_sha256 for pose in poses(rgb)}) == 1
    other = np.full((*shape, 3), 100, np.uint8)
    other[0, 0], other[1, 1] = 90, 110
    assert fingerprint(other).pixels_sha256 != fingerprint(rgb).pixels_sha256


def test_one_level_of_one_pixel_changes_the_digest():
    rgb = noise(5, 8)
    changed = rgb.copy()
    changed[2, 3, 1] ^= 1
    assert fingerprint(changed).pixels_sha256 != fingerprint(rgb).pixels_sha256


def test_the_same_bytes_in_another_shape_have_another_digest():
    rgb = np.full((2, 6, 3), 7, np.uint8)
    assert fingerprint(rgb).pixels_sha256 != fingerprint(rgb.reshape(3, 4, 3)).pixels_sha256


def test_a_view_into_a_larger_array_has_the_digest_of_its_copy():
    part = noise(20, 20)[3:15:2, ::-1]
    assert fingerprint(part) == fingerprint(part.copy())


def test_phash_is_that_of_the_library():
    rgb = noise(50, 70)
    assert fingerprint(rgb).phash == str(imagehash.phash(Image.fromarray(rgb)))


@pytest.mark.parametrize(
    ("rgb", "got"),
    [
        (np.zeros((4, 4, 4), np.uint8), r"uint8 \[4, 4, 4\]"),
        (np.zeros((4, 4), np.uint8), r"uint8 \[4, 4\]"),
        (np.zeros((4, 4, 3)), r"float64 \[4, 4, 3\]"),
        (np.zeros((0, 4, 3), np.uint8), r"uint8 \[0, 4, 3\]"),
    ],
)
def test_what_is_no_rgb_image_is_refused(rgb, got):
    with pytest.raises(ValueError, match=rf"rgb must be uint8 \[H, W, 3\], got {got}"):
        fingerprint(rgb)


COPIES = {
    "re-compressed, 50": lambda rgb: jpeg(rgb, 50),
    "re-compressed, 95": lambda rgb: jpeg(rgb, 95),
    "trimmed all around": lambda rgb: trim(rgb, 0.03, 0.03, 0.03, 0.03),
    "trimmed at a corner": lambda rgb: trim(rgb, 0.03, 0, 0, 0.03),
    "trimmed and darker": lambda rgb: relight(trim(rgb, 0.024, 0.027, 0.018, 0.022), 0.9, 0),
    "resized up and down": lambda rgb: resize(resize(rgb, 300, 300), 128, 128),
    "squashed": lambda rgb: resize(rgb, 240, 180),
    "brighter": lambda rgb: relight(rgb, 1.1, 10),
    "darker": lambda rgb: relight(rgb, 0.85, 0),
    "gray": lambda rgb: np.repeat(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2),
    "red and blue swapped": lambda rgb: rgb[..., ::-1],
    "all at once": lambda rgb: jpeg(relight(trim(rgb, 0.03, 0, 0.01, 0.02), 0.9, 5), 60),
}


@pytest.mark.parametrize("change", COPIES.values(), ids=COPIES)
def test_changed_copies_are_found_in_every_pose_and_nothing_else_is(pictures, originals, change):
    """Each picture is compared in a pose of its own: eight pictures, eight poses."""
    n = len(pictures)
    turned = [poses(picture)[i] for i, picture in enumerate(pictures)]
    found = find_duplicates([*originals, *(fingerprint(change(rgb)) for rgb in turned)])
    assert [pair[:3] for pair in found.pairs] == [(i, i + n, "near") for i in range(n)]
    assert min(pair.similarity for pair in found.pairs) > 0.94
    assert found.clusters.tolist() == [*range(n), *range(n)]


def test_turned_copies_are_exact(pictures, originals):
    found = find_duplicates([fingerprint(pose) for pose in poses(pictures[0])] + originals[1:])
    assert found.pairs == [(0, i, "exact", 1.0) for i in range(1, 8)]
    assert found.clusters.tolist() == [0] * 8 + list(range(1, len(originals)))


def test_fields_of_one_slide_and_neighbors_that_overlap_by_half_are_not_joined(pictures, originals):
    halves = [fingerprint(trim(picture, 0, 0, 0, 0.25)) for picture in pictures]
    others = [fingerprint(trim(picture, 0, 0, 0.5, 0)) for picture in pictures]
    assert find_duplicates(originals).pairs == []
    assert find_duplicates([*halves, *others]).pairs == []


def test_a_cluster_holds_what_pairs_link_and_is_numbered_by_first_appearance(pictures, originals):
    """An exact copy counts through the first of its kind, whose place it takes in near pairs."""
    compressed = fingerprint(jpeg(pictures[0], 70))
    turned = fingerprint(poses(pictures[0])[3])
    found = find_duplicates([originals[3], compressed, originals[0], originals[1], turned])
    assert [pair[:3] for pair in found.pairs] == [(1, 2, "near"), (2, 4, "exact")]
    assert found.clusters.tolist() == [0, 1, 1, 2, 1]


def test_clusters_do_not_depend_on_the_order_of_images(pictures, originals):
    copies = [fingerprint(jpeg(trim(poses(p)[1], 0.02, 0, 0.02, 0), 70)) for p in pictures[:4]]
    images = [*originals, *copies, originals[5], copies[1]]

    def named(order):
        found = find_duplicates([images[i] for i in order]).pairs
        return {
            (frozenset(images[order[k]].pixels_sha256 for k in (p.first, p.second)), p.similarity)
            for p in found
        }

    forth = np.arange(len(images))
    shuffled = np.random.default_rng(0).permutation(forth)
    assert len(named(forth)) == 6
    assert named(forth) == named(forth[::-1]) == named(shuffled)
    assert partition(images) == partition(images[::-1])


def test_blank_fields_are_copies_only_if_their_pixels_are(pictures):
    even = np.full((64, 64, 3), 240, np.uint8)
    images = [blank(0), blank(1), blank(2, falloff=0.1), jpeg(blank(0), 95), even, even - 1, even]
    found = find_duplicates([fingerprint(rgb) for rgb in images])
    assert found.pairs == [(4, 6, "exact", 1.0)]


def test_vignetting_and_grain_are_no_structure():
    """Else two blank fields of one microscope would be near copies of each other."""
    for seed in range(5):
        levels = np.frombuffer(fingerprint(blank(seed)).structure, np.uint8)
        assert levels.std() / 32 < duplicates.MIN_CONTRAST - 0.05


def test_no_image_and_one_image_have_no_copies(originals):
    for n in (0, 1):
        found = find_duplicates(originals[:n])
        assert found.pairs == []
        assert found.clusters.tolist() == list(range(n))
        assert found.clusters.dtype == np.int64


@pytest.mark.parametrize("threshold", [0, -0.1, 1.01, float("nan")])
def test_a_threshold_that_no_correlation_can_meet_is_refused(threshold):
    with pytest.raises(ValueError, match=rf"threshold must be in \(0, 1\], got {threshold}"):
        find_duplicates([], threshold)


def test_a_higher_threshold_leaves_pairs_out(pictures, originals):
    copy = fingerprint(trim(jpeg(pictures[0], 50), 0.03, 0, 0.03, 0))
    (pair,) = find_duplicates([originals[0], copy]).pairs
    assert find_duplicates([originals[0], copy], pair.similarity).pairs == [pair]
    assert find_duplicates([originals[0], copy], pair.similarity + 1e-6).pairs == []


def test_pairs_are_found_across_blocks(pictures, originals, monkeypatch):
    """Images are compared block by block; where the blocks end must not matter."""
    images = originals + [fingerprint(jpeg(poses(p)[2], 80)) for p in pictures]
    whole = find_duplicates(images)
    monkeypatch.setattr(duplicates, "BLOCK", 3)
    parts = find_duplicates(images)
    assert [p[:3] for p in parts.pairs] == [p[:3] for p in whole.pairs]
    assert len(parts.pairs) == len(pictures)


def test_memory_grows_with_the_images_and_not_with_their_pairs(monkeypatch):
    """All correlations of 2,000 images in eight poses would take 128 MB; those of a block, 2 MB."""
    rng = np.random.default_rng(0)
    images = [
        Fingerprint(str(i), "", rng.integers(64, 192, 64 * 64, dtype=np.uint8).tobytes())
        for i in range(2000)
    ]
    monkeypatch.setattr(duplicates, "BLOCK", 256)
    tracemalloc.start()
    found = find_duplicates(images)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.pairs == []
    assert peak < 16e6


# Every pair found in the real set that is not exact; each was looked at, and shows one field:
# saved twice, turned, or photographed again with the microscope hardly moved.
NEAR = [
    ("Normal_100x_14", "Normal_100x_15"),
    ("Normal_100x_3", "Normal_100x_5"),
    ("Normal_100x_4", "Normal_100x_5"),
    ("Normal_100x_69", "OSCC_100x_350"),
    ("Normal_100x_70", "OSCC_100x_349"),
    ("Normal_100x_71", "OSCC_100x_348"),
    ("OSCC_100x_214", "OSCC_100x_219"),
    ("OSCC_100x_239", "OSCC_100x_240"),
    ("OSCC_100x_280", "OSCC_100x_281"),
    ("OSCC_100x_418", "OSCC_100x_422"),
    ("OSCC_100x_72", "OSCC_100x_77"),
    ("OSCC_100x_81", "OSCC_100x_82"),
    ("Normal_400x_106", "Normal_400x_128"),
    ("OSCC_400x_362", "OSCC_400x_471"),
    ("OSCC_400x_364", "OSCC_400x_473"),
    ("OSCC_400x_417", "OSCC_400x_421"),
    ("OSCC_400x_417", "OSCC_400x_423"),
    ("OSCC_400x_421", "OSCC_400x_423"),
    ("OSCC_400x_60", "OSCC_400x_61"),
]


@pytest.fixture(scope="module")
def oral():
    """The real set's files, sorted, and what is found in them."""
    files = sorted((SHARED / "oral-histology").rglob("*.jpg"))
    return files, find_duplicates([fingerprint(np.asarray(Image.open(file))) for file in files])


@real
def test_every_file_stored_twice_is_found(oral):
    files, found = oral
    copies = defaultdict(list)
    for i, file in enumerate(files):
        copies[hashlib.sha256(file.read_bytes()).hexdigest()].append(i)
    pairs = {tuple(same) for same in copies.values() if len(same) > 1}
    assert (len(files), len(pairs)) == (1224, 16)
    assert {pair[:2] for pair in found.pairs if pair.kind == "exact"} == pairs
    assert sum(files[a].parent != files[b].parent for a, b in pairs) == 14  # label conflicts


@real
def test_near_copies_in_the_real_set_are_those_seen_by_eye(oral):
    files, found = oral
    near = [pair for pair in found.pairs if pair.kind == "near"]
    assert sorted((files[p.first].stem, files[p.second].stem) for p in near) == sorted(NEAR)


@real
def test_clusters_with_two_labels_in_the_real_set_are_counted(oral):
    """14 of exact copies, and 3 of images that were also turned or saved again."""
    files, found = oral
    labels = defaultdict(set)
    for cluster, file in zip(found.clusters, files, strict=True):
        labels[cluster].add(file.parent.name)
    assert Counter(map(len, labels.values())) == {1: 1190 - 17, 2: 17}


@real
def test_there_are_no_copies_in_the_other_real_set():
    files = sorted((SHARED / "stained-tissue").rglob("*.png"))
    images = [fingerprint(np.asarray(Image.open(file).convert("RGB"))) for file in files]
    assert (len(images), find_duplicates(images).pairs) == (107, [])
