import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mbgan.gan import generate
from mbgan.latents import Draws
from mbgan.networks import mixes_images
from mbgan.networks.stylegan_lite import (
    EqualizedConv,
    EqualizedLinear,
    MinibatchStd,
    ModulatedConv,
    StyleGANCritic,
    StyleGANGenerator,
    double,
)
from mbgan.regularizers import PathLength


def small_generator(**kwargs):
    """16 x 16 pixels; noise that shows."""
    torch.manual_seed(0)
    generator = StyleGANGenerator(**{"z_dim": 8, "image_size": 16, "width": 4, "w_dim": 6} | kwargs)
    for conv in generator.convs:
        nn.init.constant_(conv.noise_strength, 0.5)
    return generator


def count(network):
    return sum(p.numel() for p in network.parameters())


def test_parameters_at_64_pixels_are_those_of_the_table():
    """Channels 128, 128, 64, 32, 16 from 4 to 64 pixels; a style of 128 for each convolution."""
    pairs = [(128, 128)] + [(128, 128)] * 2 + [(128, 64), (64, 64)]
    pairs += [(64, 32), (32, 32), (32, 16), (16, 16)]
    convs = sum(9 * i * o + o + (129 * i) + 1 for i, o in pairs)  # weight, bias, style, noise
    to_rgb = sum(3 * c + 3 + 129 * c for c in (128, 128, 64, 32, 16))
    generator = StyleGANGenerator(z_dim=128, image_size=64, width=16, w_dim=128)
    assert count(generator) == 2 * 128 * 129 + 128 * 16 + convs + to_rgb == 764_680
    blocks = [(16, 32), (32, 64), (64, 128), (128, 128)]
    residual = sum(9 * i * i + i + 9 * i * o + o + i * o + o for i, o in blocks)
    last = 9 * 129 * 128 + 128 + 128 * 16 * 128 + 128 + 129
    assert count(StyleGANCritic(64, width=16)) == 4 * 16 + residual + last == 879_345


