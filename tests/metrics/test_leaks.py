import math

import pytest
import torch

from mbgan.augment import Chain, Contrast, Cutout, Saturation, Translation, Turn
from mbgan.images import from_uint8, to_uint8
from mbgan.latents import Draws
from mbgan.metrics.leaks import find_leaks, fit_traces, verdict


def tissue(n, seed):
    """Blots of changing tint and strength [n, 3, 32, 32], uint8: no two images alike."""
    numbers = torch.Generator().manual_seed(seed)
    coarse = torch.randn(n, 1, 8, 8, generator=numbers)
    blots = torch.nn.functional.interpolate(coarse, size=32, mode="bicubic")
    strength = 0.2 + 0.1 * torch.rand(n, 1, 1, 1, generator=numbers)
    tint = torch.tensor([0.4, -0.1, 0.3]) + 0.1 * torch.randn(n, 3, generator=numbers)
    fine = 0.05 * torch.randn(n, 3, 32, 32, generator=numbers)
    return to_uint8(tint[:, :, None, None] + strength * blots + fine)


def upright(n, seed):
    """The same, brighter at the top."""
    ramp = torch.linspace(0.5, -0.5, 32)[None, None, :, None]
    return to_uint8(from_uint8(tissue(n, seed)) + ramp)


def augmented(augment, x, step=0):
    return to_uint8(augment(from_uint8(x), Draws(0, step), "fake"))


def leaking(traces):
    return {trace.name for trace in traces if trace.leaks}


PLANTED = [
    (Translation(0.125), tissue, {"border"}),
    (Cutout(0.5), tissue, {"hole"}),
    (Saturation(1.0), tissue, {"saturation"}),
    (Contrast(1.0), tissue, {"contrast"}),
    (Turn(), upright, {"pose"}),
]


@pytest.mark.parametrize(("augment", "draw", "names"), PLANTED, ids=lambda v: type(v).__name__)
def test_fakes_that_are_augmented_reals_leak_and_other_reals_do_not(augment, draw, names):
    real = draw(200, 0)
    shown = augmented(augment, real)
    traces = find_leaks(real, shown, augmented(augment, draw(100, 1), step=1))
    assert names <= leaking(traces)
    assert verdict(traces).startswith("augmentation leaks: ")
    clean = find_leaks(real, shown, draw(100, 1))
    assert {trace.name for trace in clean if trace.shown} >= names
    assert not leaking(clean)
    assert verdict(clean) == "no leak of augmentation"


def test_rate_is_the_share_of_fakes_that_are_augmented():
    """120 of 400: a mixture of real and augmented images is told by its weight."""
    augment, real, fake = Translation(0.125), tissue(400, 0), tissue(400, 1)
    fake[:120] = augmented(augment, fake[:120])
    (border,) = (t for t in find_leaks(real, augmented(augment, real), fake) if t.name == "border")
    assert border.rate == pytest.approx(120 / 400, abs=0.1)
    assert border.leaks
    bears = border.share_real + border.rate * (border.share_augmented - border.share_real)
    assert bears == pytest.approx(border.share_fake)


def test_a_trace_that_the_augmentation_does_not_leave_is_not_held_against_the_fakes():
    """Fakes with holes, where training only turned images: a fault, yet no leak."""
    real = tissue(200, 0)
    holed = augmented(Cutout(0.5), tissue(100, 1))
    traces = {t.name: t for t in find_leaks(real, augmented(Turn(), real), holed)}
    assert not traces["hole"].shown
    assert not traces["hole"].leaks
    assert math.isnan(traces["hole"].rate)


@pytest.mark.parametrize("level", [0, 128, 255, None])
def test_a_generator_that_has_learned_nothing_does_not_leak(level):
    """Flat images and noise lie far from tissue, but not where augmentation takes it."""
    real = tissue(200, 0)
    augment = Chain(shift=Translation(0.125), hole=Cutout(0.5), color=Saturation(1.0))
    fake = torch.randint(0, 256, (100, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    fake = fake if level is None else torch.full_like(fake, level)
    assert not leaking(find_leaks(real, augmented(augment, real), fake.to(torch.uint8)))


def test_one_augmented_image_in_twenty_is_no_leak():
    """As many real images bear a trace by the threshold's definition."""
    augment, real, fake = Translation(0.125), tissue(200, 0), tissue(100, 1)
    fake[:5] = augmented(augment, fake[:5])
    assert not leaking(find_leaks(real, augmented(augment, real), fake))


def test_border_and_hole_measure_how_empty_the_emptiest_place_is():
    """A line at half, and a quarter square at a tenth, of what is 1 elsewhere: log ratios."""
    traces = fit_traces(from_uint8(tissue(20, 0)))
    x = torch.ones(2, 3, 32, 32)
    x[0, :, :, -2] = 0.5
    x[1, :, 8:16, 16:24] = 0.1
    energy = x.square().mean((1, 2, 3))
    torch.testing.assert_close(traces["border"](x), torch.log(energy / torch.tensor([0.25, 1])))
    assert traces["hole"](x)[1].item() == pytest.approx(math.log(energy[1] / 0.01), abs=1e-3)


def test_a_pale_outermost_line_is_no_border():
    """Padding inside a generator makes one; shifts of up to an eighth of the side go further in."""
    real, fake = tissue(200, 0), tissue(100, 1)
    for line in (fake[:, :, 0], fake[:, :, -1], fake[..., 0], fake[..., -1]):
        line.fill_(128)
    assert not leaking(find_leaks(real, augmented(Translation(0.125), real), fake))


def test_color_is_the_squared_mahalanobis_distance_of_the_mean():
    """E over the images that define it is (n - 1) / n * 3, whatever their colors."""
    usual = from_uint8(tissue(50, 0))
    distances = fit_traces(usual)["color"](usual)
    assert distances.mean().item() == pytest.approx(3 * 49 / 50, rel=1e-2)


def test_pose_asks_nothing_of_images_without_an_upright():
    """Of a set in all eight poses nothing is left of the pattern."""
    x = from_uint8(upright(10, 0))
    poses = [p.flip(axes) for p in (x, x.mT) for axes in ((), (2,), (3,), (2, 3))]
    pose = fit_traces(torch.cat(poses))["pose"](x)
    torch.testing.assert_close(pose, torch.zeros(10), atol=1e-5, rtol=0)


@pytest.mark.parametrize("sizes", [(38, 20, 20), (40, 19, 20), (40, 20, 19)])
def test_too_few_images_are_refused(sizes):
    sets = [torch.zeros(n, 3, 16, 16, dtype=torch.uint8) for n in sizes]
    message = "at least 40 real, 20 augmented and 20 .* got {}, {} and {}$".format(*sizes)
    with pytest.raises(ValueError, match=message):
        find_leaks(*sets)
