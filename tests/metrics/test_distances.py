import pytest
import torch

from mbgan.metrics.distances import diversity, fid, inception_score
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


def test_scores_are_repeatable_and_leave_the_global_generator_alone():
    x, y = features(30, seed=0), features(30, seed=1)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = (fid(x, y), kid(x, y), inception_score(x))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert first == (fid(x, y), kid(x, y), inception_score(x))


@pytest.mark.parametrize("score", [fid, kid])
def test_one_image_is_no_sample(score):
    with pytest.raises(ValueError, match="at least 2 images on each side, got n_real=1, n_fake=5"):
        score(features(1, seed=0), features(5, seed=1))
