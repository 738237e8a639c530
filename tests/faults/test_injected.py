"""Damage from outside, done for real where this machine lets us: one clear line or on it goes.

Each test adds what it saw to the file that MBGAN_FAULTS names: experiments/faults/injected.sh.
"""

import csv
import json
import multiprocessing
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from test_signals import children
from test_train import assert_same_training, process, weights

from mbgan import evaluate, train
from mbgan.callbacks.evaluation import Evaluation

as_root = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("mount"), reason="mounting needs root"
)
ON = "goes on, same weights"


@pytest.fixture
def note(request, tmp_path):
    """Append a row to the table of faults, if somebody makes it."""

    def write(fault, expected, seen):
        if path := os.environ.get("MBGAN_FAULTS"):
            with open(path, "a", newline="") as file:
                words = [fault, expected, seen.replace(str(tmp_path), "DIR"), request.node.name]
                csv.writer(file, lineterminator="\n").writerow(words)

    return write


def mount(*words):
    made = subprocess.run(["mount", *words], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"this machine mounts nothing: {made.stderr.strip()}")


@contextmanager
def mounted(folder, *words):
    mount(*words, str(folder))
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def the_line(err):
    """The last line on stderr, which is the error, and the only sign of one."""
    assert "Traceback" not in err, err
    last = err.splitlines()[-1]
    assert last.startswith("error: "), err
    return last.removeprefix("error: ")


def during(monkeypatch, do, images=24):
    """Do something in mid-run, right after the evaluation at so many images."""
    true_act = Evaluation.act

    def act(self, trainer, gan):
        true_act(self, trainer, gan)
        if gan.images_seen == images:
            do()

    monkeypatch.setattr(Evaluation, "act", act)


@pytest.fixture
def whole(call, small, tmp_path):
    """The run that nothing happened to; a function, as not all tests need it."""

    def run():
        folder = tmp_path / "whole"
        code, err = call(train.main, *small, f"hydra.run.dir={folder}")
        assert code == 0, err
        return folder

    return run


@as_root
def test_a_full_disk_ends_the_run_in_one_line_and_resumes_when_there_is_room(
    call, small, whole, note, tmp_path
):
    other = whole()
    disk = tmp_path / "disk"
    disk.mkdir()
    with mounted(disk, "-t", "tmpfs", "-o", "size=3m", "tmpfs"):
        filler, run = disk / "filler", disk / "run"
        sizes = sum(p.stat().st_size for p in other.rglob("*") if p.is_file())
        seen = set()
        for room in np.linspace(0.1, 0.9, 5):  # it ends at another file each time
            shutil.rmtree(run, ignore_errors=True)
            filler.write_bytes(bytes(int(3 * 2**20 - room * sizes)))
            code, err = call(train.main, *small, f"hydra.run.dir={run}")
            assert code == 1, err
            seen.add(the_line(err))
        filler.unlink()
        code, err = call(train.main, f"resume={run}")
        assert code == 0, err
        assert_same_training(run, other)
    assert all("No space left on device" in line and str(disk) in line for line in seen), seen
    note("disk full (tmpfs), at five points of the run", "one line, resumes", " | ".join(seen))


@as_root
def test_a_run_folder_that_becomes_read_only_is_one_line_and_resumes(
    call, small, whole, note, monkeypatch, tmp_path
):
    other, run = whole(), tmp_path / "run"

    def seal():  # over what is there, as files that are open for writing hold a mount
        mount("--bind", str(run), str(run))
        mount("-o", "remount,ro,bind", str(run))

    with monkeypatch.context() as m:
        during(m, seal)
        try:
            code, err = call(train.main, *small)
        finally:
            subprocess.run(["umount", "--lazy", str(run)], check=True)
    assert code == 1, err
    line = the_line(err)
    assert "Read-only file system" in line
    assert str(run) in line
    code, err = call(train.main, f"resume={run}")
    assert code == 0, err
    assert_same_training(run, other)
    note("run folder read-only in mid-run", "one line, resumes", line)


