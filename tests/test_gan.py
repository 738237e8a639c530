from copy import deepcopy
from functools import partial

import pytest
import torch
from conftest import ArrayData, tiny_gan
from lightning.pytorch.callbacks import Callback

from mbgan.gan import generate
from mbgan.schedules import Halving


class Turns(Callback):
    """Notes which player took each optimizer step, and at what learning rate."""

    def __init__(self):
        self.players, self.rates = [], []

    def on_before_optimizer_step(self, trainer, gan, optimizer):
        mine = {id(p) for p in optimizer.param_groups[0]["params"]}
        self.players.append("g" if id(next(gan.generator.parameters())) in mine else "c")
        self.rates.append(optimizer.param_groups[0]["lr"])


def test_generator_takes_its_turns_when_an_epoch_is_one_batch(fit):
    """153 images at batch 128 make one batch per epoch: turns are counted over the whole run."""
    turns, gan = Turns(), tiny_gan(n_critic=5)
    fit(gan, batches=10, data=ArrayData(n=4, batch_size=4), callbacks=[turns])
    assert "".join(turns.players) == "cccccg" * 2


def test_same_batch_serves_n_critic_steps_and_the_clock_counts_each(fit):
    """Algorithm 1, lines 22-24: n_d critic steps and a generator step on one minibatch."""
    turns, gan = Turns(), tiny_gan(n_critic=3, critic_batches="same")
    fit(gan, batches=2, callbacks=[turns])
    assert "".join(turns.players) == "cccg" * 2
    assert (gan.images_seen, gan.images_drawn, gan.critic_steps) == (2 * 3 * 4, 2 * 4, 6)


def test_a_critic_step_leaves_the_generator_alone(fit):
    gan = tiny_gan(n_critic=100)
    before = deepcopy(gan.generator.state_dict())
    fit(gan, batches=3)
    for name, weight in gan.generator.named_parameters():
        assert torch.equal(weight, before[name]), name
    assert not torch.equal(gan.critic.score.weight, tiny_gan().critic.score.weight)


def test_a_generator_step_leaves_the_critic_alone(fit):
    """Without the toggle its gradients would pile up in the critic's weights."""
    grads = []

    class Look(Callback):
        def on_before_optimizer_step(self, trainer, gan, optimizer):
            if optimizer is trainer.optimizers[0]:
                grads.extend(p.requires_grad for p in gan.critic.parameters())

    fit(tiny_gan(n_critic=1), batches=2, callbacks=[Look()])
    assert grads == [False] * 2 * 4


def test_average_stands_still_on_critic_steps_and_is_no_copy_after_generator_steps(fit):
    still = tiny_gan(n_critic=100)
    before = deepcopy(still.generator_ema.state_dict())
    fit(still, batches=3)
    weights = dict(still.generator_ema.named_parameters())
    assert all(torch.equal(value, before[name]) for name, value in weights.items())
    moved = tiny_gan(ema_half_life=1000, n_critic=1)
    fit(moved, batches=6)
    average, last = moved.generator_ema.dense.weight, moved.generator.dense.weight
    assert not torch.equal(average, before["dense.weight"])
    assert not torch.equal(average, last)


def test_without_half_life_the_average_is_the_generator(fit):
    gan = tiny_gan(ema_half_life=0, n_critic=1)
    fit(gan, batches=3)
    for name, value in gan.generator.state_dict().items():
        assert torch.equal(gan.generator_ema.state_dict()[name], value), name


def test_averaged_generator_is_in_eval_mode_while_the_others_train(fit):
    """In train mode its batch norm would depend on the batch, and change with every look."""
    gan, modes = tiny_gan(), []

    class Look(Callback):
        def on_train_batch_end(self, trainer, gan, *rest):
            modes.append((gan.generator.training, gan.generator_ema.norm.training))

    fit(gan, batches=2, callbacks=[Look()])
    assert modes == [(True, False)] * 2


def test_learning_rate_halves_over_its_half_life_in_images(fit):
    turns = Turns()
    fit(tiny_gan(n_critic=2, lr_schedule=Halving(8)), batches=4, callbacks=[turns])
    assert "".join(turns.players) == "ccgccg"
    assert turns.rates == [1e-3 * 0.5 ** (images / 8) for images in (0, 4, 4, 8, 12, 12)]


