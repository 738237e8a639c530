import numpy as np
import pytest
import torch
from PIL import Image

from mbgan.images import from_uint8, grid, save_png, to_uint8


def test_every_level_survives_a_round_trip():
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    assert torch.equal(to_uint8(from_uint8(levels)), levels)


def test_conversion_rounds_to_the_nearest_level_and_clips():
    """Truncation would darken every generated image by half a level."""
    x = torch.tensor([-2.0, -1.0, 0.4 / 127.5 - 1, 0.6 / 127.5 - 1, 1.0, 2.0])
    assert to_uint8(x).tolist() == [0, 0, 0, 1, 255, 255]


def test_grid_lays_images_row_by_row_on_white():
    x = torch.stack([torch.full((3, 2, 2), v, dtype=torch.uint8) for v in (10, 20, 30)])
    sheet = grid(x, columns=2, gap=1)
    assert sheet.shape == (3, 5, 5)
    assert sheet[0].tolist() == [
        [10, 10, 255, 20, 20],
        [10, 10, 255, 20, 20],
        [255] * 5,
        [30, 30, 255, 255, 255],
        [30, 30, 255, 255, 255],
    ]


def test_png_holds_the_very_pixels(tmp_path):
    image = torch.randint(0, 256, (3, 5, 7), dtype=torch.uint8)
    save_png(image, tmp_path / "new" / "a.png")
    with Image.open(tmp_path / "new" / "a.png") as png:
        back = torch.from_numpy(np.array(png)).permute(2, 0, 1)
    assert torch.equal(back, image)


def test_png_that_cannot_be_written_leaves_nothing(tmp_path):
    with pytest.raises(AttributeError):
        save_png(None, tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []
