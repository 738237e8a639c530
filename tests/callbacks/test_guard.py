"""Who ends whom when a rank of a run does not answer; the signals are tested with mbgan.train."""

import os
import signal
from types import SimpleNamespace

import pytest
from lightning.pytorch.plugins.environments import LightningEnvironment, TorchElasticEnvironment

from mbgan.callbacks import guard

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
