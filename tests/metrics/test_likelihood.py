"""The generalization gap of the feature likelihood divergence."""

import pytest
import torch

from mbgan.metrics import likelihood
from mbgan.metrics.likelihood import fld_gap


def points(n, seed, width=4):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, width, generator=generator, dtype=torch.float64)


def test_fld_gap_of_one_gaussian_each_is_exact():
    """Every fake at 0 and features of variance 1: the common best variance is 1, so the gap is
    100 / F / 2 * (mean |train|^2 - mean |held out|^2); Adam at 0.5 comes within 1 %."""
    train = torch.tensor([[[-1.0, -1.0], [1.0, 1.0], [1.0, -1.0], [-1.0, 1.0]]])
    held_out = torch.tensor([[3.0, 0.0], [0.0, 3.0]])
    gap = fld_gap(train, held_out, torch.zeros(2, 2))
    assert gap == pytest.approx(100 / 2 / 2 * (2 - 9), rel=2e-2)


def test_fld_gap_is_negative_for_copies_and_small_for_new_images():
    train, held_out, fake = (points(60, seed) for seed in range(3))
    copies = fld_gap(train[None], held_out, train + 0.01 * points(60, 3))
    assert copies < -20
    assert abs(fld_gap(train[None], held_out, fake)) < -copies / 4


def test_fld_gap_leaves_out_features_that_do_not_vary():
    train, held_out, fake = (points(20, seed) for seed in range(3))
    wider = [torch.cat([x, torch.ones(20, 1)], 1) for x in (train, held_out, fake)]
    assert fld_gap(wider[0][None], *wider[1:]) == pytest.approx(
        fld_gap(train[None], held_out, fake)
    )


def test_the_slope_is_that_of_autograd():
    """Of -mean_i log sum_j exp(-(d_ij^2 / v_j + F log v_j) / 2) / F by log v."""
    squares, width = torch.cdist(points(300, 0), points(700, 1)).square(), 4
    log_variance = points(700, 2, width=1)[:, 0].requires_grad_()
    logs = -0.5 * (squares / log_variance.exp() + width * log_variance)
    (expected,) = torch.autograd.grad(-logs.logsumexp(1).mean() / width, log_variance)
    found = likelihood._slope(squares, log_variance.detach(), width)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-14)


def test_distances_too_many_to_keep_give_the_same_gap(monkeypatch):
    sides = points(60, 0)[None], points(50, 1), points(40, 2)
    kept = fld_gap(*sides)
    monkeypatch.setattr(likelihood, "HELD", 0)
    assert fld_gap(*sides) == kept
