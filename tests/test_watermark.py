"""The invisible mark: seen after JPEG and crops, and not where there is none."""

import io

import numpy as np
import pytest
from conftest import field
from PIL import Image

from mbgan.watermark import STRENGTHS, THRESHOLD, _waves, mark, strength


def jpeg(image, quality):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


@pytest.mark.parametrize("side", [64, 128])
def test_the_mark_survives_jpeg_75_and_a_crop_to_nine_tenths(side):
    rng, part = np.random.default_rng(0), round(0.9 * side)
    for seed in range(20):
        marked = mark(field(seed, side), "key")
        top, left = rng.integers(0, side - part + 1, 2)
        crop = marked[top : top + part, left : left + part]
        assert strength(jpeg(marked, 75), "key") > THRESHOLD
        assert strength(crop, "key") > THRESHOLD


@pytest.mark.parametrize("side", [32, 64])
def test_unmarked_images_show_no_mark(side):
    """Smooth tissue, noise, stripes, and one color."""
    rng = np.random.default_rng(1)
    images = [field(seed, side) for seed in range(100)]
    images += [rng.integers(0, 256, (side, side, 3), dtype=np.uint8) for _ in range(100)]
    images += [np.full((side, side, 3), 255, np.uint8)]
    images += [
        np.tile(np.arange(side, dtype=np.uint8)[:, None] % k * 40, (1, side, 1))
        .transpose(1, 2, 0)
        .repeat(3, 2)[:side, :side]
        for k in (2, 4, 8)
    ]
    assert max(strength(image, "key") for image in images) < THRESHOLD


def test_another_key_does_not_see_the_mark():
    marked = [mark(field(seed, 64), "key") for seed in range(20)]
    assert max(strength(image, "other") for image in marked) < THRESHOLD


def test_the_mark_is_faint():
    """30 dB is what the plainest 64-pixel images need; larger ones take less."""
    image = field(0, 128)
    error = (mark(image, "key").astype(float) - image) ** 2
    assert 10 * np.log10(255**2 / error.mean()) > 35


def test_the_mark_is_the_tile_added_and_rounded():
    """What is added is rounded once for all images: an image's levels are whole numbers."""
    waves, _ = _waves("key")
    tile = np.fft.ifft2(waves).real
    pattern = np.tile(tile / tile.std(), (3, 2))[:70, :50, None]
    image = np.random.default_rng(0).integers(0, 256, (70, 50, 3), dtype=np.uint8)
    added = [np.rint(image + s * pattern).clip(0, 255).astype(np.uint8) for s in STRENGTHS]
    assert sum(np.array_equal(mark(image, "key"), plain) for plain in added) == 1
