"""Conditions: any generator draws by them, any critic judges by them."""

import math

import pytest
import torch
from conftest import ArrayData, TinyCritic, TinyGenerator, preset_gan, tiny_gan
from torch import nn
from torch.nn.utils import parametrize

from mbgan.gan import generate
from mbgan.images import Rows
from mbgan.latents import Draws
from mbgan.networks.fastgan_lite import FastGANCritic, FastGANGenerator
from mbgan.verbs import conf_dir

PRESETS = sorted(path.stem for path in (conf_dir() / "model").glob("*.yaml"))
BOTH = ("benign", "tumor")


def test_latent_of_a_condition_is_its_vector_added():
    generator, z = TinyGenerator(), torch.randn(3, 4)
    assert torch.equal(generator.conditioned(z, None), z)
    generator.condition_on(BOTH, seed=0)
    y = torch.tensor([1, 0, 1])
    torch.testing.assert_close(
        generator.conditioned(z, y), (z + generator.embedding.weight[y]) / math.sqrt(2)
    )


def test_conditions_begin_short_beside_the_latents():
    """At equal length the first layer learns the condition, forgets z, and draws one image each."""
    generator = FastGANGenerator(z_dim=256, image_size=16, width=2)
    generator.condition_on([str(i) for i in range(500)], seed=0)
    lengths = generator.embedding.weight.norm(dim=1)
    assert lengths.mean().item() == pytest.approx(1, abs=0.02)  # of z, 16


@pytest.mark.parametrize("critic", [TinyCritic(), FastGANCritic(16, 2)], ids=["one", "places"])
def test_critic_adds_the_features_along_the_condition(critic):
    """D(x, y) = score(f(x)) + <e_y, f(x)>, at every place (Miyato & Koyama 2018, eq. 3)."""
    critic.eval()
    x, y = torch.randn(3, 3, 16, 16), torch.tensor([1, 0, 1])
    plain = critic(x)
    assert torch.equal(critic(x, y), plain)
    critic.condition_on(2, seed=0)
    along = torch.stack(
        [f @ e for f, e in zip(critic.features(x), critic.projection.weight[y], strict=True)]
    )
    torch.testing.assert_close(critic(x, y), plain + along.detach())


def test_direction_of_a_condition_is_as_bounded_as_the_score():
    """Spectral norm of one that has it is at most 1; others keep their plain weights."""
    bounded, plain = FastGANCritic(16, 2), TinyCritic()
    for critic in (bounded, plain):
        critic.condition_on(2, seed=0)
    with torch.no_grad():
        bounded.projection.parametrizations.weight.original.mul_(100)
    for _ in range(20):
        bounded(torch.randn(2, 3, 16, 16), torch.tensor([0, 1]))
    assert torch.linalg.matrix_norm(bounded.projection.weight, 2) < 1.01
    assert not parametrize.is_parametrized(plain.projection)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_draws_and_judges_by_condition(preset):
    gan = preset_gan(preset, "model.condition=class")
    z = torch.randn(1, gan.generator.z_dim).repeat(2, 1)
    first, second = generate(gan.generator, z, torch.tensor([0, 1]))
    assert not torch.equal(first, second)
    gan.critic.eval()
    x = torch.rand(1, 3, 32, 32).repeat(2, 1, 1, 1)
    assert not torch.equal(*gan.critic(x, torch.tensor([0, 1])))


def test_path_length_and_samples_go_by_the_condition():
    gan = preset_gan("stylegan_lite", "model.condition=both", "model.generator.style_mixing=0")
    draws, y = Draws(0, 0), torch.tensor([0, 1])
    z = draws.normal("z", 2, gan.generator.z_dim)
    assert torch.equal(gan.latents(y, draws), gan.generator.conditioned(z, y))


def test_a_style_that_is_mixed_in_is_of_the_same_condition():
    """With one vector thousands of times as long as z, all styles are that condition's."""
    gan = preset_gan("stylegan_lite", "model.condition=class", "model.generator.style_mixing=1")
    with torch.no_grad():
        gan.generator.embedding.weight.mul_(100_000)
    y = torch.tensor([0, 1] * 4)
    ws = gan.generator.train().styles(gan.latents(y, Draws(0, 0)), Draws(0, 1))
    own = [gan.generator.style(gan.generator.embedding.weight[i][None])[0] for i in y]
    torch.testing.assert_close(ws, torch.stack(own)[:, None].expand_as(ws), atol=0.05, rtol=0)
    assert (own[0] - own[1]).abs().max() > 0.5


def test_an_untrained_conditional_gan_is_the_same_for_the_same_seed_alone():
    def vectors(seed):
        gan = tiny_gan(condition="class", seed=seed)
        gan.condition_on(BOTH, [1, 1])
        torch.randn(1)
        return gan.generator.embedding.weight, gan.critic.projection.weight

    for first, same, other in zip(vectors(3), vectors(3), vectors(4), strict=True):
        assert torch.equal(first, same)
        assert not torch.equal(first, other)


def test_a_conditional_run_resumes_bit_by_bit_and_refuses_other_conditions(fit, tmp_path):
    def gan(names=BOTH):
        made = tiny_gan(condition="class")
        made.condition_on(names, [1] * len(names))
        return made

    whole, second = gan(), gan()
    fit(whole, 4, ArrayData(conditions=2))
    fit(gan(), 2, ArrayData(conditions=2)).save_checkpoint(tmp_path / "stop.ckpt")
    fit(second, 2, ArrayData(conditions=2), ckpt_path=tmp_path / "stop.ckpt")
    for name, value in whole.state_dict().items():
        assert torch.equal(second.state_dict()[name], value), name
    with pytest.raises(ValueError, match=r"must tell apart what the data does, \['a', 'b'\], got"):
        fit(gan(["a", "b"]), 1, ArrayData(conditions=2), ckpt_path=tmp_path / "stop.ckpt")


def test_generated_images_follow_the_condition(fit):
    """Class 0 is black and class 1 white: soon so are the images, at the same latents."""
    torch.manual_seed(0)
    gan = tiny_gan(critic=TinyCritic(dropout=0.0), condition="class", n_critic=1)
    gan.make_opt_g.keywords["lr"] = gan.make_opt_d.keywords["lr"] = 5e-3
    gan.condition_on(["black", "white"], [1, 1])
    data = ArrayData(n=16, batch_size=16, conditions=2)
    pixels = data.train.array
    pixels[0::2], pixels[1::2] = 20, 235
    data.train = Rows(pixels, data.train.index, data.train.index % 2)
    fit(gan, 150, data)
    z, y = torch.randn(32, 4), torch.zeros(32, dtype=torch.long)
    black, white = (generate(gan.generator, z, y + i).float().mean((1, 2, 3)) for i in (0, 1))
    assert (white - black).mean() > 100
    assert (white > black).all()


def test_a_module_that_is_not_there_yet_takes_no_part():
    """Without conditions nothing is added: checkpoints of runs without them hold none."""
    names = set(dict(tiny_gan().named_parameters()))
    assert not {name for name in names if "embedding" in name or "projection" in name}
    gan = tiny_gan(condition="class")
    gan.condition_on(BOTH, [1, 1])
    added = set(dict(gan.named_parameters())) - names
    assert added == {
        "generator.embedding.weight",
        "generator_ema.embedding.weight",
        "critic.projection.weight",
    }
    assert isinstance(gan.generator_ema.embedding, nn.Embedding)
    assert not gan.generator_ema.embedding.weight.requires_grad
