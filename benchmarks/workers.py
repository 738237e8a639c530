"""Trainings in processes of their own that take turns, A B A B, so that they meet the same machine.

A worker does nothing until its parent sends a line; then it takes a turn (of critic and generator,
or of whatever it does) and answers how long that took.
"""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.measure import memory


class Gate:
    """The worker's end. Its stdout is the parent's from here on; prints go to stderr."""

    def __init__(self) -> None:
        self.answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self.began: tuple[float, float] | None = None
        self.own_mib = 0.0

    def wait(self, images: int) -> None:
        """Tell that a turn of so many images ended, if one had begun, and wait for the next.

        When the parent wants no more, tell the memory used and end the process.
        """
        now = time.perf_counter(), time.process_time()
        self.own_mib = max(self.own_mib, memory()["own"])
        if self.began is not None:
            wall_s, cpu_s = (after - before for after, before in zip(now, self.began, strict=True))
            self._answer({"images": images, "wall_s": wall_s, "cpu_s": cpu_s})
        if not sys.stdin.readline():
            self._answer(memory() | {"own": self.own_mib})
            os._exit(0)
        self.began = time.perf_counter(), time.process_time()

    def _answer(self, answer: dict[str, float]) -> None:
        self.answers.write(json.dumps(answer) + "\n")
        self.answers.flush()


class Worker:
    """The parent's end of a process that goes through a `Gate`.

    Args:
        command: of the process.
        environment: variables besides the parent's own.
    """

    def __init__(self, command: list[str], environment: Mapping[str, str] | None = None) -> None:
        self.command = command
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env=os.environ | dict(environment or {}),
            start_new_session=True,  # so that `close` ends the processes that it started, too
        )

    def turn(self, clock: str = "wall_s") -> tuple[int, float]:
        """Let it take a turn; return images and seconds, of the wall or of the CPU ("cpu_s")."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write("\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # `_answer` tells why
        answer = self._answer()
        return answer["images"], answer[clock]

    def close(self) -> dict[str, float]:
        """End it, and return the memory it used, as `measure.memory` but for the peak of "own"."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        used = self._answer()
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        return used

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.log.seek(0)
            last = self.log.read()[-2000:]
            raise RuntimeError(
                f"{' '.join(self.command)} ended with {self.process.wait()}:\n{last}"
            )
        answer: dict[str, Any] = json.loads(line)
        return answer


def python(module: str, *words: object) -> list[str]:
    """Return the command that runs a module of this folder."""
    return [sys.executable, "-m", module, *map(str, words)]


def alternate(
    workers: Mapping[str, Worker], rounds: int, clock: str = "wall_s"
) -> tuple[dict[str, list[float]], dict[str, dict[str, float]]]:
    """Let workers take turns, and end them; a first round is not counted: memory is laid out then.

    Args:
        workers: by name.
        rounds: in which each takes a turn.
        clock: "wall_s", or "cpu_s" where others use the machine and each has one thread.

    Returns:
        Images per second of each worker, one for each round, and the memory each used.
    """
    speeds: dict[str, list[float]] = {name: [] for name in workers}
    try:
        for i in range(-1, rounds):
            for name, worker in workers.items():
                images, seconds = worker.turn(clock)
                if i >= 0:
                    speeds[name].append(images / seconds)
        return speeds, {name: worker.close() for name, worker in workers.items()}
    finally:
        for worker in workers.values():
            if worker.process.poll() is None:
                os.killpg(worker.process.pid, signal.SIGKILL)
                worker.process.wait()


def folder_of(path: Path, name: str) -> Path:
    """Return a new folder for one of several workers."""
    folder = path / re.sub(r"\W", "_", name)  # Hydra would take a comma for a list
    folder.mkdir(parents=True)
    return folder
