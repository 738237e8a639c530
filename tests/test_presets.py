"""What holds for every architecture in conf/model, those of the future included."""

import shutil
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from conftest import ArrayData, preset_gan
from hydra.errors import InstantiationException
from two_ranks import main as train_alone

from mbgan import generate, train
from mbgan.latents import Draws
from mbgan.networks import mixes_images
from mbgan.saved import TRUST
from mbgan.verbs import conf_dir

PRESETS = sorted(path.stem for path in (conf_dir() / "model").glob("*.yaml"))
PATH_LENGTH = [f"model.generator_regularizer.{name}" for name in ("pl_weight=2", "interval=1")]
FROZEN = ["model.freeze_critic=2"]
SCRIPT = Path(__file__).parent / "two_ranks.py"


@pytest.mark.parametrize("preset", PRESETS)
def test_networks_keep_the_contract(preset):
    """Shapes and ranges; in eval mode an image depends on its latent alone."""
    gan = preset_gan(preset)
    z, generator = torch.randn(8, gan.generator.z_dim), gan.generator
    x = generator(z, Draws(0, 0)).detach()
    assert x.shape == (8, 3, 32, 32)
    assert x.abs().max() <= 1
    assert torch.equal(deepcopy(generator)(z, Draws(0, 1)), generator(z, Draws(0, 1)))
    first = generator.eval()(z)
    torch.manual_seed(1)
    assert torch.equal(generator(z, Draws(1, 1)), first)
    alone = torch.cat([generator(row) for row in z.split(1)])
    torch.testing.assert_close(alone, first, atol=1e-5, rtol=0)
    critic = gan.critic.eval()
    scores = critic(x)
    assert len(scores) == 8
    torch.testing.assert_close(scores, critic.score(critic.features(x)).squeeze(-1))
    if not mixes_images(critic):
        torch.testing.assert_close(torch.cat([critic(row) for row in x.split(1)]), scores)


@pytest.mark.parametrize("preset", PRESETS)
def test_bfloat16_gives_nearly_the_same_images_and_scores(preset):
    gan = preset_gan(preset)
    z, x = torch.randn(8, gan.generator.z_dim), torch.rand(8, 3, 32, 32) * 2 - 1
    generator, critic = gan.generator.eval(), gan.critic.eval()
    with torch.no_grad():
        images, scores = generator(z), critic(x)
        with torch.autocast("cpu", torch.bfloat16):
            rough_images, rough_scores = generator(z).float(), critic(x).float()
    assert not torch.equal(rough_scores, scores)
    assert (rough_images - images).abs().max() < 0.1
    assert (rough_scores - scores).abs().max() < 0.05 * (1 + scores.abs().max())


@pytest.mark.parametrize("preset", PRESETS)
def test_training_moves_every_weight_that_learns(fit, preset):
    """A layer that nothing trains is a mistake, in a network or in what is handed to whom."""
    gan = preset_gan(preset, "model.n_critic=1")
    before = {name: p.clone() for name, p in gan.named_parameters() if p.requires_grad}
    del before["critic.score.bias"]  # cancels in losses of differences of scores
    fit(gan, batches=3, data=ArrayData(image_size=32))
    for name, weight in gan.named_parameters():
        assert weight.isfinite().all(), name
        if name in before:
            assert not torch.equal(weight, before[name]), name


@pytest.mark.parametrize("preset", PRESETS)
def test_lower_layers_are_what_scores_but_the_score_from_the_image_on(preset):
    """Each reads maps no finer than the one before; what only reconstructs is none of them."""
    critic = preset_gan(preset).critic
    layers, sides = critic.lower_layers(), {}

    def note(i):
        return lambda module, args, out: sides.setdefault(i, []).append(args[0][0, 0].numel())

    for i, layer in enumerate(layers):
        parts = [m for m in layer.modules() if not isinstance(m, torch.nn.ModuleList)]
        parts[0].register_forward_hook(note(i))
    critic(torch.randn(4, 3, 32, 32)).sum().backward()
    pixels = [max(sides[i]) for i in range(len(layers))]
    assert pixels == sorted(pixels, reverse=True)
    assert pixels[0] > pixels[-1]
    scoring = {id(p) for p in critic.parameters() if p.grad is not None}
    lower = [id(p) for layer in layers for p in layer.parameters()]
    assert len(set(lower)) == len(lower)
    assert set(lower) == scoring - {id(p) for p in critic.score.parameters()}


@pytest.mark.parametrize("preset", PRESETS)
def test_frozen_layers_stay_bit_by_bit_and_all_others_learn(fit, preset):
    """Although every step switches the gradients of both networks off and on."""
    gan = preset_gan(preset, "model.n_critic=1", "model.freeze_critic=2")
    frozen = {id(p) for layer in gan.critic.lower_layers()[:2] for p in layer.parameters()}
    before = {name: p.clone() for name, p in gan.critic.named_parameters()}
    fit(gan, batches=3, data=ArrayData(image_size=32))
    for name, weight in gan.critic.named_parameters():
        if name != "score.bias":  # cancels in losses of differences of scores
            assert torch.equal(weight, before[name]) == (id(weight) in frozen), name


def test_a_norm_is_no_layer_of_its_own():
    counts = [
        len(preset_gan("dcgan", f"model.critic.batch_norm={norm}").critic.lower_layers())
        for norm in ("true", "false")
    ]
    assert counts == [3, 3]


