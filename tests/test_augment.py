import pytest
import torch
from conftest import ArrayData, TinyCritic, tiny_gan
from torch.nn import functional as F

from mbgan.augment import (
    DARKEST,
    Adaptive,
    Augment,
    Brightness,
    Chain,
    Contrast,
    Cutout,
    Saturation,
    Stain,
    Translation,
    Turn,
    preview,
)
from mbgan.latents import Draws
from mbgan.losses import NonSaturating
from mbgan.regularizers import Regularizer

KINDS = [Turn, Translation, Cutout, Brightness, Saturation, Contrast, Stain]
DRAWS = Draws(0, 0)


def images(n, side=16):
    """Random images strictly within (-1, 1)."""
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(0)) * 1.8 - 0.9


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


def test_turn_shows_every_pose_of_the_square_equally_often():
    x = images(1).expand(800, 3, 16, 16)
    swapped = x[0].transpose(1, 2)
    poses = [p.flip(axes) for p in (x[0], swapped) for axes in ((), (1,), (2,), (1, 2))]
    turned = Turn()(x, DRAWS, "real")
    found = [next(i for i, pose in enumerate(poses) if torch.equal(pose, y)) for y in turned]
    counts = torch.bincount(torch.tensor(found), minlength=8)
    assert (counts - 100).abs().max() < 4 * (800 / 8 * 7 / 8) ** 0.5  # four standard deviations


def test_cutout_sets_one_square_to_zero_wherever_its_center_lies():
    """Side 16, ratio 0.5: a hole of 8 x 8, clipped at the edges to 4 x 4 at the least."""
    x = torch.ones(600, 3, 16, 16)
    holes = Cutout(0.5)(x, DRAWS, "real") == 0
    assert torch.equal(holes, holes[:, :1].expand_as(holes))
    rows, columns = holes[:, 0].any(2), holes[:, 0].any(1)  # [N, 16] each
    assert torch.equal(holes[:, 0], rows[:, :, None] & columns[:, None, :])
    for line in (rows, columns):
        first, length = line.int().argmax(1), line.sum(1)
        assert all(row[f : f + n].all() for row, f, n in zip(line, first, length, strict=True))
        assert (length.min(), length.max()) == (4, 8)
        assert set(first.tolist()) == set(range(13))


def test_brightness_adds_one_number_to_an_image():
    x = images(400)
    added = Brightness(0.5)(x, DRAWS, "real") - x
    first = added[:, :1, :1, :1]
    torch.testing.assert_close(added, first.expand_as(added))
    assert -0.5 <= first.min() < -0.48
    assert 0.48 < first.max() <= 0.5


@pytest.mark.parametrize(
    ("augment", "axes", "reach"), [(Saturation(1.0), 1, 1.0), (Contrast(0.5), (1, 2, 3), 0.5)]
)
def test_saturation_and_contrast_scale_the_distance_from_a_mean(augment, axes, reach):
    """x - mean becomes factor * (x - mean), the mean stays (DiffAugment's definitions)."""
    x = images(400)
    y = augment(x, DRAWS, "real")
    mean = x.mean(axes, keepdim=True)
    torch.testing.assert_close(y.mean(axes, keepdim=True), mean)
    factor = ((y - mean) * (x - mean)).sum((1, 2, 3)) / (x - mean).square().sum((1, 2, 3))
    torch.testing.assert_close(y, mean + factor.view(-1, 1, 1, 1) * (x - mean))
    assert 1 - reach <= factor.min() < 1 - 0.95 * reach
    assert 1 + 0.95 * reach < factor.max() <= 1 + reach + 1e-5


def test_stain_scales_the_amounts_of_hematoxylin_and_eosin_and_nothing_else():
    """Density h H + e E + r R, R across both, becomes a h H + b e E + r R (Beer-Lambert)."""
    augment = Stain(0.2).double()
    hematoxylin, eosin = augment.vectors
    basis = torch.stack([hematoxylin, eosin, torch.linalg.cross(hematoxylin, eosin)])
    numbers = torch.Generator().manual_seed(0)
    amounts = torch.rand(200, 8, 8, 3, dtype=torch.float64, generator=numbers)
    amounts[..., 2] *= 0.1

    def picture(amounts):
        density = (amounts @ basis).permute(0, 3, 1, 2)
        return 2 * ((1 + DARKEST) * torch.exp(-density) - DARKEST) - 1

    y = augment(picture(amounts), DRAWS, "real")
    density = -torch.log(((y + 1) / 2 + DARKEST) / (1 + DARKEST))
    factors = density.permute(0, 2, 3, 1) @ torch.linalg.inv(basis) / amounts
    torch.testing.assert_close(factors, factors[:, :1, :1].expand_as(factors), rtol=1e-5, atol=0)
    a, b, rest = factors[:, 0, 0].unbind(1)
    torch.testing.assert_close(rest, torch.ones_like(rest), rtol=1e-5, atol=0)
    for factor in (a, b):
        assert 0.8 <= factor.min() < 0.82
        assert 1.18 < factor.max() <= 1.2
    assert torch.corrcoef(torch.stack([a, b]))[0, 1].abs() < 0.5  # each of its own


