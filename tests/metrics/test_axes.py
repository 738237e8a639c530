"""FID along a few axes: what infinitely many images would score, from 150."""

import numpy as np
import pytest
import torch

from mbgan.metrics.axes import Axes, fid_extrapolated, principal_axes
from mbgan.metrics.distances import fid, frechet


def features(n, seed, d=64, shift=0.0, slope=0.8):
    """Features [n, d] of a Gaussian whose variances fall as those of networks do; sum 100."""
    generator = torch.Generator().manual_seed(seed)
    variances = torch.arange(1, d + 1, dtype=torch.float64) ** -slope
    x = torch.randn(n, d, generator=generator, dtype=torch.float64)
    return x * (100 * variances / variances.sum()).sqrt() + shift


def all_axes(d):
    return Axes(torch.zeros(d, dtype=torch.float64), torch.eye(d, dtype=torch.float64))


def test_principal_axes_are_those_of_the_singular_values():
    x = features(30, seed=0, d=8, shift=2.0)
    axes = principal_axes(x, components=3)
    _, _, rows = np.linalg.svd((x - x.mean(0)).numpy())
    np.testing.assert_allclose(np.abs(axes.directions.T), np.abs(rows[:3]), atol=1e-9)
    torch.testing.assert_close(axes.project(x).mean(0), torch.zeros(3).double())
    assert principal_axes(x[:3], components=5).directions.shape == (8, 2)


@pytest.mark.parametrize("n", [40, 5])
def test_frechet_is_fid_also_with_fewer_images_than_features(n):
    x, y = features(n, seed=0, d=8), features(30, seed=1, d=8, shift=0.5)
    assert float(frechet(x[None], y[None])) == pytest.approx(fid(x, y), rel=1e-6)


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_fid_of_150_images_is_extrapolated_to_the_truth(shift):
    """Equal covariances: the truth is 64 shift^2. Plain FID is 17 too large at shift 0.

    Of twenty pairs the mean has a standard error of 0.2 (0.35 with the shift).
    """
    pairs = [(features(150, s), features(150, 100 + s, shift=shift)) for s in range(20)]
    errors = [fid_extrapolated(x, y, all_axes(64)) - 64 * shift**2 for x, y in pairs]
    assert np.mean(errors) == pytest.approx(0, abs=1.0)
    assert np.std(errors) < 2.5
    plain = [float(frechet(x[None], y[None])) - 64 * shift**2 for x, y in pairs]
    assert np.mean(plain) > 15


def test_unequal_numbers_shrink_together():
    errors = [
        fid_extrapolated(features(150, s, d=32), features(90, 100 + s, d=32), all_axes(32))
        for s in range(20)
    ]
    assert np.mean(errors) == pytest.approx(0, abs=1.0)  # standard error 0.3; plain FID: 14


def test_axes_of_training_or_of_both_sides_are_fair_and_those_of_the_reals_are_not():
    """More features than images, as ever: along axes of their own the reals are the wider ones."""
    scores = {"train": [], "both": [], "reals": []}
    for s in range(6):
        x, y, train = (features(150, 10 * s + i, d=400) for i in range(3))
        for name, given in (("train", train), ("both", torch.cat([x, y])), ("reals", x)):
            scores[name].append(fid_extrapolated(x, y, principal_axes(given)))
    assert np.mean(scores["train"]) == pytest.approx(0, abs=1.0)
    assert np.mean(scores["both"]) == pytest.approx(0, abs=1.0)
    assert np.mean(scores["reals"]) > 3


def test_a_dropped_mode_is_seen_and_one_outlier_counts_little():
    modes = torch.zeros(150, 16).double()
    modes[:75, 0] = 20
    x, y = (modes + features(150, s, d=16, slope=0.0) / 10 for s in range(2))
    axes = principal_axes(modes + features(150, 2, d=16, slope=0.0) / 10, components=16)
    # Mean 10 away, and a standard deviation of 10 that is missing.
    dropped = y.clone()
    dropped[75:, 0] += 20
    assert fid_extrapolated(x, dropped, axes) == pytest.approx(200, rel=0.1)
    outlier = y.clone()
    outlier[0, 1] += 20
    assert 0 < fid_extrapolated(x, outlier, axes) < 20


def test_order_of_images_changes_nothing():
    x, y = features(47, 0, d=8), features(40, 1, d=8, shift=0.5)
    axes = principal_axes(features(30, 2, d=8), components=4)
    turned = fid_extrapolated(x.flip(0), y.roll(7, 0), axes)
    assert turned == pytest.approx(fid_extrapolated(x, y, axes), rel=1e-9)


def test_images_on_both_sides_lead_below_zero():
    x = features(150, 0)
    assert fid_extrapolated(x, x, all_axes(64)) < -5


def test_too_few_images_are_refused_by_the_rule():
    with pytest.raises(ValueError, match="along 64 axes needs at least 130 images on each side"):
        fid_extrapolated(features(200, 0), features(129, 1), all_axes(64))
