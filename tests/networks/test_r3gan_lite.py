import math
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mbgan.networks import mixes_images
from mbgan.networks.r3gan_lite import Block, R3GANCritic, R3GANGenerator, initialize

CHANNELS = [256, 128, 64, 32]  # of 4 x 4 to 32 x 32, for 64 pixels and width 32


def count(network):
    return sum(p.numel() for p in network.parameters())


def block_parameters(channels, group=16):
    """1 x 1 up and 3 x 3 in groups with biases, 1 x 1 down without."""
    inner = 2 * channels
    return channels * inner + inner + inner * group * 9 + inner + inner * channels


def test_generator_has_the_parameters_of_its_table():
    """A 4 x 4 basis weighted by z, a block a grid, 1 x 1 between widths, 4 x 4 to RGB."""
    between = sum(a * b for a, b in pairwise(CHANNELS))
    expected = 256 * 16 + 64 * 256 + sum(map(block_parameters, CHANNELS)) + between
    assert count(R3GANGenerator(64, 64, 32)) == expected + 32 * 3 * 16 + 3 == 553_347


def test_critic_has_the_parameters_of_its_table():
    """4 x 4 from RGB, a block a grid, 1 x 1 between widths, a depthwise 4 x 4, a score."""
    between = sum(a * b for a, b in pairwise(CHANNELS))
    expected = 3 * 32 * 16 + 32 + sum(map(block_parameters, CHANNELS)) + between
    assert count(R3GANCritic(64, 32)) == expected + 256 * 16 + 256 + 1 == 537_249


def test_grids_and_widths_double_from_four_by_four_to_half_the_image():
    shapes = []
    generator, critic = R3GANGenerator(8, 128, width=4), R3GANCritic(128, width=4)
    for network in (generator, critic):
        for block in (m for m in network.modules() if isinstance(m, Block)):
            block.register_forward_hook(lambda m, i, y: shapes.append(tuple(y.shape[1:])))
    critic(generator(torch.randn(1, 8)))
    table = [(32, 4, 4), (32, 8, 8), (16, 16, 16), (8, 32, 32), (4, 64, 64)]
    assert shapes == table + table[::-1]


def test_a_new_block_is_the_identity():
    """Fix-up: its last convolution begins at 0 and has no bias."""
    x = torch.randn(2, 8, 5, 5)
    assert torch.equal(Block(8, group=4, blocks=3)(x), x)


def test_a_block_is_the_convolutions_of_the_paper():
    """x + C3 lrelu(C2 lrelu(C1 x + b1) + b2), C2 in groups of `group` channels."""
    block, x = Block(4, group=2, blocks=1), torch.randn(2, 4, 6, 6)
    for p in block.parameters():
        nn.init.normal_(p)
    first = F.leaky_relu(F.conv2d(x, block.first.weight, block.first.bias), 0.2)
    parts = zip(first.split(2, 1), block.middle.weight.split(2), strict=True)
    middle = torch.cat([F.conv2d(part, weight, padding=1) for part, weight in parts], 1)
    middle = F.leaky_relu(middle + block.middle.bias[:, None, None], 0.2)
    torch.testing.assert_close(block(x), x + F.conv2d(middle, block.last.weight), atol=1e-4, rtol=0)


def test_layers_keep_the_variance_of_what_they_are_given():
    """N(0, 1 / fan_in): also where a transposed convolution gathers 4 of its 16 taps."""
    torch.manual_seed(0)
    x = torch.randn(8, 256, 16, 16)
    layers = (nn.Conv2d(256, 256, 3), nn.Conv2d(256, 256, 1, groups=4))
    for layer in (*layers, nn.ConvTranspose2d(256, 256, 4, 2, 1)):
        y = initialize(layer)(x)[..., 2:-2, 2:-2]
        assert y.std().item() == pytest.approx(1, rel=0.05)
        assert not layer.bias.any()


def test_fix_up_scales_a_branch_by_the_depth_of_the_network():
    """blocks^(-1 / (2 m - 2)) each for m = 3 (Zhang et al. 2019): 16 blocks halve the weights."""
    torch.manual_seed(0)
    gain = math.sqrt(2 / (1 + 0.2**2))
    for blocks, share in ((1, 1.0), (16, 0.5)):
        block = Block(64, group=64, blocks=blocks)
        for conv, fan_in in ((block.first, 64), (block.middle, 64 * 9)):
            std = conv.weight.std().item()
            assert std * math.sqrt(fan_in) == pytest.approx(gain * share, rel=0.03)


def test_there_is_no_norm_and_no_image_depends_on_another():
    generator, critic = R3GANGenerator(8, 32, 4), R3GANCritic(32, 4)
    for network in (generator, critic):
        assert not [m for m in network.modules() if "Norm" in type(m).__name__]
    assert not mixes_images(critic)
    z = torch.randn(6, 8)
    x = generator(z)
    torch.testing.assert_close(torch.cat([generator(row) for row in z.split(1)]), x)
    torch.testing.assert_close(torch.cat([critic(row) for row in x.split(1)]), critic(x))


def test_every_pixel_reaches_the_score():
    """Once the blocks are more than the identity; at first averages already see all of it."""
    critic, x = R3GANCritic(32, 4), torch.randn(1, 3, 32, 32, requires_grad=True)
    critic(x).sum().backward()
    assert (x.grad != 0).all()


@pytest.mark.parametrize("image_size", [16, 32, 64, 128, 256])
@pytest.mark.parametrize("width", [1, 4])
def test_images_have_the_size_asked_for_and_one_score_each(image_size, width):
    x = R3GANGenerator(8, image_size, width)(torch.randn(2, 8))
    assert x.shape == (2, 3, image_size, image_size)
    assert x.abs().max() <= 1
    assert R3GANCritic(image_size, width)(x).shape == (2,)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"image_size": 48}, "image_size must be a power of two from 16 to 256, got 48"),
        ({"image_size": 8}, "image_size must be a power of two from 16 to 256, got 8"),
        ({"width": 0}, "width must be at least 1, got 0"),
        ({"group": 0}, "group must be at least 1, got 0"),
        ({"group": 3}, "group must divide twice the channels of every block, got 3"),
    ],
)
def test_settings_out_of_range_are_refused(wrong, message):
    for network in (R3GANGenerator, R3GANCritic):
        with pytest.raises(ValueError, match=message):
            network(**wrong)


def test_z_dim_out_of_range_is_refused():
    with pytest.raises(ValueError, match="z_dim must be at least 1, got 0"):
        R3GANGenerator(z_dim=0)