def test_images_that_vanish_or_change_in_mid_run_do_not_matter_to_it_but_to_the_next(
    call, small, whole, folder, note, monkeypatch, tmp_path
):
    other = whole()
    one, two, *_ = sorted(folder.rglob("*.png"))

    def damage():
        one.unlink()
        shutil.copy(sorted(folder.rglob("*.png"))[-1], two)

    with monkeypatch.context() as m:
        during(m, damage)
        code, err = call(train.main, *small)
    assert code == 0, err
    assert_same_training(tmp_path / "run", other)
    code, err = call(evaluate.main, f"run={tmp_path}/run")
    assert code == 1
    line = the_line(err)
    assert "data.root must hold the images that the run began with" in line
    note("an image deleted, another replaced in mid-run", ON, "went on, same weights")
    note("... and the run evaluated afterwards", "one line", line)


def test_a_cache_that_is_deleted_in_mid_run_or_damaged_between_runs_does_not_matter(
    call, small, whole, note, monkeypatch, tmp_path
):
    other, cache = whole(), tmp_path / "cache"
    with monkeypatch.context() as m:
        during(m, lambda: shutil.rmtree(cache))
        code, err = call(train.main, *small)
    assert code == 0, err
    assert_same_training(tmp_path / "run", other)
    for path in cache.glob("*.npy"):
        path.write_bytes(b"damaged")
    code, err = call(train.main, *small, f"hydra.run.dir={tmp_path}/again")
    assert code == 0, err
    assert_same_training(tmp_path / "again", other)
    note("decoded cache deleted in mid-run", ON, "went on, same weights")
    note("decoded cache damaged", "decoded anew, same weights", "decoded anew, same weights")


def test_a_killed_worker_is_one_line_and_the_run_resumes(
    call, small, whole, note, monkeypatch, tmp_path
):
    other = whole()

    def kill():
        for worker in multiprocessing.active_children():  # and not W&B's process, if one runs
            worker.kill()

    with monkeypatch.context() as m:
        during(m, kill)
        code, err = call(train.main, *small, "data.num_workers=2")
    assert code == 1, err
    line = the_line(err)
    assert "a process that prepares batches is gone" in line
    code, err = call(train.main, f"resume={tmp_path}/run", "data.num_workers=0")
    assert code == 0, err
    assert_same_training(tmp_path / "run", other)
    note("a DataLoader worker killed (SIGKILL)", "one line, resumes", line)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_processes_of_a_run_leaves_its_workers_at_work(
    call, small, whole, note, monkeypatch, tmp_path, number
):
    """As Ctrl-C in a terminal: without its workers the run could not end its batch and save."""
    other = whole()

    def ask():
        for worker in multiprocessing.active_children():
            os.kill(worker.pid, number)

    with monkeypatch.context() as m:
        during(m, ask)
        code, err = call(train.main, *small, "data.num_workers=2")
    assert code == 0, err
    assert_same_training(tmp_path / "run", other)
    note(f"{number.name} to a DataLoader worker", ON, "went on, same weights")


def test_short_memory_is_one_line(call, small, note, tmp_path):
    """As much address space as is in use, and a little: a batch of 256 pixels has no place."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    large = ["image_size=256", "batch_size=8", "model.generator.width=64", "model.critic.width=64"]
    resource.setrlimit(resource.RLIMIT_AS, (used + 400 * 2**20, before[1]))
    try:
        code, err = call(train.main, *small, *large)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert code == 1, err
    line = the_line(err)
    assert "lower batch_size, image_size or" in line
    note("memory short (RLIMIT_AS)", "one line", line)


def test_a_clock_that_jumps_back_changes_nothing(call, small, whole, note, monkeypatch, tmp_path):
    other, now = whole(), [time.time()]

    def back():
        now[0] -= 3600.0
        return now[0]

    with monkeypatch.context() as m:
        m.setattr(time, "time", back)
        code, err = call(train.main, *small)
    assert code == 0, err
    assert_same_training(tmp_path / "run", other)
    assert json.loads((tmp_path / "run/run.json").read_text())["wall_s"] > 0
    note("clock jumps back an hour at every look", ON, "went on, same weights")


@pytest.fixture
def deaf_server():
    """A port that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = []
        threading.Thread(target=take, args=(server, taken), daemon=True).start()
        yield server.getsockname()[1]
        for connection in taken:
            connection.close()


