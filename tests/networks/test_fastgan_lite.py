import pytest
import torch
from conftest import compatible, tiny_gan
from torch import nn

from mbgan.latents import Draws
from mbgan.losses import Hinge
from mbgan.networks import mixes_images
from mbgan.networks.blocks import normed
from mbgan.networks.fastgan_lite import (
    FastGANCritic,
    FastGANGenerator,
    Gate,
    Halving,
    RepeatConv,
    SkipExcitation,
    gated,
    quadrants,
)
from mbgan.regularizers import Regularizer, ZeroCentered

SIZES = [16, 32, 64, 128, 256]


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_generator_has_the_channels_of_the_paper():
    """ngf 64 at 256 pixels: 16, 8, 4, 2, 2, 1, 1/2 times 64, so 32 at the last side."""
    generator = FastGANGenerator(z_dim=256, image_size=256, width=32)
    channels = [1024, 512, 256, 128, 128, 64, 32]
    inputs = [256, *channels[:-1]]
    taps = [16, *[9] * 6]
    made = [
        2 * c_out * (c_in * t + 2) for c_in, c_out, t in zip(inputs, channels, taps, strict=True)
    ]
    assert [count(block) for block in (generator.first, *generator.blocks)] == made
    links = [(1024, 128), (512, 64), (256, 32)]  # 4 -> 64, 8 -> 128, 16 -> 256
    assert [count(skip) for skip in generator.skips] == [
        a * b * 16 + b + b * b + b for a, b in links
    ]
    assert count(generator.last) == 32 * 3 * 9 + 3


def test_critic_has_its_parameters_layer_by_layer():
    """A halving is of 4 x 4, 3 x 3 and 1 x 1 convolutions, each with batch norm."""
    critic = FastGANCritic(image_size=64, width=32)
    assert count(critic.first) == 3 * 32 * 16 + 32
    halvings = [2 * c * (16 * c + 9 * 2 * c + c + 3 * (1 + 2)) for c in (32, 64)]
    assert [count(critic.middle), count(critic.deep)] == halvings
    assert count(critic.places) == 128 * 128 * 17 + 2 * 128 + 2 * 128
    assert count(critic.score) == 128 + 1


@pytest.mark.parametrize("image_size", SIZES)
def test_images_have_the_size_asked_for_and_scores_are_of_places(image_size):
    x = FastGANGenerator(8, image_size, width=4)(torch.randn(2, 8))
    assert x.shape == (2, 3, image_size, image_size)
    assert x.abs().max() <= 1
    critic = FastGANCritic(image_size, width=4)
    places = 1 if image_size == 16 else 25
    assert critic(x).shape == (2, places)
    assert critic.extra_loss(x, Draws(0, 0)).shape == ()


def test_excitation_is_the_fine_map_times_a_gate_for_each_channel():
    """With zero weights the gate is s(bias): 1/4 here, the same at every place."""
    skip = SkipExcitation(2, 3)
    nn.init.zeros_(skip.gate[3].weight)
    skip.gate[3].bias.data = torch.tensor([0.0, -100.0, 100.0])
    fine = torch.randn(2, 3, 8, 8)
    expected = fine * torch.tensor([0.5, 0.0, 1.0])[:, None, None]
    torch.testing.assert_close(skip(torch.randn(2, 2, 4, 4), fine), expected)


def test_excitation_reads_the_coarse_map_of_its_own_image():
    skip, coarse, fine = SkipExcitation(2, 3), torch.randn(2, 2, 8, 8), torch.ones(2, 3, 4, 4)
    before = skip(coarse, fine)
    coarse[1] += 1
    after = skip(coarse, fine)
    assert torch.equal(before[0], after[0])
    assert not torch.isclose(before[1], after[1]).any()


@pytest.mark.parametrize(("image_size", "links"), [(16, 1), (32, 1), (64, 1), (128, 2), (256, 3)])
def test_every_link_excites(image_size, links):
    """Another gate of each link in turn changes the image: none is idle."""
    torch.manual_seed(0)
    generator = FastGANGenerator(4, image_size, width=2)
    assert len(generator.skips) == links
    z = torch.randn(2, 4)
    image = generator(z)
    for skip in generator.skips:
        weight = skip.gate[3].weight
        weight.data.neg_()
        assert not torch.equal(generator(z), image)
        weight.data.neg_()
        assert torch.equal(generator(z), image)


def test_gate_is_a_gated_linear_unit():
    x = torch.randn(2, 6, 4, 4)
    torch.testing.assert_close(Gate()(x), nn.functional.glu(x, dim=1))


def test_repeating_and_convolving_are_one_transposed_convolution():
    """The paper's two steps on the 3 x 3 kernel, turned as transposed convolutions have it."""
    fused, conv = RepeatConv(3, 5).double(), nn.Conv2d(3, 5, 3, padding=1, bias=False).double()
    conv.weight.data = fused.weight.data.flip(2, 3).transpose(0, 1)
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(fused(x), conv(nn.functional.interpolate(x, scale_factor=2)))


def test_an_even_map_gives_an_even_map():
    """No checkerboard of its own: away from the border all places are the same."""
    inside = RepeatConv(2, 3)(torch.ones(1, 2, 6, 6))[..., 2:-2, 2:-2]
    torch.testing.assert_close(inside, inside[..., :1, :1].expand_as(inside))