@pytest.mark.parametrize("n", [-1, 4])
def test_freezing_less_than_nothing_or_every_layer_is_refused(n):
    rule = f"freeze_critic must be from 0 to 3, as WGANCritic has 4 layers .* learn, got {n}"
    with pytest.raises(InstantiationException, match=rule):
        preset_gan("wgan_gp_small", f"model.freeze_critic={n}")
    preset_gan("wgan_gp_small", "model.freeze_critic=3")


@pytest.mark.parametrize("preset", PRESETS)
def test_a_resumed_preset_is_the_uninterrupted_one_bit_by_bit(fit, preset, tmp_path):
    """10 images at batch 4: the stop is in the middle of an epoch."""

    def data():
        return ArrayData(image_size=32)

    turns = "model.n_critic=2"
    whole = preset_gan(preset, turns)
    fit(whole, 6, data())
    fit(preset_gan(preset, turns), 3, data()).save_checkpoint(tmp_path / "stop.ckpt")
    second = preset_gan(preset, turns)
    torch.nn.init.zeros_(second.critic.score.weight)  # whatever it starts from is replaced
    fit(second, 3, data(), ckpt_path=tmp_path / "stop.ckpt")
    assert second.images_seen == whole.images_seen
    for name, value in whole.state_dict().items():
        assert torch.equal(second.state_dict()[name], value), name


@pytest.mark.ddp
@pytest.mark.parametrize(
    "preset",
    [
        *([name] for name in PRESETS),
        ["stylegan_lite", *PATH_LENGTH, "model.condition=class"],
        ["fastgan_lite", "model.condition=class"],
        ["dcgan", *FROZEN],
    ],
    ids=" ".join,
)
def test_gradients_of_two_ranks_are_those_of_one_process(preset, tmp_path):
    """All but batch norm and dropout, which are taken out (on GPUs batch norm is synchronized).

    In float64, so that only the order of sums differs.
    """
    words = [*preset, "model.n_critic=2"]
    train_alone(1, tmp_path / "one", *words)
    command = [sys.executable, SCRIPT, "2", tmp_path / "two", *words]
    subprocess.run(command, check=True, timeout=300)
    alone, first, second = (torch.load(tmp_path / name) for name in ("one.0", "two.0", "two.1"))
    critic_steps = alone[2] // 8
    assert alone[2] == first[2]
    assert len(alone[0]) == len(first[0]) == critic_steps + critic_steps // 2
    for ours, theirs, other in zip(first[0], second[0], alone[0], strict=True):
        for a, b, one in zip(ours, theirs, other, strict=True):
            assert torch.equal(a, b)
            atol = 1e-9 * one.abs().max().item() + 1e-15
            torch.testing.assert_close(a, one, rtol=1e-9, atol=atol)
    for name, value in alone[1].items():
        torch.testing.assert_close(first[1][name], value, rtol=1e-7, atol=1e-9)


MODULE = """
import torch
from torch import nn

from mbgan.networks import Critic, Generator


class Plain(Generator):
    def __init__(self, z_dim, image_size, width):
        super().__init__(z_dim, image_size)
        self.layers = nn.Sequential(
            nn.Linear(z_dim, width), nn.ReLU(), nn.Linear(width, 3 * image_size**2)
        )

    def forward(self, z, draws=None):
        return torch.tanh(self.layers(z)).unflatten(1, (3, self.image_size, self.image_size))


class Judge(Critic):
    def __init__(self, image_size, width):
        super().__init__(image_size, width)
        self.dense = nn.Linear(3 * image_size**2, width)

    def features(self, x):
        return torch.relu(self.dense(x.flatten(1)))
"""

PRESET = """
# @package _global_
defaults:
  - override /regularizer: r1
  - override /augment: translation

model:
  _target_: mbgan.gan.GAN
  n_critic: 1
  critic_batches: fresh
  generator: {_target_: plain.Plain, z_dim: 8, image_size: "${image_size}", width: 16}
  critic: {_target_: plain.Judge, image_size: "${image_size}", width: 16}
  loss: {_target_: mbgan.losses.Hinge}
  regularizer: ${regularizer}
  augment: ${augment}
  make_opt_g: {_target_: torch.optim.Adam, _partial_: true, lr: 2.0e-4, betas: [0.0, 0.99]}
  make_opt_d: {_target_: torch.optim.Adam, _partial_: true, lr: 2.0e-4, betas: [0.0, 0.99]}
  seed: ${seed}
"""


def test_a_new_architecture_is_two_new_files(call, small, tmp_path, monkeypatch):
    """A module and a config are all it takes to train and to draw images."""
    conf = tmp_path / "conf"
    shutil.copytree(conf_dir(), conf)
    monkeypatch.setattr("mbgan.verbs.conf_dir", lambda: conf)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "plain.py").write_text(MODULE)
    (conf / "model/plain.yaml").write_text(PRESET.lstrip())

    code, err = call(train.main, *small, "model=plain", "eval_every=40")
    assert code == 0, err
    run = tmp_path / "run"
    monkeypatch.delenv(TRUST)
    code, err = call(generate.main, f"run={run}", "n=2")
    assert (code, f"set {TRUST}=NAME" in err) == (1, True)  # whose they are, nobody knows
    monkeypatch.setenv(TRUST, "plain")
    code, err = call(generate.main, f"run={run}", "n=2")
    assert code == 0, err
    assert len(list((run / "generated").glob("*.png"))) == 2
