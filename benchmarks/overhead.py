"""A whole mbgan.train against a bare loop of the same mathematics, and the wait for batches.

The run is that of `make train`, with its callbacks, logger and loader; what happens at intervals
(evaluation, samples, checkpoints) is not in it: a user sets how often that is.
"""

import statistics
import time
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.profilers import SimpleProfiler

from benchmarks import bare
from benchmarks.measure import Measures, Plan, ratios, record, run
from benchmarks.ours import config, fit
from benchmarks.workers import Worker, alternate, folder_of, python
from mbgan.assembly import assemble
from mbgan.gan import GAN

WAIT = "[_TrainingEpochLoop].train_dataloader_next"  # how Lightning's profiler calls it


class Stop(L.Callback):
    """Ends a training after so many turns, and measures how much of it was waiting for batches.

    The first turn is not counted: there memory is laid out.
    """

    def __init__(self, turns: int) -> None:
        self.turns, self.done = turns, 0
        self.profiler = SimpleProfiler()

    def setup(self, trainer: L.Trainer, gan: L.LightningModule, stage: str) -> None:
        """Have the waits recorded."""
        trainer.profiler = self.profiler

    def on_train_batch_end(self, trainer: L.Trainer, gan: L.LightningModule, *rest: Any) -> None:
        """Look at the clock when the generator had its turn."""
        assert isinstance(gan, GAN)
        if gan.critic_steps % gan.n_critic:
            return
        waits = self.profiler.recorded_durations[WAIT]
        if not self.done:
            self.began, self.first = time.perf_counter(), len(waits)
        self.done += 1
        trainer.should_stop = self.done > self.turns
        if trainer.should_stop:
            self.share = sum(waits[self.first :]) / (time.perf_counter() - self.began)


def same_weights(folder: Path, words: list[str]) -> float:
    """Return the largest difference of weights between mbgan and the bare loop after two turns.

    Raises:
        ValueError: if they are not the same mathematics any more.
    """
    words = [*words, "trainer.precision=32-true"]
    ours = fit(config(folder, False, *words), Stop(turns=1)).gan
    theirs, training = bare.begin(folder, words)
    for _ in range(2):
        next(training)
    pairs = zip(ours.parameters(), theirs.parameters(), strict=True)
    gap = max(float((a - b).detach().abs().max()) for a, b in pairs)
    if gap > 1e-5:  # a step of Adam moves weights by about 4e-4
        raise ValueError(
            f"benchmarks/bare.py must train as mbgan.gan does, weights differ by {gap}"
        )
    return gap


def capacity(folder: Path, words: list[str], seconds: float) -> float:
    """Return batches per second of the data module's stream by itself."""
    datamodule = assemble(config(folder, False, *words)).datamodule
    batches = iter(datamodule.stream(datamodule.batch_size))
    next(batches)
    n, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        next(batches)
        n += 1
    return n / (time.perf_counter() - began)


def measure(plan: Plan) -> Measures:
    """Measure quick_start's run and loader."""
    folder, size = plan.scratch, plan.size(64)
    turns = 2 if plan.quick else 10
    words = ["experiment=quick_start", f"image_size={size}"]
    gap = same_weights(folder_of(folder, "same"), words)
    yield "overhead/largest difference of weights", record("", [gap])
    whole = python("benchmarks.ours", folder_of(folder, "whole"), "run", turns, *words)
    loop = python("benchmarks.bare", folder_of(folder, "bare"), turns, *words)
    rounds = 1 if plan.quick else 2 * plan.rounds  # short turns: many of them
    speeds, _ = alternate({"mbgan.train": Worker(whole), "bare loop": Worker(loop)}, rounds)
    for name, values in speeds.items():
        yield f"overhead/{name}", record("images/s", values)
    found = ratios(speeds["bare loop"], speeds["mbgan.train"])
    yield "overhead/time of mbgan.train against the bare loop", found

    batch_size = config(folder, False, *words).batch_size
    used = [speed / batch_size for speed in speeds["mbgan.train"]]
    seconds = 0.5 if plan.quick else 3
    given = [capacity(folder, words, seconds) for _ in range(plan.rounds)]
    yield "loader/given", record("batches/s", given)
    yield "loader/used", record("batches/s", used)
    yield "loader/given against used", ratios(given, [statistics.median(used)] * len(given))
    shares = []
    for i in range(plan.rounds):
        stop = Stop(2 * turns)
        fit(config(folder_of(folder, f"wait{i}"), False, *words), stop)
        shares.append(stop.share)
    yield "loader/wait", record("of the time", shares)


if __name__ == "__main__":
    run(measure)
