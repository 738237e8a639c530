"""A training is timed over whole turns of critic and generator, and stopped when it is known."""

from itertools import count

import pytest
from conftest import ArrayData, tiny_gan

from mbgan.callbacks import timing
from mbgan.callbacks.timing import StepTimer


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
