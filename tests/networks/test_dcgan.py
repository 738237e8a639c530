import pytest
import torch
from conftest import tiny_gan
from torch import nn

from mbgan.losses import NonSaturating
from mbgan.networks.dcgan import DCGANCritic, DCGANGenerator
from mbgan.regularizers import Regularizer, ZeroCentered


def parameters(network, kinds):
    """Numbers of parameters, layer by layer."""
    layers = [m for m in network.modules() if isinstance(m, kinds)]
    return [sum(p.numel() for p in layer.parameters()) for layer in layers]


def test_generator_has_the_parameters_of_the_paper():
    """Fig. 1: 100 -> 4 x 4 x 1024, then 512, 256, 128 and 3 filters, here of 4 x 4."""
    generator = DCGANGenerator(z_dim=100, image_size=64, width=128)
    assert parameters(generator, (nn.Linear, nn.ConvTranspose2d, nn.BatchNorm2d)) == [
        100 * 4 * 4 * 1024,
        2 * 1024,
        *(1024 * 512 * 16, 2 * 512),
        *(512 * 256 * 16, 2 * 256),
        *(256 * 128 * 16, 2 * 128),
        128 * 3 * 16 + 3,
    ]


def test_critic_mirrors_it_with_no_norm_on_the_first_layer_and_the_score():
    """Sec. 3: batch norm everywhere but at the generator's output and the critic's input."""
    critic = DCGANCritic(image_size=64, width=128)
    assert parameters(critic, (nn.Linear, nn.Conv2d, nn.BatchNorm2d)) == [
        1024 * 4 * 4 + 1,
        3 * 128 * 16 + 128,
        *(128 * 256 * 16, 2 * 256),
        *(256 * 512 * 16, 2 * 512),
        *(512 * 1024 * 16, 2 * 1024),
    ]


def test_first_weights_are_drawn_as_in_the_paper():
    """Sec. 4: N(0, 0.02^2), in the score as well."""
    for network in (DCGANGenerator(), DCGANCritic()):
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                assert layer.weight.std().item() == pytest.approx(0.02, rel=0.05)


@pytest.mark.parametrize(
    ("image_size", "channels"),
    [
        (16, [8, 4]),
        (32, [16, 8, 4]),
        (64, [32, 16, 8, 4]),
        (128, [32, 32, 16, 8, 4]),
        (256, [32, 32, 32, 16, 8, 4]),
    ],
)
def test_other_sizes_have_other_depths(image_size, channels):
    """From 4 x 4 pixels, at most eight times the last hidden layer's filters."""
    generator, critic = DCGANGenerator(8, image_size, width=4), DCGANCritic(image_size, width=4)
    outputs = []
    for network, kind in ((generator, nn.ReLU), (critic, nn.LeakyReLU)):
        for layer in network.modules():
            if isinstance(layer, kind):
                layer.register_forward_hook(lambda *call: outputs.append(list(call[2].shape)))
    x = generator(torch.randn(2, 8))
    assert x.shape == (2, 3, image_size, image_size)
    assert x.abs().max() <= 1
    assert critic(x).shape == (2,)
    table = [[2, c, 4 * 2**i, 4 * 2**i] for i, c in enumerate(channels)]
    assert outputs == table + table[::-1]


def test_a_critic_without_batch_norm_may_be_penalized_and_one_with_it_may_not():
    parts = {"generator": DCGANGenerator(8, 16, 2), "loss": NonSaturating()}
    for regularizer in (Regularizer(), ZeroCentered(1.0)):
        tiny_gan(critic=DCGANCritic(16, 2, batch_norm=False), regularizer=regularizer, **parts)
    tiny_gan(critic=DCGANCritic(16, 2), regularizer=Regularizer(), **parts)
    with pytest.raises(ValueError, match=r"without batch norm.* got one at 'layers.3'"):
        tiny_gan(critic=DCGANCritic(16, 2), regularizer=ZeroCentered(1.0), **parts)


@pytest.mark.parametrize("network", [DCGANGenerator, DCGANCritic])
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"width": 0}, "width must be at least 1, got 0"),
        ({"image_size": 48}, "image_size must be a power of two from 16 to 256, got 48"),
    ],
)
def test_settings_out_of_range_are_refused(network, wrong, message):
    with pytest.raises(ValueError, match=message):
        network(**wrong)
