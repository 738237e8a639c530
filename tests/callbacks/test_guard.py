"""Who ends whom when a rank of a run does not answer; the signals are tested with mbgan.train."""

import os
import signal
from types import SimpleNamespace

import pytest
from lightning.pytorch.plugins.environments import LightningEnvironment, TorchElasticEnvironment

from mbgan.callbacks import guard
from mbgan.failures import sign_of_life

LOST = RuntimeError("gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 9ms for recv")


@pytest.mark.parametrize(
    ("environment", "rank", "silent", "error", "ended"),
    [
        (LightningEnvironment, 1, [0], LOST, True),  # rank 0 started this one, and hangs
        (LightningEnvironment, 1, [], LOST, False),
        (LightningEnvironment, 0, [1], LOST, False),
        (TorchElasticEnvironment, 1, [0], LOST, False),  # torchrun ends it
        (LightningEnvironment, 1, [0], RuntimeError("shapes"), False),
    ],
)
def test_a_first_rank_that_hangs_is_ended_by_those_that_it_started(
    monkeypatch, tmp_path, environment, rank, silent, error, ended
):
    killed = []
    monkeypatch.setattr(guard, "silent_ranks", lambda *given: silent)
    monkeypatch.setattr(os, "kill", lambda *given: killed.append(given))
    strategy = SimpleNamespace(cluster_environment=environment(), launcher=None)
    trainer = SimpleNamespace(
        world_size=2,
        global_rank=rank,
        local_rank=rank,
        default_root_dir=tmp_path,
        strategy=strategy,
    )
    guard.Guard(total_images=1).on_exception(trainer, None, error)
    assert killed == ([(os.getppid(), signal.SIGKILL)] if ended else [])


@pytest.mark.parametrize(
    ("environment", "rank", "waits"),
    [
        (LightningEnvironment, 0, False),
        (LightningEnvironment, 1, True),  # rank 0 ends it
        (TorchElasticEnvironment, 1, False),
    ],
)
def test_when_ranks_have_met_signals_wait_only_where_lightning_started_the_rank(
    tmp_path, environment, rank, waits
):
    strategy = SimpleNamespace(cluster_environment=environment())
    trainer = SimpleNamespace(
        global_rank=rank, local_rank=rank, default_root_dir=tmp_path, strategy=strategy
    )
    stale = sign_of_life(tmp_path, rank)
    stale.touch()
    part = guard.Guard(total_images=1)
    part.hold()
    try:
        assert signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, ())
        part.setup(trainer, None, "fit")
        assert (signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, ())) == waits
    finally:
        part.teardown(trainer, None, "fit")
    assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    assert not stale.exists()