@pytest.mark.parametrize("image_size", [16, 32, 64, 128, 256])
def test_maps_double_up_to_the_image_and_halve_down_from_it(image_size):
    generator = StyleGANGenerator(8, image_size, width=2, w_dim=4)
    critic, shapes = StyleGANCritic(image_size, width=2), []
    for layer in (*generator.convs, critic.from_rgb, *critic.blocks):
        layer.register_forward_hook(lambda *call: shapes.append(tuple(call[2].shape[1:3])))
    x = generator(torch.randn(4, 8))
    assert x.shape == (4, 3, image_size, image_size)
    assert x.abs().max() <= 1
    assert critic(x).shape == (4,)
    sides = [2**i for i in range(2, image_size.bit_length())]
    table = [(2 * min(8, image_size // side), side) for side in sides]
    assert shapes == [table[0]] + [row for row in table[1:] for _ in (0, 1)] + table[::-1]


@pytest.mark.parametrize("demodulate", [True, False])
def test_modulation_is_a_kernel_for_each_image(demodulate):
    """Eqs. 1 and 3 as the paper writes them, one image at a time."""
    torch.manual_seed(0)
    conv = ModulatedConv(5, 7, 4, kernel=3, demodulate=demodulate).double()
    nn.init.normal_(conv.bias)
    x, w = torch.randn(3, 5, 8, 8).double(), torch.randn(3, 4).double()
    for i in range(3):
        s = w[i] @ conv.style.weight.T / 2 + 1  # w_dim = 4; the style's bias begins at 1
        kernel = s[:, None, None] * conv.weight / math.sqrt(5 * 9)
        if demodulate:
            norm = (kernel.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
            kernel = math.sqrt(2) * kernel / norm
        expected = F.conv2d(x[i : i + 1], kernel, padding=1) + conv.bias
        torch.testing.assert_close(conv(x, w)[i : i + 1], expected)


def test_demodulated_output_has_one_variance_whatever_the_style():
    """Of normal input it is 2: the LeakyReLU that follows halves the second moment."""
    torch.manual_seed(0)
    conv = ModulatedConv(64, 32, 8, kernel=3, demodulate=True)
    for size in (0.1, 30.0):
        y = conv(torch.randn(8, 64, 18, 18), size * torch.randn(8, 8))[:, :, 1:-1, 1:-1]
        torch.testing.assert_close(y.var((0, 2, 3)), torch.full((32,), 2.0), rtol=0.2, atol=0)


def test_equalized_layers_have_the_variance_asked_for_and_scaled_steps():
    """Weights are stored with unit variance: Adam moves all of them at one relative speed."""
    torch.manual_seed(0)
    linear = EqualizedLinear(400, 300, gain=2, bias=3, lr_multiplier=0.01)
    conv = EqualizedConv(64, 48, 3, gain=2)
    for layer, std in ((linear, 100), (conv, 1)):
        assert layer.weight.std().item() == pytest.approx(std, rel=0.02)
    y = linear(torch.randn(200, 400))
    assert (y.mean().item(), y.std().item()) == pytest.approx((3, 2), rel=0.05)
    assert conv(torch.randn(4, 64, 18, 18))[:, :, 1:-1, 1:-1].std().item() == pytest.approx(2, 0.05)


def test_signals_keep_their_size_from_the_first_layer_to_the_last():
    """Neither fades nor grows by a constant factor a layer: that is what the gains are for."""
    torch.manual_seed(0)
    generator, moments = StyleGANGenerator(64, 64, width=16, w_dim=64), []
    critic = StyleGANCritic(64, width=16)
    for layer in (*generator.convs, *critic.blocks):
        layer.register_forward_hook(lambda *call: moments.append(call[2].square().mean().item()))
    generator(torch.randn(8, 64))
    critic(torch.randn(8, 3, 64, 64))
    assert len(moments) == 9 + 4
    assert min(moments) > 0.05  # doubling smooths
    assert max(moments) < 2


def test_doubling_filters_with_1_3_3_1():
    """A point spreads to [1, 3, 3, 1] / 4 in each direction (the filter of Fig. 7)."""
    x = torch.zeros(1, 1, 5, 5)
    x[0, 0, 2, 2] = 1
    row = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 4
    torch.testing.assert_close(double(x)[0, 0, 3:7, 3:7], torch.outer(row, row))
    assert double(x).sum() == 4


def test_images_are_equal_whatever_the_batch():
    generator, z = small_generator().eval(), torch.randn(5, 8)
    alone = torch.cat([generator(z[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(generator(z), alone, atol=1e-5, rtol=0)
    assert torch.equal(generate(generator, z, 5), generate(generator, z, 5))


def test_in_eval_mode_an_image_is_a_function_of_its_latent():
    generator, z = small_generator().eval(), torch.randn(4, 8)
    first = generator(z)
    torch.manual_seed(1)
    assert torch.equal(generator(z, Draws(1, 1)), first)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_in_training_numbers_come_from_the_draws_alone(share):
    """The same draws give the same image whatever the global generator; others, another."""
    generator, z = small_generator(style_mixing=share), torch.randn(4, 8)
    first = generator(z, Draws(0, 1))
    torch.manual_seed(1)
    assert torch.equal(generator(z, Draws(0, 1)), first)
    for other in (Draws(0, 2), Draws(1, 1), Draws(0, 1).of("generator"), None):
        assert (generator(z, other) - first).abs().amax((1, 2, 3)).min() > 0


def test_noise_is_each_layers_and_each_images_own():
    generator, fields = small_generator(style_mixing=0.0), []
    for conv in generator.convs:  # with no signal there is only the noise
        nn.init.zeros_(conv.conv.weight)
        conv.register_forward_hook(lambda *call: fields.append(call[2]))
    generator(torch.randn(1, 8).expand(2, 8), Draws(0, 0))
    for field in fields:
        assert not torch.equal(field[0], field[1])  # images
        assert torch.equal(field[:, 0], field[:, 1])  # channels share it
    assert not torch.equal(fields[1], fields[2])  # both of 8 x 8 pixels


def test_ranks_share_out_the_noise_and_the_mixing_of_the_whole_batch():
    generator, z = small_generator(), torch.randn(4, 8)
    whole = generator(z, Draws(0, 3))
    parts = [generator(z[2 * r : 2 * r + 2], Draws(0, 3, r, 2)) for r in (0, 1)]
    torch.testing.assert_close(torch.cat(parts), whole, atol=1e-5, rtol=0)


def test_mixed_styles_are_one_up_to_a_random_layer_and_another_after_it():
    generator, z = small_generator(style_mixing=0.5), torch.randn(4000, 8)
    own = generator.style(z)
    ws = generator.styles(z, Draws(0, 0))
    kept = (ws == own[:, None]).all(2)  # [N, layers]
    assert kept[:, 0].all()
    assert (kept[:, :-1] >= kept[:, 1:]).all()  # once another's, to the end
    torch.testing.assert_close(ws[:, -1][~kept[:, -1]], ws.flip(1)[:, 0][~kept[:, -1]])
    layers = kept.shape[1]
    shares = torch.stack([(kept.sum(1) == k).float().mean() for k in range(1, layers + 1)])
    expected = torch.tensor([0.5 / (layers - 1)] * (layers - 1) + [0.5])
    torch.testing.assert_close(shares, expected, atol=0.03, rtol=0)


def test_a_mixed_style_is_another_latents():
    """Its second part is made by the same mapping: the statistics of w do not change."""
    generator, z = small_generator(style_mixing=1.0), torch.randn(3, 8)
    other = generator.style(Draws(0, 0).normal("mixed z", 3, 8))
    assert torch.equal(generator.styles(z, Draws(0, 0))[:, -1], other)


def test_mean_style_is_the_mean_over_latents_and_always_the_same():
    generator = small_generator()
    mean = generator.mean_style()
    torch.manual_seed(1)
    assert torch.equal(generator.mean_style(), mean)
    w = generator.style(torch.randn(10_000, 8))
    torch.testing.assert_close(mean, w.mean(0), atol=5 * w.std().item() / 100, rtol=0)


def test_style_depends_on_the_direction_of_the_latent_alone():
    generator, z = small_generator(), torch.randn(4, 8)
    torch.testing.assert_close(generator.style(3 * z), generator.style(z), rtol=1e-4, atol=1e-6)


def test_minibatch_std_is_the_mean_deviation_within_each_group():
    """Consecutive images: two groups of a known spread, whatever other devices hold."""
    torch.manual_seed(0)
    means = torch.randn(8, 1, 1, 1)
    spread = torch.tensor([1.0, -1, 1, -1, 3, -3, 3, -3])[:, None, None, None]
    means[1:4], means[5:] = means[0], means[4]
    x = (means + spread).expand(8, 5, 2, 2)
    y = MinibatchStd(4)(x)
    assert torch.equal(y[:, :5], x)
    expected = torch.tensor([1.0] * 4 + [3.0] * 4)[:, None, None].expand(8, 2, 2)
    torch.testing.assert_close(y[:, 5], expected)
    torch.testing.assert_close(MinibatchStd(4)(x[4:]), y[4:])


@pytest.mark.parametrize(("n", "size"), [(1, 1), (2, 2), (6, 2), (13, 1), (12, 4)])
def test_a_batch_that_is_no_multiple_makes_smaller_groups(n, size):
    x = torch.randn(n, 3, 4, 4)
    first = x[:size].std(0, correction=0).mean()
    y = MinibatchStd(4)(x)
    torch.testing.assert_close(y[:size, 3], first.expand(size, 4, 4), atol=2e-4, rtol=0)
    assert y.isfinite().all()


def test_real_and_generated_images_go_apart_through_the_critic():
    assert mixes_images(StyleGANCritic(16, width=2))


def test_scores_are_linear_in_features():
    critic, x = StyleGANCritic(16, width=2), torch.randn(4, 3, 16, 16)
    assert critic.features(x).shape == (4, 8)
    torch.testing.assert_close(critic(x), critic.score(critic.features(x))[:, 0])


class LinearSynthesis(nn.Module):
    """Two styles, each mapped to 2 x 2 pixels by its own matrix."""

    def __init__(self):
        super().__init__()
        self.matrices = nn.Parameter(torch.randn(2, 5, 3 * 2 * 2))
        self.z_dim, self.mapping = 5, nn.Linear(5, 5)

    def styles(self, z, draws=None):
        return self.mapping(z)[:, None].expand(-1, 2, -1)

    def synthesize(self, ws, draws=None):
        self.dtype = torch.mm(ws[0], self.matrices[0]).dtype
        return torch.einsum("nlw,lwp->np", ws, self.matrices).unflatten(1, (3, 2, 2))


def lengths_of(generator, draws):
    """||A^T y|| of 6 images y of variance 1 / 4, over two layers: no Jacobian is computed."""
    y = draws.normal("image", 6, 3, 2, 2).flatten(1) / 2
    moved = torch.einsum("lwp,np->nlw", generator.matrices, y)
    return moved.square().sum(2).mean(1).sqrt()


def test_path_length_of_a_linear_map_is_exact():
    """J is the map itself; the average takes a share `decay` of each new mean length."""
    torch.manual_seed(0)
    generator, penalty, a = LinearSynthesis(), PathLength(2.0, interval=4, decay=0.1), 0.0
    for turn in (0, 4):
        draws = Draws(0, turn)
        lengths = lengths_of(generator, draws)
        a = a + 0.1 * (lengths.mean() - a)
        value = penalty(generator, draws.normal("z", 6, generator.z_dim), draws, turn)
        torch.testing.assert_close(value, 2.0 * 4 * (lengths - a.detach()).square().mean())
        torch.testing.assert_close(penalty.average, a.detach())
        a = a.detach()
    (grad,) = torch.autograd.grad(value, generator.matrices)
    expected = 8 * (lengths_of(generator, draws) - a).square().mean()  # a is a constant
    torch.testing.assert_close(grad, *torch.autograd.grad(expected, generator.matrices))


def test_path_length_waits_for_its_turn_and_is_off_at_weight_0():
    generator = LinearSynthesis()
    for penalty, turns in ((PathLength(interval=4), (1, 2, 3, 5)), (PathLength(0.0), (0, 4))):
        for turn in turns:
            assert penalty(generator, torch.randn(6, generator.z_dim), Draws(0, turn), turn) == 0
        assert penalty.average == 0


def test_path_length_stays_in_float32_under_autocast():
    generator = LinearSynthesis()
    with torch.autocast("cpu", torch.bfloat16):
        PathLength()(generator, torch.randn(6, generator.z_dim), Draws(0, 0), 0)
    assert generator.dtype == torch.float32


def test_path_length_reaches_every_weight_of_the_generator():
    """Also the mapping: its styles are where the Jacobian is taken."""
    generator = small_generator()
    z = torch.randn(4, generator.z_dim)
    PathLength()(generator, z, Draws(0, 0), 0).backward()
    for name, weight in generator.named_parameters():
        if "bias" not in name:
            assert weight.grad.abs().max() > 0, name


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"pl_weight": -1}, "pl_weight must be at least 0, got -1"),
        ({"interval": 0}, "interval must be at least 1, got 0"),
        ({"decay": 0}, r"decay must be in \(0, 1\], got 0"),
    ],
)
def test_path_length_refuses_settings_out_of_range(wrong, message):
    with pytest.raises(ValueError, match=message):
        PathLength(**wrong)


@pytest.mark.parametrize(
    ("network", "wrong", "message"),
    [
        (StyleGANGenerator, {"z_dim": 0}, "z_dim must be at least 1, got 0"),
        (StyleGANGenerator, {"w_dim": 0}, "w_dim must be at least 1, got 0"),
        (StyleGANGenerator, {"mapping_layers": 0}, "mapping_layers must be at least 1, got 0"),
        (StyleGANGenerator, {"style_mixing": 1.5}, r"style_mixing must be in \[0, 1\], got 1.5"),
        (StyleGANGenerator, {"width": 0}, "width must be at least 1, got 0"),
        (StyleGANGenerator, {"image_size": 48}, "power of two from 16 to 256, got 48"),
        (StyleGANCritic, {"width": 0}, "width must be at least 1, got 0"),
        (StyleGANCritic, {"image_size": 512}, "power of two from 16 to 256, got 512"),
        (StyleGANCritic, {"group": 0}, "group must be at least 1 image, got 0"),
    ],
)
def test_settings_out_of_range_are_refused(network, wrong, message):
    with pytest.raises(ValueError, match=message):
        network(**wrong)
