import numpy as np
import pytest
import torch

from mbgan.metrics.membership import auroc, closeness, interval


def test_auroc_counts_pairs_and_ties_half():
    assert auroc(np.array([3.0, 1.0]), np.array([2.0, 1.0])) == (1 + 1 + 0 + 0.5) / 4


def test_copies_of_members_give_them_away_and_strangers_do_not():
    numbers = torch.Generator().manual_seed(0)
    train, held_out, strangers = (torch.randn(200, 8, generator=numbers) for _ in range(3))
    noise = 0.1 * torch.randn(200, 8, generator=numbers)
    assert auroc(closeness(train, train + noise), closeness(held_out, train + noise)) > 0.99
    sides = closeness(train, strangers), closeness(held_out, strangers)
    assert auroc(*sides) == pytest.approx(0.5, abs=0.1)


def test_few_patients_make_a_wider_interval_than_as_many_images_would():
    rng = np.random.default_rng(1)
    values = [np.repeat(rng.normal(size=5), 20) for _ in range(2)]
    images, patients = ([[str(i // k) for i in range(100)] for _ in range(2)] for k in (1, 20))
    low, high = interval(*values, tuple(images))
    wide_low, wide_high = interval(*values, tuple(patients))
    assert wide_high - wide_low > 2 * (high - low)
