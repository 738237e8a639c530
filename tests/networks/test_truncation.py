import pytest
import torch
from conftest import TinyGenerator
from torch import nn

from mbgan.gan import generate
from mbgan.images import to_uint8
from mbgan.networks.stylegan_lite import StyleGANGenerator


def styled():
    torch.manual_seed(0)
    generator = StyleGANGenerator(z_dim=8, image_size=16, width=4, w_dim=6).eval()
    for conv in generator.convs:
        nn.init.constant_(conv.noise_strength, 0.5)
    return generator


def test_without_styles_truncation_scales_the_latent():
    generator, z = TinyGenerator().eval(), torch.randn(5, 4)
    assert torch.equal(generate(generator, z, truncation=0.5), generate(generator, z / 2))


def test_styles_are_drawn_towards_the_mean_style():
    """w' = w_mean + psi (w - w_mean) in every layer (Karras et al. 2019, app. B)."""
    generator, z = styled(), torch.randn(5, 8)
    mean, w = generator.mean_style(), generator.style(z)
    ws = (mean + 0.7 * (w - mean))[:, None].expand(-1, len(generator.convs), -1)
    torch.testing.assert_close(generator.truncate(generator.points(z), 0.7), ws)
    with torch.no_grad():
        expected = to_uint8(generator.synthesize(ws))
    torch.testing.assert_close(generate(generator, z, truncation=0.7), expected, atol=1, rtol=0)


@pytest.mark.parametrize(("make", "z_dim"), [(TinyGenerator, 4), (styled, 8)])
def test_a_truncation_of_1_changes_nothing(make, z_dim):
    generator, z = make().eval(), torch.randn(5, z_dim)
    with torch.no_grad():
        assert torch.equal(generate(generator, z), to_uint8(generator(z)))
    assert generator.truncate(z, 1.0) is z


@pytest.mark.parametrize(("make", "z_dim"), [(TinyGenerator, 4), (styled, 8)])
def test_images_grow_alike_as_truncation_falls(make, z_dim):
    generator, z = make(), torch.randn(16, z_dim)
    images = [generate(generator, z, truncation=psi).float() for psi in (0.01, 0.3, 1.0)]
    spreads = [x.std(0).mean().item() for x in images]
    assert spreads[0] < 0.1 * spreads[1] < 0.1 * spreads[2]


@pytest.mark.parametrize("psi", [0, -0.5, 1.5, float("nan")])
def test_truncation_out_of_range_is_refused(psi):
    message = rf"truncation must be in \(0, 1\], got {psi}; 1 is none"
    with pytest.raises(ValueError, match=message):
        generate(TinyGenerator(), torch.randn(2, 4), truncation=psi)
