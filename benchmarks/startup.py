"""How long a user waits: for --help of each verb, and for the first training step."""

import os
import time
from pathlib import Path
from typing import Any

import lightning as L

from benchmarks.measure import Measures, Plan, process, record, run
from mbgan.verbs import conf_dir


class FirstStep(L.Callback):
    """Writes down when the first batch was trained on, and ends the process there.

    Args:
        path: of the file.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def on_train_batch_end(self, *rest: Any) -> None:
        """Note the time."""
        self.path.write_text(str(time.time()))
        os._exit(0)


def first_step(folder: Path, *words: str) -> float:
    """Return the seconds from the start of mbgan.train to the end of its first batch."""
    note = folder / "first_step"
    target = f"{{_target_: benchmarks.startup.FirstStep, path: {note}}}"
    began = time.time()
    process(
        "mbgan.train",
        *("experiment=quick_start", f"hydra.run.dir={folder / str(began)}", *words),
        f"+callbacks.first_step={target}",
    )
    return float(note.read_text()) - began


def measure(plan: Plan) -> Measures:
    """Measure all verbs in turn."""
    found = {path.stem for path in conf_dir().glob("*.yaml")} - {"verb"}
    verbs = ["train"] if plan.quick else sorted(found)
    for verb in verbs:
        process(f"mbgan.{verb}", "--help")  # fills the disk's cache
        seconds = [process(f"mbgan.{verb}", "--help").seconds for _ in range(plan.rounds)]
        yield f"startup/{verb} --help", record("s", seconds)
    first_step(plan.scratch)  # may draw and decode the phantom, and extract its features
    seconds = [first_step(plan.scratch) for _ in range(plan.rounds)]
    yield "startup/first step", record("s", seconds)


if __name__ == "__main__":
    run(measure)