def test_stain_leaves_glass_white_and_is_finite_on_black():
    x = torch.cat([torch.ones(4, 3, 8, 8), -torch.ones(4, 3, 8, 8)]).requires_grad_(True)
    y = Stain(0.5)(x, DRAWS, "real")
    torch.testing.assert_close(y[:4], x[:4])
    y.sum().backward()
    assert y.isfinite().all()
    assert x.grad.isfinite().all()


def test_stain_keeps_its_precision_under_autocast():
    """bfloat16 has three digits: dark pixels would move by several levels of 255."""
    x, augment = images(4), Stain(0.1)
    with torch.autocast("cpu", torch.bfloat16):
        inside = augment(x, DRAWS, "real")
    assert torch.equal(inside, augment(x, DRAWS, "real"))


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_and_its_gradient_go_through_every_augmentation(kind):
    """The generator learns through it, and the penalties differentiate a second time."""
    augment = kind().double()
    x = images(2, side=4).double().requires_grad_(True)
    assert torch.autograd.gradcheck(lambda x: augment(x, DRAWS, "a"), x)
    assert torch.autograd.gradgradcheck(lambda x: augment(x, DRAWS, "a").square(), x)


@pytest.mark.parametrize("kind", KINDS)
def test_treatment_depends_on_name_and_step_and_not_on_what_an_image_shows(kind):
    """Real and generated images of the same content come out alike in distribution."""
    augment, x = kind(), images(6)
    assert torch.equal(augment(x, Draws(0, 1), "real"), augment(x, Draws(0, 1), "real"))
    for other in (augment(x, Draws(0, 1), "fake"), augment(x, Draws(0, 2), "real")):
        assert not torch.equal(augment(x, Draws(0, 1), "real"), other)
    rest = torch.cat([x[:3], images(9)[6:]])  # the first three beside other images
    assert torch.equal(augment(x, DRAWS, "real")[:3], augment(rest, DRAWS, "real")[:3])


@pytest.mark.parametrize("kind", KINDS)
def test_two_ranks_augment_as_one_process_does(kind):
    augment, x = kind(), images(6)
    parts = [augment(x[3 * r : 3 * r + 3], Draws(0, 5, r, 2), "real") for r in range(2)]
    assert torch.equal(torch.cat(parts), augment(x, Draws(0, 5), "real"))


@pytest.mark.parametrize(
    "neutral",
    [Cutout(0.0), Brightness(0.0), Saturation(0.0), Contrast(0.0), Stain(0.0)],
    ids=lambda augment: type(augment).__name__,
)
def test_reach_of_nothing_changes_nothing(neutral):
    torch.testing.assert_close(neutral(images(3), DRAWS, "real"), images(3))


def test_parts_of_a_chain_follow_each_other_and_draw_their_own_numbers():
    """x + a + b with a and b apart: with shared numbers every sum would be twice the first."""
    chain = Chain(first=Brightness(0.5), second=Brightness(0.5))
    x = torch.zeros(50, 3, 4, 4)
    a = Brightness(0.5)(x, DRAWS.of("first"), "real")
    both = chain(x, DRAWS, "real")
    torch.testing.assert_close(both - a, Brightness(0.5)(x, DRAWS.of("second"), "real"))
    assert not torch.equal(both, 2 * a)


def adaptive(**settings):
    """Adds 1 or nothing, by two parts."""

    class Add(Augment):
        def __init__(self, what):
            super().__init__()
            self.what = what

        def forward(self, x, draws, name):
            return x + self.what

    return Adaptive(Chain(one=Add(1), ten=Add(10)), **settings)


def test_each_part_is_applied_to_an_image_with_probability_p():
    augment, x = adaptive(), torch.zeros(2000, 3, 2, 2)
    assert torch.equal(augment(x, DRAWS, "real"), x)  # p begins at 0
    augment.p.fill_(0.3)
    y = augment(x, DRAWS, "real")[:, 0, 0, 0]
    for value, share in ((0, 0.49), (1, 0.21), (10, 0.21), (11, 0.09)):
        assert abs((y == value).float().mean() - share) < 4 * (share * (1 - share) / 2000) ** 0.5
    augment.p.fill_(1)
    assert (augment(x, DRAWS, "real") == 11).all()