def test_gated_convolution_forgets_the_scale_of_its_input():
    """Batch norm comes before the gate: why the generator needs no spectral norm."""
    block = gated(RepeatConv(3, 8), 4).double()
    x = 10 * torch.randn(8, 3, 4, 4, dtype=torch.float64)
    assert block(x).shape == (8, 4, 8, 8)
    torch.testing.assert_close(block(100 * x), block(x), rtol=1e-4, atol=1e-4)


def test_halving_is_the_mean_of_its_two_paths():
    block, x = Halving(3, 4, batch_norm=True).eval(), torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(block(x), 0.5 * block.deep(x) + 0.5 * block.shallow(x))


def test_normed_convolution_has_a_largest_singular_value_of_one():
    conv = normed(4, 8, 3)[0]
    for _ in range(50):
        weight = conv.weight.flatten(1)
    torch.testing.assert_close(torch.linalg.matrix_norm(weight, 2), torch.tensor(1.0))


def test_quadrants_are_the_quarters_row_by_row():
    x = torch.arange(32.0).view(1, 2, 4, 4)
    parts = quadrants(x)
    assert parts.shape == (1, 4, 2, 2, 2)
    assert torch.equal(parts[:, 0], x[:, :, :2, :2])
    assert torch.equal(parts[:, 1], x[:, :, :2, 2:])
    assert torch.equal(parts[:, 2], x[:, :, 2:, :2])
    assert torch.equal(parts[:, 3], x[:, :, 2:, 2:])


def test_extra_loss_of_gray_drawings_is_the_mean_brightness_twice():
    """Decoders of zeros draw 0, so each error is the mean of |x|, whole or any quarter."""
    critic = FastGANCritic(64, width=4, reconstruction_weight=3.0)
    for draw in (critic.draw_whole, critic.draw_quarter):
        nn.init.zeros_(draw[-2].weight)
        nn.init.zeros_(draw[-2].bias)
    x = torch.full((2, 3, 64, 64), -0.25)
    torch.testing.assert_close(critic.extra_loss(x, Draws(0, 0)), torch.tensor(3 * 0.5))


def test_extra_loss_falls_as_the_drawings_come_to_fit():
    torch.manual_seed(0)
    critic = FastGANCritic(16, width=8)
    x = torch.rand(4, 3, 16, 16).round() * 2 - 1
    x = nn.functional.interpolate(x[:, :, :2, :2], size=16)  # a color to a quarter
    adam = torch.optim.Adam(critic.parameters(), lr=5e-3)
    losses = []
    for step in range(80):
        loss = critic.extra_loss(x, Draws(0, step))
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(loss.item())
    assert losses[0] > 1.5
    assert losses[-1] < 0.5 * losses[0]


def test_each_image_draws_the_quarter_that_the_whole_batch_would_give_it():
    """Two ranks of two images lose what one process loses on four."""
    critic = FastGANCritic(32, width=4).double().eval()
    x = torch.rand(4, 3, 32, 32, dtype=torch.float64) * 2 - 1
    whole = critic.extra_loss(x, Draws(0, 5))
    parts = [critic.extra_loss(x[2 * r : 2 * r + 2], Draws(0, 5, r, 2)) for r in (0, 1)]
    torch.testing.assert_close(sum(parts) / 2, whole)
    assert critic.extra_loss(x, Draws(0, 6)) != whole


def test_without_batch_norm_scores_are_of_each_image_alone_and_may_be_penalized():
    generator = FastGANGenerator(4, 16, 4)
    alone, mixed = FastGANCritic(16, 4, batch_norm=False), FastGANCritic(16, 4)
    assert (mixes_images(alone), mixes_images(mixed)) == (False, True)
    compatible(generator, alone, Hinge(), ZeroCentered(1.0))
    with pytest.raises(ValueError, match="ZeroCentered needs a critic without batch norm"):
        compatible(generator, mixed, Hinge(), ZeroCentered(1.0))


def test_a_resumed_run_is_the_uninterrupted_one(fit, tmp_path):
    """The vectors of spectral norm and the quarters go on where they stopped."""

    def gan():
        torch.manual_seed(0)
        return tiny_gan(
            generator=FastGANGenerator(4, 16, 2),
            critic=FastGANCritic(16, 2),
            loss=Hinge(),
            regularizer=Regularizer(),
        )

    whole, first, second = gan(), gan(), gan()
    fit(whole, 3)
    fit(first, 2).save_checkpoint(tmp_path / "stop.ckpt")
    fit(second, 1, ckpt_path=tmp_path / "stop.ckpt")
    for name, value in whole.state_dict().items():
        assert torch.equal(second.state_dict()[name], value), name


@pytest.mark.parametrize(
    ("network", "wrong", "message"),
    [
        (FastGANGenerator, {"width": 0}, "width must be at least 1, got 0"),
        (FastGANGenerator, {"image_size": 48}, "power of two from 16 to 256, got 48"),
        (FastGANCritic, {"width": 0}, "width must be at least 1, got 0"),
        (FastGANCritic, {"image_size": 8}, "power of two from 16 to 256, got 8"),
        (
            FastGANCritic,
            {"reconstruction_weight": -1.0},
            "reconstruction_weight must be at least 0, got -1",
        ),
    ],
)
def test_settings_out_of_range_are_refused(network, wrong, message):
    with pytest.raises(ValueError, match=message):
        network(**wrong)
