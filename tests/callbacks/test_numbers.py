"""Planted infinities and NaNs are met before they are written anywhere, named, and mended."""

from copy import deepcopy
from functools import partial

import lightning as L
import pytest
import torch
from conftest import ArrayData, StopAfter, tiny_gan
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DDPStrategy

from mbgan.augment import Adaptive, Chain, Translation
from mbgan.callbacks.numbers import Numbers, finite
from mbgan.losses import NonSaturating, Wasserstein
from mbgan.regularizers import LeCam, Regularizer, Sum
from mbgan.runs import Run, write_text

AT = 5  # the critic step that breaks


class Plant(Callback):
    """Breaks the gradient of a critic's weight at some steps, as a backward pass may."""

    def __init__(self, value, at=(AT,), name="conv.weight"):
        self.value, self.at, self.name = value, at, name

    def on_train_start(self, trainer, gan):
        def hook(grad):
            return grad * self.value if gan.critic_steps in self.at else grad

        weight = gan.critic.get_parameter(self.name)
        weight.register_hook(hook)


class Rising(Wasserstein):
    """A loss that breaks at one step, and whose gradient does not."""

    steps = 0

    def critic(self, d_real, d_fake):
        self.steps += 1
        return super().critic(d_real, d_fake) + (torch.inf if self.steps == AT + 1 else 0)


class Bursting(Regularizer):
    lipschitz = True

    def forward(self, step):
        return step.d_real.square().mean() * (torch.nan if step.draws.step == AT else 1)


class Keep(Callback):
    """Keeps everything that a step may change, as it was before the broken one."""

    def on_train_batch_start(self, trainer, gan, *rest):
        if gan.critic_steps == AT:
            self.state = deepcopy(gan.state_dict())
            self.moments = [deepcopy(o.state_dict()) for o in trainer.optimizers]


def numbers(tmp_path, policy, retries=3):
    write_text(Run(tmp_path).config, "")  # a rollback reads the folder as a resume does
    return Numbers(str(tmp_path), policy, retries)


def assert_same(ours, theirs):
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


PENALTY = {"regularizer": Bursting()}
BREAKS = {
    "critic/loss": ({"loss": Rising()}, []),
    "critic/penalty": (PENALTY, []),
    "critic.conv.weight": ({}, [Plant(torch.nan)]),
    "critic.score.bias": ({}, [Plant(torch.inf, name="score.bias")]),
    "critic.conv.bias": ({}, [Plant(1e25, name="conv.bias")]),  # its square, which Adam keeps
}


@pytest.mark.parametrize("culprit", BREAKS)
def test_what_breaks_is_named_with_its_images_before_anything_is_written(fit, tmp_path, culprit):
    changes, plants = BREAKS[culprit]
    gan, data, keep = tiny_gan(**deepcopy(changes)), ArrayData(), Keep()
    with pytest.raises(FloatingPointError) as error:
        fit(gan, 9, data, callbacks=[numbers(tmp_path, "stop"), *plants, keep])
    said = str(error.value)
    assert said.startswith(f"{culprit} became infinite or NaN after 20 images, in a critic step")
    rows = data.train_dataloader().dataset.rows(range(20, 24))
    assert ", ".join(f"{row} ({row:02d}.png)" for row in rows[:3]) + " and 1 more" in said
    assert gan.critic_steps == AT
    trained = {k: v for k, v in gan.state_dict().items() if not k.startswith("generator.norm")}
    assert_same(trained, keep.state)  # the norm's running statistics do not train


def test_weights_that_a_step_breaks_are_met_before_a_checkpoint_may_be_written(fit, tmp_path):
    seen = []

    class Later(Callback):
        def on_train_batch_end(self, trainer, gan, *rest):
            seen.append(gan.critic_steps)

    gan = tiny_gan(n_critic=3, make_opt_g=partial(torch.optim.SGD, lr=torch.inf))
    with pytest.raises(FloatingPointError, match=r"generator.dense.weight, .* and \d+ more became"):
        fit(gan, 9, callbacks=[numbers(tmp_path, "stop"), Later()])
    assert seen == [1, 2]