def test_probability_follows_the_equation_of_its_controller():
    """Every 4 steps p += sign(E[sign D(x_real)] - 0.6) * 4 * batch / rise (Karras et al. 2020)."""
    augment = adaptive(target=0.6, rise=1000, every=4, cap=0.8)
    high, low = torch.tensor([2.0] * 9 + [-1]), torch.tensor([50.0] * 7 + [-1e-3] * 3)
    seen = []
    for step, d_real in enumerate([high] * 8 + [low] * 4 + [high] * 3 + [low]):
        augment.observe(d_real, Draws(0, step))
        seen.append(round(augment.p.item(), 6))
    # Mean signs 0.8 and 0.4; of the last four steps together 0.7.
    assert seen == [0] * 3 + [0.04] * 4 + [0.08] * 4 + [0.04] * 4 + [0.08]


@pytest.mark.parametrize(("score", "end"), [(1.0, 0.8), (-1.0, 0.0)])
def test_probability_stays_between_nothing_and_its_cap(score, end):
    augment = adaptive(rise=100, every=1, cap=0.8)
    augment.p.fill_(0.5)
    for step in range(20):
        augment.observe(torch.full((8, 3), score), Draws(0, step))
    torch.testing.assert_close(augment.p, torch.tensor(end))


def test_signs_of_all_ranks_count(monkeypatch):
    """One rank's 0.9 and the other's 0.1 are 0.5 together, under the target."""
    mine = torch.tensor([1.0] * 19 + [-1])
    other = torch.tensor([2.0, 20.0])  # sum of signs and their number

    monkeypatch.setattr(torch.distributed, "all_reduce", lambda seen: seen.add_(other))
    augment = adaptive(every=1, rise=400)
    augment.p.fill_(0.5)
    augment.observe(mine, Draws(0, 0, 0, 2))
    torch.testing.assert_close(augment.p, torch.tensor(0.5 - 2 * 20 / 400))


def test_probability_is_the_same_after_a_resume(fit, tmp_path):
    """The stop at step 5 lies between two changes: signs are saved as well as p."""

    def gan():
        torch.manual_seed(0)  # of the critic, which scores real images over 0 then
        parts = {"augment": Adaptive(Chain(turn=Turn(), stain=Stain()), -0.9, rise=40, every=4)}
        parts |= {"loss": NonSaturating(), "regularizer": Regularizer()}
        return tiny_gan(**parts, critic=TinyCritic(dropout=0.0))

    whole, first, second = gan(), gan(), gan()
    fit(whole, batches=7)
    fit(first, batches=5).save_checkpoint(tmp_path / "stop.ckpt")
    fit(second, batches=2, data=ArrayData(), ckpt_path=tmp_path / "stop.ckpt")
    assert whole.augment.p > 0
    assert second.augment.signs[1] == 3 * 4  # steps since the change, images in each
    for name, value in whole.state_dict().items():
        assert torch.equal(second.state_dict()[name], value), name


def test_preview_shows_originals_above_augmented_images():
    x = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8)
    sheet = preview(Augment(), x, rows=2)
    assert sheet.shape == (3, 3 * 8 + 2 * 2, 5 * 8 + 4 * 2)
    assert torch.equal(sheet[:, :8], sheet[:, 10:18])
    assert torch.equal(sheet[:, :8, :8], x[0])
    bright = preview(Brightness(2.0), x, rows=2)
    assert torch.equal(bright[:, :8], sheet[:, :8])
    assert not torch.equal(bright[:, 10:18], bright[:, 20:])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Translation(0.6), r"ratio must be in \[0, 0.5\], got 0.6"),
        (lambda: Cutout(1.5), r"ratio must be in \[0, 1\], got 1.5"),
        (lambda: Brightness(-0.1), r"reach must be in \[0, 2\], got -0.1"),
        (lambda: Saturation(1.1), r"reach must be in \[0, 1\], got 1.1"),
        (lambda: Contrast(float("nan")), r"reach must be in \[0, 1\], got nan"),
        (lambda: Stain(2), r"reach must be in \[0, 1\], got 2"),
        (lambda: adaptive(target=1.0), r"target must be in \(-1, 1\), got 1.0"),
        (lambda: adaptive(rise=0), "rise must be over 0 images, got 0"),
        (lambda: adaptive(every=0), "every must be at least 1 critic step, got 0"),
        (lambda: adaptive(cap=1.5), r"cap must be in \[0, 0.8\], got 1.5"),
    ],
)
def test_settings_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
