import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from mbgan.metrics import neighbors
from mbgan.metrics.neighbors import density_coverage, nearest, precision_recall, radius


def points(n, seed, shift=0.0, dimensions=8):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, dimensions, generator=generator, dtype=torch.float64) + shift


def test_radius_is_the_distance_to_the_kth_other_point():
    x = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
    assert radius(x, 1).tolist() == [1, 1, 2, 4]
    assert radius(x, 2).tolist() == [3, 2, 3, 6]
    with pytest.raises(ValueError, match="3 nearest neighbors need more than 3 images, got 3"):
        radius(x[:3], 3)


def test_scores_on_a_line_by_hand():
    """Balls of reals: -1 to 1, 0 to 2, 1 to 5; of fakes: -5 to 9, 2 to 16."""
    real, fake = torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([[2.0], [9.0]])
    assert precision_recall(real, fake, k=1) == (0.5, 1.0)
    density, coverage = density_coverage(real, fake, k=1)
    assert density == 1.0  # 2 lies in two balls, 9 in none; two fakes
    assert coverage == pytest.approx(2 / 3)


def test_equal_sets_are_perfect_and_far_ones_share_nothing():
    x = points(50, 0)
    assert precision_recall(x, x) == (1, 1)
    assert density_coverage(x, x)[1] == 1
    assert precision_recall(x, x + 100) == (0, 0)
    assert density_coverage(x, x + 100) == (0, 0)


def test_one_distribution_has_density_1_and_the_coverage_of_theory():
    """1 - prod (n - i) / (2 n - 1 - i) for k = 5, about 1 - 2^-5 (Naeem et al. 2020, lemma 2)."""
    n, k = 300, 5
    pairs = [density_coverage(points(n, 2 * s), points(n, 2 * s + 1), k) for s in range(20)]
    density, coverage = np.mean(pairs, axis=0)
    expected = 1 - np.prod([(n - i) / (2 * n - 1 - i) for i in range(1, k + 1)])
    assert coverage == pytest.approx(expected, abs=0.01)
    assert density == pytest.approx(1, abs=0.03)


def test_dropped_modes_lower_recall_and_coverage_and_leave_precision():
    real = torch.cat([points(60, 0), points(60, 1, 50)])
    fake = points(120, 2)
    precision, recall = precision_recall(real, fake)
    assert precision > 0.8
    assert recall < 0.55
    assert density_coverage(real, fake)[1] < 0.55


def test_an_outlier_among_the_fakes_gains_no_coverage():
    real = points(100, 0)
    fake = torch.cat([points(99, 1, 30), points(1, 2, -10)])  # whose ball reaches to the 99
    assert precision_recall(real, fake)[1] == 1.0
    assert density_coverage(real, fake)[1] == 0.0


def test_order_and_block_size_do_not_matter(monkeypatch):
    real, fake = points(41, 0), points(37, 1, 0.5)
    whole = (*precision_recall(real, fake), *density_coverage(real, fake))
    monkeypatch.setattr(neighbors, "BLOCK", 100)
    turned = (real.flip(0), fake.roll(5, 0))
    assert (*precision_recall(*turned), *density_coverage(*turned)) == pytest.approx(whole)


def test_nearest_agrees_with_scipy():
    x, y = points(30, 0), points(20, 1)
    distances = cdist(x.numpy(), y.numpy())
    found, places = nearest(x, y)
    np.testing.assert_allclose(found.numpy(), distances.min(1))
    assert places.tolist() == distances.argmin(1).tolist()
