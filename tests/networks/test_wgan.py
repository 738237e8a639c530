import pytest
import torch
from torch import nn

from mbgan.networks.wgan import WGANCritic, WGANGenerator


def parameters(network, kinds):
    """Numbers of parameters, layer by layer."""
    layers = [m for m in network.modules() if isinstance(m, kinds)]
    return [sum(p.numel() for p in layer.parameters()) for layer in layers]


def test_generator_has_the_parameters_of_the_paper():
    """Sec. III.D: 128 -> 16 x 16 x 512, then 4 x 4 transposed convolutions with batch norm."""
    generator = WGANGenerator(z_dim=128, image_size=256, width=64)
    assert parameters(generator, (nn.Linear, nn.ConvTranspose2d, nn.BatchNorm2d)) == [
        128 * 16 * 16 * 512 + 16 * 16 * 512,
        *(512 * 256 * 16 + 256, 2 * 256),
        *(256 * 128 * 16 + 128, 2 * 128),
        *(128 * 64 * 16 + 64, 2 * 64),
        64 * 3 * 16 + 3,
    ]
    assert {m.momentum for m in generator.modules() if isinstance(m, nn.BatchNorm2d)} == {0.2}


def test_critic_has_the_parameters_of_the_paper():
    """Sec. III.C: 64-128-256-512 filters of 4 x 4, stride 2, flattened to one score; no norm."""
    critic = WGANCritic(image_size=256, width=64)
    assert parameters(critic, (nn.Linear, nn.Conv2d)) == [
        16 * 16 * 512 + 1,
        3 * 64 * 16 + 64,
        64 * 128 * 16 + 128,
        128 * 256 * 16 + 256,
        256 * 512 * 16 + 512,
    ]
    assert [m.p for m in critic.modules() if isinstance(m, nn.Dropout)] == [0.3] * 4
    assert not [m for m in critic.modules() if "Norm" in type(m).__name__]


@pytest.mark.parametrize("image_size", [16, 32, 64, 128, 256])
def test_images_have_the_size_asked_for_and_one_score_each(image_size):
    x = WGANGenerator(8, image_size, width=2)(torch.randn(2, 8))
    assert x.shape == (2, 3, image_size, image_size)
    assert x.abs().max() <= 1
    assert WGANCritic(image_size, width=2)(x).shape == (2,)


@pytest.mark.parametrize("image_size", [0, -64, 8, 48, 512])
def test_other_sizes_are_refused(image_size):
    message = f"power of two from 16 to 256, got {image_size}"
    for network in (WGANGenerator, WGANCritic):
        with pytest.raises(ValueError, match=message):
            network(image_size=image_size)


@pytest.mark.parametrize(
    ("network", "wrong", "message"),
    [
        (WGANGenerator, {"z_dim": 0}, "z_dim must be at least 1, got 0"),
        (WGANGenerator, {"width": 0}, "width must be at least 1, got 0"),
        (WGANCritic, {"width": -1}, "width must be at least 1, got -1"),
        (WGANCritic, {"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
    ],
)
def test_settings_out_of_range_are_refused(network, wrong, message):
    with pytest.raises(ValueError, match=message):
        network(**wrong)