def test_a_step_left_out_changes_nothing_and_the_run_goes_on(fit, tmp_path, caplog):
    """With everything beside the weights that a step moves: running averages, ADA, the EMA."""
    plants = [Plant(torch.nan, at=(AT,)), Keep()]
    changes = {"augment": Adaptive(Chain(shift=Translation(0.125)), 0.6, 100, 4, 0.8)}
    changes |= {"regularizer": Sum(lecam=LeCam(0.1, warmup=0)), "loss": NonSaturating()}
    gan, policy = tiny_gan(**changes, n_critic=6), numbers(tmp_path, "skip")
    fit(gan, AT + 1, callbacks=[policy, *plants])  # the broken one is the last
    before = plants[1].state
    still = {k: v for k, v in gan.state_dict().items() if not k.startswith("generator")}
    assert_same(still, before)
    moved = gan.generator.dense.weight
    assert not torch.equal(moved, before["generator.dense.weight"])  # a step of its own
    assert finite(gan.losses.values())
    assert policy.counts == {"skipped_steps": 1, "rollbacks": 0}
    assert "step left out (1 so far)" in caplog.text


def test_the_average_stands_still_while_the_generator_does(fit, tmp_path):
    gan, keep = tiny_gan(n_critic=AT + 1), Keep()

    class Broken(Callback):
        def on_train_start(self, trainer, gan):
            gan.generator.conv.weight.register_hook(lambda grad: grad * torch.nan)

    fit(gan, AT + 1, callbacks=[numbers(tmp_path, "skip"), Broken(), keep])
    after = {k: v for k, v in gan.state_dict().items() if k.startswith("generator")}
    assert_same(after, keep.state)


def test_a_player_that_breaks_in_every_step_is_not_skipped_for_ever(fit, tmp_path):
    policy = numbers(tmp_path, "skip", retries=2)
    with pytest.raises(FloatingPointError, match="2 such steps before it were left out"):
        fit(tiny_gan(), 9, callbacks=[policy, Plant(torch.nan, at=range(AT, 99))])
    assert policy.counts["skipped_steps"] == 2


class Save(Callback):
    """Writes the last checkpoint after some batches, as the real callback does."""

    def __init__(self, run_dir, after):
        self.path, self.after, self.seeds = run_dir / "checkpoints/last.ckpt", after, []

    def on_train_batch_end(self, trainer, gan, *rest):
        self.seeds.append((gan.critic_steps, gan.images_drawn, gan.seed))
        if len(self.seeds) in self.after:
            trainer.save_checkpoint(self.path)


class Unlucky(Plant):
    """Breaks a step only with the first random numbers of the run."""

    def on_train_start(self, trainer, gan):
        gan.critic.conv.weight.register_hook(
            lambda grad: grad * torch.nan if (gan.seed, gan.critic_steps) == (0, AT) else grad
        )


def test_a_rollback_goes_on_from_the_last_checkpoint_with_other_numbers_and_images(fit, tmp_path):
    save, policy = Save(tmp_path, after=(3,)), numbers(tmp_path, "rollback")
    gan = tiny_gan()
    fit(gan, 8, callbacks=[policy, save, Unlucky(0)])
    steps, drawn, seeds = zip(*save.seeds, strict=True)
    assert steps == (1, 2, 3, 4, 5, 3, 4, 5)  # the sixth batch broke
    assert drawn == tuple(range(4, 36, 4))  # the stream goes on
    assert len(set(seeds[:5])) == 1
    assert seeds[5] == seeds[7] != seeds[0]
    assert policy.counts == {"skipped_steps": 0, "rollbacks": 1}
    assert finite(gan.parameters())


