import math

import pytest
import torch

from mbgan.metrics.distances import diversity, fid, inception_score, vendi, vendi_ratio
from mbgan.metrics.kernel import kid


def features(n, seed, shift=0.0, d=8):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator, dtype=torch.float64) + shift


def test_fid_of_a_set_with_itself_is_zero():
    x = features(50, seed=0)
    assert abs(fid(x, x)) < 1e-6


def test_fid_of_shifted_features_is_the_squared_distance():
    """Equal covariances cancel: FID = ||shift||^2 = 8 * 0.5^2."""
    x = features(50, seed=0)
    assert fid(x, x + 0.5) == pytest.approx(8 * 0.5**2, abs=1e-6)


def test_fid_of_diagonal_gaussians_has_a_closed_form():
    """Sum over dimensions of (sd_1 - sd_2)^2, here with sd_2 = 3 sd_1."""
    x = features(100, seed=0)
    sd = torch.linalg.eigvalsh(torch.cov(x.T)).clamp(min=0).sqrt()
    centered = x - x.mean(0)
    assert fid(centered, 3 * centered) == pytest.approx(float((2 * sd).square().sum()), rel=1e-6)


def test_diversity_counts_images_not_how_far_they_lie_apart():
    """A few images, drawn again and again, have each other as neighbors, at distance 0."""
    real = features(60, seed=0)
    assert diversity(real, features(60, seed=1)) == pytest.approx(1, abs=0.1)
    assert diversity(real, 0.5 * real + 3) == pytest.approx(0.25)
    for images in (1, 2, 20):
        assert diversity(real, features(images, seed=2).repeat(60 // images, 1)) < 1e-6


def test_inception_score_without_classes_says_where_there_are_some():
    """A suite turns the error into the reason why the score is left out."""
    with pytest.raises(ValueError, match=r"needs an extractor with a classifier, got one without"):
        inception_score(torch.zeros(4, 0, dtype=torch.float64))


def test_inception_score_is_one_for_one_answer_and_the_number_of_classes_for_sure_ones():
    assert inception_score(torch.zeros(40, 5, dtype=torch.float64)) == pytest.approx(1.0)
    sure = 100 * torch.eye(4, dtype=torch.float64).repeat(100, 1)
    assert inception_score(sure) == pytest.approx(4.0, rel=0.1)  # classes uneven in its ten parts


def test_vendi_counts_images_that_are_unlike_and_equal_ones_once():
    """Of shares p of orthogonal kinds: exp of the entropy of p."""
    kinds = torch.eye(5)
    assert vendi(kinds) == pytest.approx(5)
    assert vendi(kinds.repeat(3, 1)) == pytest.approx(5)
    assert vendi(7 * kinds[:1].repeat(4, 1)) == pytest.approx(1)
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert vendi(kinds[[0, 0, 0, 1]]) == pytest.approx(math.exp(entropy))


def test_vendi_of_few_images_is_that_of_many_with_as_many_copies():
    """The eigenvalues of images and those of features are the same, but for zeros."""
    x = features(6, seed=0, shift=1.0)
    assert vendi(x.repeat(20, 1)) == pytest.approx(vendi(x))


def test_vendi_ratio_is_one_for_one_distribution_at_any_two_numbers():
    """The plain ratio of 40 to 150 images is 0.85: Vendi grows with n."""
    ratios = [
        vendi_ratio(features(150, seed=s, d=32), features(40, seed=100 + s, d=32))
        for s in range(20)
    ]
    assert sum(ratios) / 20 == pytest.approx(1, abs=0.01)


def test_vendi_ratio_of_dropped_modes_is_their_share():
    """Ten kinds of images against four of them."""
    kinds = 10 * torch.eye(10).repeat(6, 1)
    assert vendi_ratio(kinds, kinds[kinds[:, :4].any(1)].repeat(3, 1)[:60]) == pytest.approx(0.4)


def test_an_image_without_features_has_no_vendi():
    with pytest.raises(ValueError, match="features other than 0, got 3 images, 1 of them"):
        vendi(torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 2.0]]))


def test_order_of_images_changes_nothing():
    """Also where some are drawn or dealt to parts."""
    x, y = features(47, seed=0, shift=1.0), features(30, seed=1, shift=0.5)
    for score in (fid, diversity, vendi_ratio):
        assert score(x.flip(0), y.roll(7, 0)) == pytest.approx(score(x, y), rel=1e-6)
    assert inception_score(x.flip(0)) == pytest.approx(inception_score(x), rel=1e-9)


def test_scores_are_repeatable_and_leave_the_global_generator_alone():
    x, y = features(30, seed=0), features(30, seed=1)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = (fid(x, y), kid(x, y), inception_score(x))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert first == (fid(x, y), kid(x, y), inception_score(x))


@pytest.mark.parametrize("score", [fid, kid, diversity, vendi_ratio])
def test_one_image_is_no_sample(score):
    with pytest.raises(ValueError, match="at least 2 images on each side, got n_real=1, n_fake=5"):
        score(features(1, seed=0), features(5, seed=1))
