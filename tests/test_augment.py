import pytest
import torch
from torch.nn import functional as F

from mbgan.augment import Translation
from mbgan.latents import Draws


def test_translation_moves_whole_images_and_pads_with_zeros():
    """Every result is one of the (2 * 2 + 1)^2 crops of the padded image, and all occur."""
    x = torch.randn(1, 3, 16, 16).expand(600, 3, 16, 16)
    padded = F.pad(x[0], [2] * 4)
    crops = {(i, j): padded[:, i : i + 16, j : j + 16] for i in range(5) for j in range(5)}
    moved = Translation(ratio=0.125)(x, Draws(0, 0), "real")
    found = [next(k for k, crop in crops.items() if torch.equal(crop, y)) for y in moved]
    assert set(found) == set(crops)


def test_translation_is_differentiable_twice():
    """The gradient penalty goes through it: d/dx ||dD/dx||^2 must exist."""
    x = torch.randn(3, 3, 16, 16, requires_grad=True)
    (grad,) = torch.autograd.grad(
        Translation(0.25)(x, Draws(0, 0), "a").pow(3).sum(), x, create_graph=True
    )
    (second,) = torch.autograd.grad(grad.sum(), x)
    kept = second != 0  # what was not pushed over the edge
    torch.testing.assert_close(second[kept], 6 * x.detach()[kept])
    assert kept.any()


def test_names_shift_by_other_amounts_and_the_same_name_by_the_same():
    x, augment = torch.randn(8, 3, 16, 16), Translation(0.25)
    assert torch.equal(augment(x, Draws(0, 1), "real"), augment(x, Draws(0, 1), "real"))
    assert not torch.equal(augment(x, Draws(0, 1), "real"), augment(x, Draws(0, 1), "fake"))


def test_translation_by_nothing_changes_nothing():
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(Translation(0.0)(x, Draws(0, 0), "real"), x)


def test_ratio_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r"ratio must be in \[0, 0.5\], got 0.6"):
        Translation(0.6)
