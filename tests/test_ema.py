import pytest
import torch
from conftest import preset_gan, tiny_gan
from torch import nn

from mbgan.ema import ema_decay, settle, update_ema
from mbgan.networks import Generator


def test_a_weight_counts_half_after_the_half_life():
    assert ema_decay(1000, images=1000, images_seen=10**9, ramp_up=0.05) == 0.5
    assert ema_decay(1000, images=500, images_seen=10**9, ramp_up=0.05) ** 2 == 0.5000000000000001


def test_a_young_run_averages_over_its_own_length_only():
    """At 2,000 images the half-life is 5 % of them, 100, not 1000."""
    assert ema_decay(1000, images=100, images_seen=2000, ramp_up=0.05) == 0.5


def test_no_half_life_means_a_copy():
    assert ema_decay(0, images=10, images_seen=100, ramp_up=0.05) == 0.0


def test_update_moves_weights_by_the_rest_and_copies_buffers():
    average, current = nn.BatchNorm1d(1), nn.BatchNorm1d(1)
    nn.init.constant_(average.weight, 0.0)
    current.running_mean.fill_(7.0)
    update_ema(average, current, decay=0.75)
    torch.testing.assert_close(average.weight.data, torch.tensor([0.25]))
    assert average.running_mean.item() == 7.0


class Dyed(Generator):
    """Images of one gray, which batch norm centers: off it in eval mode where statistics differ."""

    def __init__(self):
        super().__init__(z_dim=1, image_size=16)
        self.norm = nn.BatchNorm2d(1, affine=False)
        self.level = nn.Parameter(torch.tensor(5.0))

    def forward(self, z, draws=None):
        gray = self.norm(self.level * (1 + z[:, :, None, None]))
        return gray.expand(-1, 3, 16, 16)


def test_settled_statistics_are_those_of_the_averaged_weights():
    """By hand: with weight a and z of mean m and variance v, a (1 + m) and a^2 v."""
    generator, z = Dyed().eval(), torch.randn(64, 1)
    generator.norm.running_mean.fill_(-100.0)
    settle(generator, generator, z)
    torch.testing.assert_close(generator.norm.running_mean, 5 * (1 + z.mean(0)))
    torch.testing.assert_close(generator.norm.running_var, 25 * z.var(0))
    assert not any(module.training for module in generator.modules())
    images = generator(z)
    torch.testing.assert_close(images.mean(), torch.tensor(0.0), atol=1e-5, rtol=0)


def test_settling_draws_conditions_in_their_shares(monkeypatch):
    gan, met = tiny_gan(condition="class"), []
    gan.condition_on(["rare", "common"], [1, 3])
    monkeypatch.setattr(
        "mbgan.gan.settle", lambda average, draw, z, condition: met.append(condition)
    )
    gan.settle()
    assert met[0].double().mean() == pytest.approx(0.75, abs=0.06)  # 3 standard errors at 512
    gan.settle()
    assert len(met) == 1  # nothing has changed since


def test_settling_is_a_function_of_the_weights():
    """So that a run that was cut off and resumed saves what the uninterrupted one does."""
    gan = preset_gan("dcgan")
    gan.generator_ema.load_state_dict(preset_gan("dcgan", "seed=1").generator.state_dict())
    gan.settle()
    before = {k: v.clone() for k, v in gan.generator_ema.state_dict().items() if "running" in k}
    gan.critic_steps = 1  # a step that changed no weight changes no statistic
    gan.settle()
    after = gan.generator_ema.state_dict()
    for name, value in before.items():
        assert torch.equal(value, after[name]), name