def take(server, taken):
    while True:
        try:
            taken.append(server.accept()[0])
        except OSError:
            return


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["refusing", "silent"])
def test_a_wandb_server_that_does_not_answer_costs_a_minute_and_not_the_run(
    call, small, whole, note, monkeypatch, deaf_server, tmp_path, kind
):
    other = whole()
    port = deaf_server if kind == "silent" else 9  # discard: nobody listens
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{port}")
    code, err = call(train.main, *small, "logger=wandb")
    assert code == 0, err
    assert "wandb: offline, as the server did not answer" in err
    assert_same_training(tmp_path / "run", other)
    assert list((tmp_path / "run/wandb").glob("offline-run-*"))
    note(f"W&B server {kind}", "offline, same weights", "offline, same weights")


def test_wandb_that_dies_costs_its_curves_and_neither_this_run_nor_the_next(
    call, small, whole, note, monkeypatch, tmp_path
):
    """Its process serves all runs of a sweep."""
    other, logged = whole(), [*small, "logger=wandb"]

    def kill():
        for pid in children(os.getpid()):
            if b"wandb-core" in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGKILL)

    with monkeypatch.context() as m:
        during(m, kill)
        code, err = call(train.main, *logged)
    assert code == 0, err
    (line,) = (line for line in err.splitlines() if "goes on without it" in line)
    assert line.startswith("wandb: took nothing more (")
    assert_same_training(tmp_path / "run", other)
    code, err = call(train.main, *logged, f"hydra.run.dir={tmp_path}/next")
    assert code == 0, err
    assert "wandb: took nothing more" not in err
    assert list((tmp_path / "next/wandb").glob("offline-run-*/run-*.wandb"))
    note("W&B's own process killed (SIGKILL)", ON, line)


def wait_for_checkpoint(run, started):
    while not (run / "checkpoints/last.ckpt").is_file():
        assert started.poll() is None, started.communicate()[1]
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.ddp
@pytest.mark.parametrize("hung", [0, 1])
def test_a_rank_that_hangs_ends_all_in_time_and_is_named(small, note, tmp_path, hung):
    """Started by torchrun, so that they begin together, on a busy machine too."""
    run = tmp_path / "run"
    settings = ["trainer=ddp_cpu", "rank_timeout_s=60", "total_images=1_000_000", "eval_every=8"]
    torchrun = [*(sys.executable, "-m", "torch.distributed.run"), "--standalone"]
    pair = subprocess.Popen(
        [*torchrun, "--nproc-per-node=2", "-m", "mbgan.train", *small, *settings],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for_checkpoint(run, pair)
    ranks = children(pair.pid)
    os.kill(next(pid for pid in ranks if rank_of(pid) == hung), signal.SIGSTOP)
    _, err = pair.communicate(timeout=600)
    (line,) = (line for line in err.splitlines() if line.startswith("error"))
    assert f"did not answer for rank_timeout_s=60 s (rank {hung})" in line
    assert f"mbgan.train resume={run}" in line
    assert "Traceback" not in err.partition("torch/distributed/")[0]  # torchrun's comes after
    assert not any(Path(f"/proc/{pid}").exists() for pid in ranks)
    assert weights(run)["counters"]["images_seen"] > 0
    note(f"rank {hung} of 2 hung (SIGSTOP)", "all end after rank_timeout_s, one line", line)


def rank_of(pid):
    words = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return next(int(word.removeprefix("RANK=")) for word in words if word.startswith("RANK="))


@pytest.mark.slow
def test_a_killed_rank_ends_the_other(small, note, tmp_path):
    run = tmp_path / "run"
    pair = process([*small, "trainer=ddp_cpu", "total_images=1_000_000", "eval_every=40"])
    wait_for_checkpoint(run, pair)
    (other,) = children(pair.pid)
    os.kill(other, signal.SIGKILL)
    _, err = pair.communicate(timeout=600)
    assert pair.returncode == 1
    line = the_line(err)
    assert "another of the 2 processes of this run is gone" in line
    assert "(rank 1)" in line
    note("rank 1 of 2 killed (SIGKILL)", "all end, one line", line)
