"""Real images against real ones: no distance on average, and no group on both sides."""

import numpy as np
import pytest
import torch

from mbgan.metrics import floor
from mbgan.metrics.floor import real_vs_real, smallest_difference


@pytest.fixture
def sides(monkeypatch):
    """The features that were compared, as pairs."""
    pairs = []
    kid = floor.kid
    monkeypatch.setattr(floor, "kid", lambda a, b: pairs.append((a, b)) or kid(a, b))
    return pairs


def features(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 8, dtype=torch.float64, generator=generator)


def test_halves_of_one_set_are_not_apart_on_average():
    """Any pair of images is as likely on one side as across, so the mean is 0 for any features."""
    x = features(40) ** 3
    kids = real_vs_real(x, [str(i) for i in range(40)], n_each=20, comparisons=400)
    assert len(kids) == 400
    assert abs(np.mean(kids)) < 3 * np.std(kids) / 400**0.5
    assert min(kids) < 0 < max(kids)


def test_patients_who_differ_set_the_floor():
    """Halves that share no patient are apart; the same images as if independent are not."""
    own = torch.repeat_interleave(features(8), 5, dim=0)  # [40, F]
    x = own + 0.1 * features(40, seed=1)
    by_patient = real_vs_real(x, [str(i // 5) for i in range(40)], 20, 100)
    by_image = real_vs_real(x, [str(i) for i in range(40)], 20, 100)
    assert np.mean(by_patient) > 10 * abs(np.mean(by_image))


def test_no_group_is_on_both_sides_and_no_image_twice(sides):
    groups = [f"patient {i % 7}" for i in range(30)]
    x = features(30)
    x[:, 0], x[:, 1] = torch.arange(30), torch.arange(30) % 7
    real_vs_real(x, groups, n_each=12, comparisons=20)
    assert len(sides) == 20
    for a, b in sides:
        assert not set(a[:, 1].tolist()) & set(b[:, 1].tolist())
        assert len(set(torch.cat([a, b])[:, 0].tolist())) == len(a) + len(b)
    assert len({tuple(sorted(a[:, 0].tolist())) for a, _ in sides}) > 15  # another half each time


@pytest.mark.parametrize(("n_each", "expected"), [(5, 5), (20, 20), (99, 20)])
def test_both_sides_have_as_many_images_as_asked_or_half(sides, n_each, expected):
    real_vs_real(features(40), [str(i) for i in range(40)], n_each, 3)
    assert [(len(a), len(b)) for a, b in sides] == [(expected, expected)] * 3


@pytest.mark.parametrize(("n_each", "expected"), [(12, 10), (13, 13)])
def test_whole_patients_come_nearest_to_what_was_asked_and_what_is_over_is_left_out(
    sides, n_each, expected
):
    """Patients of 5 images: 10 are nearest to 12, and 15 to 13."""
    real_vs_real(features(40), [str(i // 5) for i in range(40)], n_each, 3)
    assert [(len(a), len(b)) for a, b in sides] == [(expected, expected)] * 3


def test_a_large_patient_leaves_fewer_images_to_compare(sides):
    """Of 30 + 4 + 4 images, one side has at most 8."""
    groups = ["a"] * 30 + ["b"] * 4 + ["c"] * 4
    real_vs_real(features(38), groups, n_each=19, comparisons=10)
    assert all(len(a) == len(b) and len(a) in (4, 8) for a, b in sides)


@pytest.mark.parametrize("groups", [["a"] * 10, ["a"] * 9 + ["b"]])
def test_one_patient_cannot_be_compared(groups):
    assert real_vs_real(features(10), groups, 5, 10) == []


def test_the_comparisons_are_the_same_every_time():
    groups = [str(i // 2) for i in range(20)]
    assert real_vs_real(features(20), groups, 8, 5) == real_vs_real(features(20), groups, 8, 5)


@pytest.mark.parametrize("spread", [0.0, 0.01, 3.0])
def test_the_smallest_difference_is_2_8_standard_deviations_of_a_difference(spread):
    """KIDs -s and s have the deviation s sqrt(2), their difference 2 s."""
    assert smallest_difference([-spread, spread]) == pytest.approx(2.8 * 2 * spread)


def test_the_smallest_difference_is_found_in_80_percent_of_the_cases():
    rng = np.random.default_rng(0)
    kids = rng.normal(0.1, 0.02, 20_000)
    difference = smallest_difference(kids) + rng.normal(0, 0.02, (20_000, 2)) @ [1, -1]
    assert (np.abs(difference) > 1.96 * 0.02 * 2**0.5).mean() == pytest.approx(0.8, abs=0.01)