@pytest.mark.parametrize("stop", [4, 7])
def test_a_resumed_run_with_a_rollback_is_the_uninterrupted_one_bit_by_bit(fit, tmp_path, stop):
    """Stopped before the rollback and after it, each time at the last checkpoint."""
    whole = tiny_gan()
    folder = tmp_path / "whole"
    fit(whole, 9, callbacks=[numbers(folder, "rollback"), Save(folder, (3, 7)), Unlucky(0)])
    first, folder = tiny_gan(), tmp_path / "stopped"
    parts = [numbers(folder, "rollback"), Save(folder, (3, 7)), Unlucky(0)]
    fit(first, stop, callbacks=parts)
    second, saved = tiny_gan(), folder / "checkpoints/last.ckpt"
    batches = {4: 6, 7: 2}[stop]
    parts = [numbers(folder, "rollback"), Save(folder, ()), Unlucky(0)]
    fit(second, batches, ckpt_path=saved, callbacks=parts)
    assert second.images_drawn == whole.images_drawn
    assert_same(second.state_dict(), whole.state_dict())


def test_rollbacks_that_do_not_help_end_the_run(fit, tmp_path):
    save, policy = Save(tmp_path, after=(3,)), numbers(tmp_path, "rollback", retries=2)
    with pytest.raises(FloatingPointError, match="2 rollbacks were of no help"):
        fit(tiny_gan(), 99, callbacks=[policy, save, Plant(torch.nan)])
    assert policy.counts["rollbacks"] == 2


def test_without_a_checkpoint_there_is_nothing_to_go_back_to(fit, tmp_path):
    with pytest.raises(FloatingPointError, match="; no checkpoint yet; try"):
        fit(tiny_gan(), 9, callbacks=[numbers(tmp_path, "rollback"), Plant(torch.nan)])


class RisingOnRank1(Rising):
    """Its gradient does not break, so that the other rank sees nothing of it."""

    def critic(self, d_real, d_fake):
        alone = torch.distributed.get_rank() == 0
        loss = super().critic(d_real, d_fake)
        return Wasserstein.critic(self, d_real, d_fake) if alone else loss


class Leave(Callback):
    """Leaves each rank's weights and counts in a folder."""

    def __init__(self, folder):
        self.folder = folder

    def on_train_end(self, trainer, gan):
        counts = next(c.counts for c in trainer.callbacks if isinstance(c, Numbers))
        torch.save((gan.state_dict(), counts), self.folder / f"{trainer.global_rank}.pt")


@pytest.mark.ddp
@pytest.mark.parametrize("policy", ["skip", "rollback"])
def test_two_ranks_decide_alike_though_only_one_of_them_broke(tmp_path, policy):
    trainer = L.Trainer(
        accelerator="cpu",
        devices=2,
        strategy=DDPStrategy(find_unused_parameters=True, start_method="spawn"),
        max_epochs=-1,
        callbacks=[numbers(tmp_path, policy), Save(tmp_path, (3,)), StopAfter(8), Leave(tmp_path)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(tiny_gan(loss=RisingOnRank1()), ArrayData())
    (ours, counts), (theirs, their_counts) = (torch.load(tmp_path / f"{r}.pt") for r in (0, 1))
    assert counts == their_counts
    assert sum(counts.values()) == 1
    assert_same({k: v for k, v in ours.items() if "norm" not in k}, theirs)  # of own images each


def test_a_policy_that_nobody_needs_changes_no_bit(fit, tmp_path):
    states = []
    for policy in (None, "stop", "skip", "rollback"):
        gan = tiny_gan()
        fit(gan, 5, callbacks=[numbers(tmp_path, policy)] if policy else [])
        states.append(gan.state_dict())
    for state in states[1:]:
        assert_same(state, states[0])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"policy": "ignore"}, "on_nonfinite must be stop, skip or rollback, got 'ignore'"),
        ({"policy": "skip", "retries": 0}, "callbacks.numbers.retries must be at least 1, got 0"),
    ],
)
def test_settings_out_of_range_are_refused(tmp_path, wrong, message):
    with pytest.raises(ValueError, match=message):
        numbers(tmp_path, **wrong)
