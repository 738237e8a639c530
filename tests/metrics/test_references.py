"""Scores against torchmetrics' and torch-fidelity's own, and against plain numpy."""

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.inception import InceptionScore
from torchmetrics.image.kid import KernelInceptionDistance

from mbgan.latents import seed_of
from mbgan.metrics.distances import Given, fid, inception_score, settled, vendi
from mbgan.metrics.kernel import kid
from mbgan.metrics.memorization import copy_test
from mbgan.metrics.neighbors import density_coverage, precision_recall

WIDTHS = pytest.mark.parametrize("d", [8, 96])  # fewer features than images, and more


def features(n, seed, d, shift=0.0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator, dtype=torch.float64) + shift


def sides(d):
    """Sixty reals, and as many fakes that are shifted."""
    return features(60, 0, d), features(60, 1, d, shift=0.3)


def distances(x, y):
    """Of every image to every other [N, M], in numpy."""
    return np.sqrt(((x.numpy()[:, None] - y.numpy()) ** 2).sum(-1))


def of_torchmetrics(metric, real, fake):
    metric = metric.set_dtype(torch.float64)
    metric.update(real, real=True)
    metric.update(fake, real=False)
    return metric.compute()


@WIDTHS
def test_fid(d):
    real, fake = sides(d)
    theirs = of_torchmetrics(FrechetInceptionDistance(Given(d)), real, fake)
    assert fid(real, fake) == pytest.approx(float(theirs), rel=1e-6)
    statistics = [fid_features_to_statistics(x) for x in (fake, real)]
    theirs = fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    assert fid(real, fake) == pytest.approx(theirs, rel=1e-6)


def test_fid_is_that_of_its_authors_matrix_root():
    real, fake = sides(8)
    s_real, s_fake = np.cov(real.T), np.cov(fake.T)
    shift = (real.mean(0) - fake.mean(0)).square().sum()
    expected = float(shift) + np.trace(s_real + s_fake - 2 * sqrtm(s_real @ s_fake).real)
    assert fid(real, fake) == pytest.approx(expected, rel=1e-6)


@WIDTHS
def test_kid(d):
    """One subset of all images is the whole estimate."""
    real, fake = sides(d)
    theirs, _ = of_torchmetrics(
        KernelInceptionDistance(Given(d), subsets=1, subset_size=60), real, fake
    )
    assert kid(real, fake) == pytest.approx(float(theirs), rel=1e-6)
    theirs = kid_features_to_metric(fake, real, kid_subsets=1, kid_subset_size=60, verbose=False)
    assert kid(real, fake) == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-6)


@WIDTHS
@pytest.mark.parametrize("k", [3, 5])
def test_precision_and_recall(d, k):
    real, fake = features(60, 0, d), features(60, 1, d, shift=0.3) * 0.8
    theirs = prc_features_to_metric(fake, real, prc_neighborhood=k, verbose=False)
    assert precision_recall(real, fake, k) == pytest.approx(
        (theirs["precision"], theirs["recall"]), rel=1e-6
    )


def test_inception_score():
    """Both shuffle before they make parts, so that order is given to them."""
    logits = 3 * features(60, 0, 8)
    metric = InceptionScore(Given(8), splits=10)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of("inception_score"))
        order = torch.randperm(60)
        torch.manual_seed(seed_of("inception_score"))
        metric.update(settled(logits))
        theirs = float(metric.compute()[0])
    assert inception_score(logits) == pytest.approx(theirs, rel=1e-6)
    theirs = isc_features_to_metric(settled(logits)[order], splits=10, shuffle=False)
    assert inception_score(logits) == pytest.approx(theirs["inception_score_mean"], rel=1e-6)
    assert theirs["inception_score_mean"] > 1.5


@WIDTHS
def test_density_and_coverage(d):
    """Naeem et al. 2020, eqs. 3 and 4."""
    real, fake = sides(d)
    radii = np.sort(distances(real, real), 1)[:, 5]  # after itself
    inside = distances(real, fake) < radii[:, None]  # [n_real, n_fake]
    expected = inside.sum() / (5 * 60), inside.any(1).mean()
    assert density_coverage(real, fake) == pytest.approx(expected, rel=1e-6)


@WIDTHS
def test_vendi(d):
    """Friedman & Dieng 2023, def. 3.1."""
    x = features(60, 0, d, shift=1.0).numpy()
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    eigenvalues = np.linalg.eigvalsh(unit @ unit.T / 60)
    eigenvalues = eigenvalues[eigenvalues > 1e-12]
    expected = np.exp(-(eigenvalues * np.log(eigenvalues)).sum())
    assert vendi(torch.from_numpy(x)) == pytest.approx(expected, rel=1e-6)


def test_c_t():
    """Meehan et al. 2020, eq. 1, pair by pair along four principal axes."""
    train, held_out, fake = features(50, 0, 8), features(30, 1, 8), features(20, 2, 8, shift=0.2)
    center = train.mean(0)
    _, _, rows = np.linalg.svd((train - center).numpy())
    t, h, f = ((x - center) @ torch.from_numpy(rows[:4].T) for x in (train, held_out, fake))
    near_held_out, near_fake = distances(h, t).min(1), distances(f, t).min(1)
    u = (near_fake[:, None] > near_held_out).sum()
    expected = (u - 20 * 30 / 2) / (20 * 30 * 51 / 12) ** 0.5
    assert copy_test(train[None], held_out, fake, 4).z == pytest.approx(expected, rel=1e-6)
