"""A training is timed over whole turns of critic and generator, and stopped when it is known."""

from itertools import count
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from conftest import ArrayData, tiny_gan
from torch import nn

from mbgan.callbacks import timing
from mbgan.callbacks.timing import FlopCounter, StepTimer, power_draw


@pytest.fixture
def clock(monkeypatch):
    """A second goes by between two looks at the clock."""
    seconds = count(100.0)
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(seconds))


@pytest.mark.parametrize("n_critic", [1, 3])
@pytest.mark.parametrize(("seconds", "turns"), [(0, 1), (1, 1), (2.5, 3), (4, 4)])
def test_whole_turns_are_timed_after_the_first_until_the_time_is_over(
    fit, clock, n_critic, seconds, turns
):
    """At a second a turn of n_critic batches of 4, the speed is 4 n_critic images a second."""
    timer, gan = StepTimer(seconds), tiny_gan(n_critic=n_critic)
    fit(gan, batches=1000, data=ArrayData(batch_size=4), callbacks=[timer])
    assert gan.critic_steps == (1 + turns) * n_critic
    assert timer.steps == turns * n_critic
    assert timer.images_per_s == pytest.approx(4 * n_critic)


def test_operations_of_known_layers_are_counted_exactly():
    """A multiplication and an addition each; a penalty's gradient and its own backward too.

    y = x W: forward, then dx for the gradient, then both inputs of both products again.
    """
    n, inside, outside = 5, 7, 3
    x = torch.randn(n, inside, requires_grad=True)
    layer = nn.Linear(inside, outside, bias=False)
    conv = nn.Conv2d(2, 4, 3, padding=1, bias=False)
    product = 2 * n * inside * outside
    with FlopCounter() as flops:
        score = layer(x)
        assert flops.total == product
        (grad,) = torch.autograd.grad(score.square().sum(), x, create_graph=True)
        assert flops.total == 2 * product
        torch.autograd.grad(grad.square().sum(), layer.weight)
        assert flops.total == 5 * product  # of dx = g W: dg and dW; of g = 2 x W: dW
    with FlopCounter() as flops:
        conv(torch.randn(1, 2, 8, 8)).sum().backward()
    assert flops.total == 2 * (2 * 8 * 8 * 4 * 2 * 9)  # forward, and the weights' gradient


def test_operations_an_image_are_those_of_one_turn(fit, clock):
    """Whatever the batch, and however many turns follow.

    A step runs G, and C on a real, a generated and a mixed image; a turn has two, and G's own step.
    """
    dense, conv, look, judge = 2 * 4 * 1024, 2 * 3 * 4 * 9 * 256, 2 * 8 * 3 * 256, 2 * 128
    forward = 2 * (dense + conv + 3 * (look + judge)) + dense + conv + look + judge
    found = []
    for batch_size, seconds in ((2, 1), (8, 1), (2, 3)):
        timer = StepTimer(seconds)
        fit(tiny_gan(), batches=1000, data=ArrayData(batch_size=batch_size), callbacks=[timer])
        found.append(timer.flops_per_image)
    assert found == [found[0]] * 3
    # A backward pass is up to twice a forward one, and G has none in the step of C.
    assert 1.5 < found[0] / (forward / 2) < 3
    assert timer.memory_bytes > 2**20


def test_a_training_that_fails_is_counted_no_more(fit):
    """mbgan.prepare goes on after a failed forecast, and would pay for the counting."""

    class Fails(L.Callback):
        def on_train_batch_start(self, *rest):
            raise ValueError("no")

    timer = StepTimer(0)
    with pytest.raises(ValueError, match="no"):
        fit(tiny_gan(), batches=2, callbacks=[timer, Fails()])
    before = timer.operations.total
    torch.ones(2, 2) @ torch.ones(2, 2)
    assert timer.operations.total == before


@pytest.mark.parametrize(("said", "watts"), [("61.35\n", [61.35]), ("[N/A]\n", [])])
def test_a_gpus_power_is_what_nvidia_smi_says_of_it(monkeypatch, tmp_path, said, watts):
    """It is asked for by its id: torch may number GPUs otherwise."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f'#!/bin/sh\ncase "$*" in *"-i GPU-1234") printf "{said}";; *) exit 6;; esac\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    properties = SimpleNamespace(uuid="1234")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda gpu: properties)
    assert power_draw(torch.device("cuda", 0)) == watts
    tool.unlink()
    assert power_draw(torch.device("cuda", 0)) == []
