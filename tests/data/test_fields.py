"""A field becomes one square image, or tiles whose number and places follow from its size."""

from itertools import pairwise

import pytest

from mbgan.data.fields import Box, Squash, Tile


def test_a_squashed_field_is_one_image_of_everything():
    assert Squash().boxes(640, 480) == [Box(0, 0, 640, 480)]


@pytest.mark.parametrize("side", [20, 21, 39, 40, 41, 100])
@pytest.mark.parametrize("stride", [1, 7, 20, 33])
def test_tiles_are_as_many_as_fit_and_lie_in_the_middle(side, stride):
    """(side - size) // stride + 1 of them; what is left over is shared by both edges."""
    boxes = Tile(size=20, stride=stride).boxes(width=side, height=20)
    assert len(boxes) == (side - 20) // stride + 1
    starts = [box.x for box in boxes]
    assert all(b - a == stride for a, b in pairwise(starts))
    left, right = starts[0], side - (starts[-1] + 20)
    assert 0 <= left <= right <= left + 1
    assert left + right < stride


def test_tiles_come_row_by_row_and_are_squares_inside_the_field():
    boxes = Tile(size=10, stride=10).boxes(width=34, height=25)
    assert boxes == [Box(x, y, 10, 10) for y in (2, 12) for x in (2, 12, 22)]


def test_a_field_smaller_than_a_tile_gives_none_and_one_as_large_gives_itself():
    assert Tile(size=10, stride=5).boxes(width=9, height=50) == []
    assert Tile(size=10, stride=5).boxes(width=10, height=10) == [Box(0, 0, 10, 10)]


@pytest.mark.parametrize(
    ("size", "stride", "message"),
    [
        (0, 1, "fields.size must be at least 1, got 0"),
        (8, -2, "fields.stride must be at least 1, got -2"),
    ],
)
def test_a_tile_needs_a_size_and_a_stride(size, stride, message):
    with pytest.raises(ValueError, match=message):
        Tile(size, stride)