def test_steps_see_the_same_numbers_whatever_was_drawn_before(fit):
    """Every draw is a function of (seed, step): the global generator plays no part."""
    weights = []
    for seed in (1, 2):
        gan = tiny_gan()
        torch.manual_seed(seed)
        fit(gan, batches=4)
        weights.append(gan.state_dict())
    assert all(torch.equal(v, weights[1][k]) for k, v in weights[0].items())


def test_another_seed_is_another_run(fit):
    weights = []
    for seed in (1, 2):
        gan = tiny_gan(seed=seed)
        fit(gan, batches=1)
        weights.append(gan.critic.score.weight)
    assert not torch.equal(*weights)


@pytest.mark.parametrize("workers", [0, 2])
def test_resumed_run_equals_uninterrupted_run_bit_by_bit(fit, tmp_path, workers):
    """10 images at batch 4: the stop at batch 3 is in the middle of an epoch; dropout is on."""
    whole = tiny_gan(lr_schedule=Halving(50))
    trainer = fit(whole, batches=7)
    moments = [deepcopy(o.state_dict()) for o in trainer.optimizers]

    first = tiny_gan(lr_schedule=Halving(50))
    fit(first, 3, ArrayData(num_workers=workers)).save_checkpoint(tmp_path / "stop.ckpt")
    second = tiny_gan(lr_schedule=Halving(50))
    torch.nn.init.zeros_(second.critic.score.weight)  # whatever it starts from is replaced
    data = ArrayData(num_workers=workers)
    resumed = fit(second, 4, data, ckpt_path=tmp_path / "stop.ckpt")
    assert (second.critic_steps, second.images_seen) == (7, 28)
    for name, value in whole.state_dict().items():
        assert torch.equal(second.state_dict()[name], value), name
    for ours, theirs in zip(moments, resumed.optimizers, strict=True):
        for key, state in ours["state"].items():
            for name, value in state.items():
                assert torch.equal(theirs.state_dict()["state"][key][name], value), (key, name)


def test_optimizer_settings_of_the_config_win_over_the_checkpoint(fit, tmp_path):
    fit(tiny_gan(), batches=1).save_checkpoint(tmp_path / "stop.ckpt")
    adam = partial(torch.optim.Adam, lr=0.5, betas=(0.1, 0.2))
    trainer = fit(tiny_gan(make_opt_d=adam), batches=2, ckpt_path=tmp_path / "stop.ckpt")
    assert trainer.optimizers[1].param_groups[0]["betas"] == (0.1, 0.2)


def test_checkpoint_of_another_architecture_is_refused_by_name(fit, tmp_path):
    fit(tiny_gan(), batches=1).save_checkpoint(tmp_path / "stop.ckpt")
    other = tiny_gan()
    other.critic.score = torch.nn.Linear(7, 1)
    with pytest.raises(ValueError, match=r"critic.score.weight \[1, 128\] in the checkpoint and "):
        fit(other, batches=2, ckpt_path=tmp_path / "stop.ckpt")


def test_generate_gives_back_the_mode_and_does_not_depend_on_the_batch():
    generator = tiny_gan().generator
    z = torch.randn(5, 4)
    one, many = generate(generator, z, batch_size=1), generate(generator, z, batch_size=5)
    assert generator.training
    assert one.dtype == torch.uint8
    assert (one.int() - many.int()).abs().max() <= 1


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"n_critic": 0}, "n_critic must be at least 1, got 0"),
        ({"critic_batches": "old"}, "critic_batches must be same or fresh, got 'old'"),
        ({"ema_half_life": -1}, "ema_half_life must be at least 0 images, got -1"),
    ],
)
def test_settings_out_of_range_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        tiny_gan(**wrong)


def test_a_checkpoint_of_an_earlier_version_leaves_the_last_losses_as_they_are():
    """A rollback goes on to evaluate by them."""
    gan, checkpoint = tiny_gan(), {}
    gan.losses = {"critic/ordered": torch.tensor(0.5)}
    gan.on_save_checkpoint(checkpoint)
    checkpoint["state_dict"] = gan.state_dict()
    other = tiny_gan()
    other.on_load_checkpoint(checkpoint)
    assert other.losses == gan.losses
    del checkpoint["losses"]
    gan.losses = {"critic/ordered": torch.tensor(0.25)}
    gan.on_load_checkpoint(checkpoint)
    assert gan.losses == {"critic/ordered": torch.tensor(0.25)}
