"""KID and what is known of it: against its definition, two libraries, and many repetitions."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch_fidelity.metric_kid import kid_features_to_metric
from torchmetrics.image.kid import KernelInceptionDistance

from mbgan.metrics.distances import Given
from mbgan.metrics.kernel import Kernels, bootstrap, interval, kid, permutation_p


def features(n, seed, shift=0.0, d=8):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator, dtype=torch.float64) + shift


def pairs(shift, n=60, repetitions=150):
    """Kernels of many pairs of samples, the second shifted."""
    for seed in range(repetitions):
        yield Kernels.of(features(n, seed), features(n, 1000 + seed, shift))


@pytest.mark.parametrize("n_fake", [12, 7])
def test_kid_is_the_u_statistic_over_all_pairs(n_fake):
    """Pair by pair (Binkowski et al. 2018, eq. 4), also for unequal numbers."""
    x, y = features(12, seed=0), features(n_fake, seed=1, shift=0.3)
    k = lambda a, b: float((a @ b / len(a) + 1) ** 3)  # noqa: E731
    within = [
        sum(k(s[i], s[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
        for s, n in ((x, 12), (y, n_fake))
    ]
    across = sum(k(a, b) for a in x for b in y) / (12 * n_fake)
    assert kid(x, y) == pytest.approx(sum(within) - 2 * across, abs=1e-9)


def test_kid_is_that_of_torchmetrics_and_torch_fidelity():
    x, y = features(40, seed=0), features(40, seed=1, shift=0.2)
    metric = KernelInceptionDistance(Given(8), subsets=1, subset_size=40).set_dtype(torch.float64)
    metric.update(x, real=True)
    metric.update(y, real=False)
    assert kid(x, y) == pytest.approx(float(metric.compute()[0]), abs=1e-6)
    theirs = kid_features_to_metric(y, x, kid_subsets=1, kid_subset_size=40, verbose=False)
    assert kid(x, y) == pytest.approx(theirs["kernel_inception_distance_mean"], abs=1e-6)


def test_kid_of_equal_distributions_is_zero_on_average_and_may_be_negative():
    values = [kernels.kid() for kernels in pairs(shift=0.0, repetitions=40)]
    assert min(values) < 0 < max(values)
    assert stats.ttest_1samp(values, 0).pvalue > 0.01


@pytest.mark.parametrize("shift", [0.0, 0.2, 0.4, 1.0])
def test_the_interval_covers_the_distance_as_often_as_it_says(shift):
    """Where they are equal a plain bootstrap is too wide, and near that one shrunk too narrow."""
    truth = kid(features(4000, 5000), features(4000, 6000, shift)) if shift else 0.0
    intervals = [interval(kernels) for kernels in pairs(shift)]
    covered = np.mean([low <= truth <= high for low, high in intervals])
    assert 0.90 <= covered <= 0.99  # two standard errors of 150 repetitions around 0.95


def test_the_bootstrap_of_far_sets_spreads_as_the_jackknife():
    """There the linear part is all (Efron & Stein 1981)."""
    x, y = features(50, seed=0), features(50, seed=1, shift=2.0)

    def without(s, i):
        return torch.cat([s[:i], s[i + 1 :]])

    sides = [[kid(without(x, i), y) for i in range(50)], [kid(x, without(y, i)) for i in range(50)]]
    jackknife = sum(49 * np.var(values) for values in sides) ** 0.5
    linear, _ = bootstrap(Kernels.of(x, y))
    assert float(linear.std()) == pytest.approx(jackknife, rel=0.1)


def test_zero_is_in_the_interval_where_the_permutation_test_says_so():
    for kernels in pairs(shift=0.2, repetitions=40):
        p = permutation_p(kernels)
        if not 0.02 < p < 0.03:
            assert (interval(kernels)[0] <= 0) == (p > 0.025)


def test_images_of_one_patient_are_drawn_together():
    """Ten copies of each of six images are no sixty: taken for such, they look far from equal."""
    x = features(6, seed=0).repeat_interleave(10, 0) + 0.01 * features(60, seed=2)
    kernels, patients = Kernels.of(x, features(600, seed=1)), np.repeat(np.arange(6), 10)
    assert interval(kernels, patients)[0] < 0 < interval(kernels)[0]


def test_p_of_equal_distributions_is_uniform_and_of_others_small():
    p = [permutation_p(kernels, permutations=199) for kernels in pairs(shift=0.0)]
    assert stats.kstest(p, "uniform").pvalue > 0.01
    assert max(permutation_p(k, 199) for k in pairs(shift=1.0, repetitions=5)) == 1 / 200


def test_order_of_images_changes_nothing():
    x, y = features(30, seed=0), features(20, seed=1, shift=0.5)
    turned = Kernels.of(x.flip(0), y.flip(0))
    assert turned.kid() == pytest.approx(Kernels.of(x, y).kid(), abs=1e-12)


def test_equal_images_have_no_spread():
    kernels = Kernels.of(torch.ones(5, 8).double(), torch.ones(4, 8).double())
    assert interval(kernels) == pytest.approx((0, 0), abs=1e-12)
    assert permutation_p(kernels) == 1


def test_one_image_is_no_sample():
    with pytest.raises(ValueError, match="at least 2 images on each side, got n_real=1, n_fake=5"):
        kid(features(1, seed=0), features(5, seed=1))
