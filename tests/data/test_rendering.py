"""Prepared images: named by all that decides their pixels, shrunk by area, whole or not there."""

from pathlib import Path

import numpy as np
import pytest
from conftest import field, put
from PIL import Image

from mbgan.data.decode import UnreadableImage, read_image
from mbgan.data.rendering import cut, image_name, render, save, stain_of
from mbgan.data.stain import Identity, Reinhard

ROW = {"name": "40x/a/0.png", "tile": "", "sha256": "f", "magnification": "40x", "class": "a"}


def rendered(path, tmp_path, tiles=("",), image_size=8, normalizer=None):
    parts = [(tile, tmp_path / f"out/{i}.png") for i, tile in enumerate(tiles)]
    sha256 = read_image(path).sha256
    notes = render(path, sha256, parts, image_size, normalizer or Identity())
    return [np.asarray(Image.open(target)) for _, target in parts], notes


def test_images_are_shrunk_to_the_mean_of_each_area(tmp_path):
    """Not squeezed by picking pixels: 4 x 2 pixels become one, their mean within rounding."""
    rgb = np.random.default_rng(0).integers(0, 256, (32, 16, 3), dtype=np.uint8)
    (small,), _ = rendered(put(tmp_path, "a.png", rgb), tmp_path)
    means = rgb.reshape(8, 4, 8, 2, 3).mean((1, 3))
    assert np.abs(small - means).max() <= 1


def test_tiles_are_cut_where_their_names_say(tmp_path):
    rgb = field(0)
    path = put(tmp_path, "a.png", rgb)
    (first, second), _ = rendered(path, tmp_path, ["3,5,8,8", "40,40,8,8"])
    assert np.array_equal(first, rgb[5:13, 3:11])
    assert np.array_equal(second, rgb[40:, 40:])
    assert cut(Image.fromarray(rgb), "").size == (48, 48)


@pytest.mark.parametrize("change", ["name", "tile", "sha256", "settings"])
def test_an_image_has_another_name_where_its_pixels_may_differ(change):
    other = ROW | ({change: "1"} if change != "settings" else {})
    assert image_name(ROW, "32 px") == image_name(dict(ROW), "32 px")
    assert image_name(other, "32 px" if change != "settings" else "64 px") != image_name(
        ROW, "32 px"
    )


@pytest.mark.parametrize("text", ["..", "../../etc", "/", "a/b", "", "x" * 300, "a\nb", "café"])
@pytest.mark.parametrize("column", ["magnification", "class", "name"])
def test_an_image_lies_below_images_under_a_plain_name_whatever_the_original_is_called(
    column, text
):
    parts = Path(image_name(ROW | {column: text}, "")).parts
    assert (parts[0], len(parts)) == ("images", 4)
    assert all(part.strip(".") and len(part) <= 60 and part.isprintable() for part in parts)


def test_an_original_that_changed_since_it_was_inspected_is_refused(tmp_path):
    path = put(tmp_path, "a.png", field(0))
    with pytest.raises(UnreadableImage, match="changed while it was prepared"):
        render(path, "the hash of another", [("", tmp_path / "out.png")], 8, Identity())
    assert not (tmp_path / "out.png").exists()


def test_an_image_without_stain_keeps_its_colors_and_says_why(tmp_path):
    white = np.full((48, 48, 3), 250, np.uint8)
    normalizer = Reinhard()
    normalizer.fit(field(1))
    (same,), ((stain, reason),) = rendered(
        put(tmp_path, "a.png", white), tmp_path, normalizer=normalizer
    )
    assert (same == 250).all()
    assert stain is None
    assert reason.startswith("blank: tissue on 0 of")
    (other,), ((stain, reason),) = rendered(
        put(tmp_path, "b.png", field(0)), tmp_path, image_size=48, normalizer=normalizer
    )
    assert np.abs(other.astype(int) - field(0)).max() > 5
    assert (stain, reason) == (stain_of(other), "")  # of what was written, not of the original


def test_an_image_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    def fail(self, path, **settings):
        Path(path).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        save(field(0), tmp_path / "images/a.png")
    assert list((tmp_path / "images").iterdir()) == []
