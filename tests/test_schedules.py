import math

import pytest

from mbgan.schedules import Constant, Cosine, Halving


def test_constant_stays():
    assert {Constant(3.0)(images) for images in (0, 1, 1e9)} == {3.0}


def test_halving_halves_over_every_half_life():
    schedule = Halving(half_life=500, start=8.0)
    assert [schedule(images) for images in (0, 500, 1000, 1500)] == [8.0, 4.0, 2.0, 1.0]
    assert schedule(250) == pytest.approx(8 / math.sqrt(2))


@pytest.mark.parametrize(("start", "end"), [(2.0, 0.2), (0.9, 0.99), (1.0, 1.0)])
def test_cosine_goes_from_start_to_end_by_half_a_period_and_stays(start, end):
    """Level at both ends, halfway at half time, and a quarter of it at a third of pi."""
    schedule = Cosine(start, end, images=900)
    assert schedule(0) == start
    assert schedule(450) == pytest.approx((start + end) / 2)
    assert schedule(300) == pytest.approx(start + (end - start) / 4)
    assert schedule(900) == pytest.approx(end)
    assert schedule(10_000) == schedule(900)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Halving(0), "half_life must be over 0 images, got 0"),
        (lambda: Halving(float("nan")), "half_life must be over 0 images, got nan"),
        (lambda: Cosine(1, 0, images=-5), "the images of a schedule must be over 0, got -5"),
    ],
)
def test_lengths_that_are_no_length_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
