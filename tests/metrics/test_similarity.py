import pytest
import torch
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

from mbgan.metrics.similarity import BETAS, ms_ssim


def images(n, side=64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 3, side, side), dtype=torch.uint8, generator=generator)


def test_equal_images_are_one_and_noise_is_near_zero():
    assert ms_ssim(images(1).repeat(4, 1, 1, 1)) == pytest.approx(1, abs=1e-6)
    assert ms_ssim(images(4)) < 0.1


def test_dropped_modes_are_more_alike():
    """Two images in turn: of 15 pairs 6 are of equal ones, of 12 images 30 of 66."""
    x = images(2)
    apart = ms_ssim(x)
    assert ms_ssim(x.repeat(3, 1, 1, 1)) == pytest.approx((6 + 9 * apart) / 15, abs=1e-5)
    assert ms_ssim(x.repeat(6, 1, 1, 1)) == pytest.approx((30 + 36 * apart) / 66, abs=1e-5)


def test_one_outlier_counts_in_its_own_pairs_only():
    x = torch.cat([images(1, 32).repeat(9, 1, 1, 1), images(1, 32, seed=1)])
    assert ms_ssim(x) == pytest.approx((36 + 9 * ms_ssim(x[8:])) / 45, abs=1e-5)


@pytest.mark.parametrize(("side", "scales"), [(11, 1), (22, 2), (64, 3), (99, 4), (176, 5)])
def test_as_many_scales_as_fit_share_the_weight(side, scales):
    x = images(2, side) // 2 + images(1, side, seed=1) // 2  # somewhat alike at every scale
    betas = tuple(beta / sum(BETAS[:scales]) for beta in BETAS[:scales])
    expected = multiscale_structural_similarity_index_measure(
        x[:1].float(), x[1:].float(), data_range=255.0, betas=betas
    )
    assert ms_ssim(x) == pytest.approx(float(expected), abs=1e-5)


def test_order_of_images_changes_nothing_also_where_pairs_are_drawn():
    x = images(20, 16)
    for pairs in (200, 30):
        assert ms_ssim(x.flip(0), pairs) == pytest.approx(ms_ssim(x, pairs), abs=1e-6)


def test_drawn_pairs_estimate_all():
    x = images(30, 16) // 4 + images(1, 16, seed=1) // 2
    assert ms_ssim(x, pairs=150) == pytest.approx(ms_ssim(x, pairs=435), rel=0.05)


@pytest.mark.parametrize(("n", "side"), [(1, 64), (5, 10)])
def test_too_few_or_too_small_images_are_refused(n, side):
    with pytest.raises(ValueError, match=f"2 images of at least 11 pixels, got {n} of {side}"):
        ms_ssim(images(n, side))
