import pytest
import torch
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

from mbgan.metrics.similarity import BETAS, ms_ssim


def images(n, side=64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 3, side, side), dtype=torch.uint8, generator=generator)


def test_equal_images_are_one_and_noise_is_near_zero():
    assert ms_ssim(images(1).repeat(4, 1, 1, 1)).numpy() == pytest.approx(1, abs=1e-6)
    assert ms_ssim(images(8)).mean() < 0.1


def test_dropped_modes_are_more_alike():
    """Of two kinds of images, half of the pairs are of one kind."""
    x = images(2, 16)
    values = ms_ssim(x.repeat(200, 1, 1, 1))
    assert (values > 0.9).double().mean() == pytest.approx(0.5, abs=0.1)
    assert values[values < 0.9].numpy() == pytest.approx(ms_ssim(x).item(), abs=1e-5)


def test_no_image_is_in_two_pairs_and_one_outlier_in_one():
    values = ms_ssim(torch.cat([images(1, 32).repeat(9, 1, 1, 1), images(1, 32, seed=1)]))
    assert len(values) == 5
    assert (values < 0.9).sum() == 1


@pytest.mark.parametrize(("side", "scales"), [(11, 1), (22, 2), (64, 3), (99, 4), (176, 5)])
def test_as_many_scales_as_fit_share_the_weight(side, scales):
    x = images(2, side) // 2 + images(1, side, seed=1) // 2  # somewhat alike at every scale
    betas = tuple(beta / sum(BETAS[:scales]) for beta in BETAS[:scales])
    expected = multiscale_structural_similarity_index_measure(
        x[:1].float(), x[1:].float(), data_range=255.0, betas=betas
    )
    assert ms_ssim(x).item() == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.parametrize("pairs", [200, 5])
def test_order_of_images_changes_nothing_also_where_pairs_are_drawn(pairs):
    x = images(20, 16)
    assert len(ms_ssim(x, pairs)) == min(10, pairs)
    torch.testing.assert_close(ms_ssim(x.flip(0), pairs), ms_ssim(x, pairs))


@pytest.mark.parametrize(("n", "side"), [(1, 64), (5, 10)])
def test_too_few_or_too_small_images_are_refused(n, side):
    with pytest.raises(ValueError, match=f"2 images of at least 11 pixels, got {n} of {side}"):
        ms_ssim(images(n, side))
