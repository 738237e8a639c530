"""What asks a process to end, in processes that are really asked."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from test_train import assert_same_training, process, wait_for

from mbgan import train
from mbgan.callbacks.guard import Guard
from mbgan.verbs import EVERY_S, INTERRUPTED, interruptible

ASKING = [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2]


def end_of(act):
    """Call a function in a process of its own; return its exit code, negative if by a signal."""
    pid = os.fork()
    if pid == 0:
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            logging.disable()
            act()
            os._exit(0)
        except SystemExit as end:
            os._exit(end.code)
        finally:
            os._exit(99)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize("number", ASKING)
def test_a_verb_that_is_asked_to_end_ends_with_the_documented_code(number):
    def act():
        with interruptible():
            signal.raise_signal(number)

    assert end_of(act) == INTERRUPTED == 3


def test_what_lightning_makes_of_an_interrupt_is_still_one():
    def act():
        with interruptible():
            try:
                signal.raise_signal(signal.SIGTERM)
            except KeyboardInterrupt:
                sys.exit(1)

    assert end_of(act) == INTERRUPTED


def test_an_interrupt_that_is_swallowed_comes_again():
    """Compiled code clears exceptions that it did not expect."""

    def act():
        with interruptible():
            with suppress(KeyboardInterrupt):
                signal.raise_signal(signal.SIGTERM)
            time.sleep(60)

    assert end_of(act) == INTERRUPTED


THROUGH_C = """
import ctypes, signal
from mbgan.verbs import interruptible
run = ctypes.pythonapi.PyRun_String
run.restype = ctypes.py_object
run.argtypes = [ctypes.c_char_p, ctypes.c_int, ctypes.py_object, ctypes.py_object]
with interruptible():
    run(b"signal.raise_signal(signal.SIGTERM)", 257, globals(), globals())
"""


def test_an_interrupt_that_comes_by_c_code_ends_with_the_documented_code():
    """Python would end by SIGINT, though it was caught."""
    ended = subprocess.run([sys.executable, "-c", THROUGH_C], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (INTERRUPTED, "interrupted\n")


def test_what_is_done_on_the_way_out_is_not_interrupted(tmp_path):
    def act():
        with interruptible():
            try:
                signal.raise_signal(signal.SIGTERM)
            finally:
                signal.raise_signal(signal.SIGTERM)  # of a scheduler that asks twice
                time.sleep(3 * EVERY_S)
                (tmp_path / "saved").touch()

    assert end_of(act) == INTERRUPTED
    assert (tmp_path / "saved").exists()


def test_errors_and_exit_codes_of_a_verb_that_nobody_interrupts_are_its_own():
    def act():
        with interruptible():
            sys.exit(2)

    assert end_of(act) == 2


def test_a_second_ctrl_c_ends_a_verb_at_once():
    def act():
        with interruptible():
            try:
                signal.raise_signal(signal.SIGINT)
            finally:
                signal.raise_signal(signal.SIGINT)
                time.sleep(60)

    assert end_of(act) == -signal.SIGINT


@pytest.mark.parametrize("first", ASKING)
def test_a_second_ctrl_c_ends_a_training_at_once(first):
    def act():
        guard = Guard(total_images=8)
        for number in (first, signal.SIGINT):
            guard._on_signal(number, None)

    assert end_of(act) == -signal.SIGINT


@pytest.mark.parametrize("second", ASKING[1:])
def test_a_training_that_saves_is_not_hurried_by_a_scheduler(second):
    """SLURM signals every process of a job, and torchrun passes on what it gets."""

    def act():
        guard = Guard(total_images=8)
        for number in (signal.SIGTERM, second, second):
            guard._on_signal(number, None)
        assert guard.signaled

    assert end_of(act) == 0


def children(parent):
    """Process ids of a process's children."""
    tasks = Path(f"/proc/{parent}/task").iterdir()
    return [int(pid) for task in tasks for pid in (task / "children").read_text().split()]


def runs(pid):
    """Whether a process is there; one that has ended, and waits for its parent, has no words."""
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except OSError:
        return False


@pytest.mark.ddp
def test_two_processes_that_are_asked_while_they_start_end_together(small, tmp_path):
    """The second of them is asked before it has loaded Python: it must not leave the first."""
    pair = process(
        [*small, "trainer=ddp_cpu", f"hydra.run.dir={tmp_path}/run"], start_new_session=True
    )
    while not (started := children(pair.pid)):
        assert pair.poll() is None, pair.communicate()[1]
        time.sleep(0.01)
    os.killpg(pair.pid, signal.SIGTERM)
    _, err = pair.communicate(timeout=600)
    assert pair.returncode == INTERRUPTED, err
    assert err.splitlines()[-1] == "interrupted"
    assert not any(map(runs, started))


def job_of(command):
    """The process in which submitit runs a job that a command has submitted."""
    for status in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = status.read_bytes()
        except OSError:
            continue
        if b"submitit.core._submit" in words and command.encode() in words:
            return int(status.parent.name)
    raise AssertionError(f"no job of {command}")


@pytest.mark.slow
def test_a_job_that_slurm_is_about_to_end_is_saved_requeued_and_goes_on(call, small, tmp_path):
    """By submitit's own signal and queue, here of its local executor."""
    job = [word for word in small if not word.startswith("hydra")]
    job += ["total_images=4000", "eval_every=2000"]
    sweep = tmp_path / "sweep"
    submitted = process(["-m", *job, "hydra/launcher=submitit_local", f"hydra.sweep.dir={sweep}"])
    run = sweep / "job"
    wait_for(run / "run.json", submitted)
    os.kill(job_of(str(sweep)), signal.SIGUSR2)
    _, err = submitted.communicate(timeout=600)
    assert submitted.returncode == 0, err
    logs = "".join(path.read_text() for path in sweep.rglob("*_log.err"))
    assert "Requeued job" in logs
    status = json.loads((run / "run.json").read_text())
    (earlier,) = status["earlier"]
    assert (status["status"], earlier["status"]) == ("done", "interrupted")
    assert 0 < earlier["images_seen"] < 4000
    assert call(train.main, *job, f"hydra.run.dir={tmp_path}/alone")[0] == 0
    assert_same_training(run, tmp_path / "alone")
