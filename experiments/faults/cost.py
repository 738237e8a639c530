"""What does looking at every loss, gradient and weight cost? python cost.py writes cost.csv.

Steps of small runs of random images on this CPU, with and without the callback, in turn.
"""

import csv
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import Tensor

from mbgan.callbacks.numbers import Numbers
from mbgan.gan import GAN
from mbgan.verbs import conf_dir, register_resolvers

MODELS = ("wgan_gp_small", "dcgan", "r3gan_lite")
BATCH, SIZE, STEPS, TURNS = 16, 64, 12, 3


class Clock(L.Callback):
    """Notes the processor's seconds of each batch but the first few, and ends the run."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.last = 0.0

    def on_train_batch_end(self, trainer: L.Trainer, gan: GAN, *rest: Any) -> None:
        """Look at the clock: of this process, as others may share the core."""
        now = time.process_time()
        self.seconds.append(now - self.last)
        self.last = now
        trainer.should_stop = len(self.seconds) == STEPS


class Batches(torch.utils.data.IterableDataset[tuple[Tensor, Tensor]]):
    """The same random images again and again."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images and the numbers of their conditions."""
        while True:
            yield torch.randint(256, (BATCH, 3, SIZE, SIZE)).byte(), torch.zeros(BATCH).long()


def seconds(model: str, policy: str | None) -> float:
    """Return the median of the processor's seconds that a batch takes."""
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose("train", [f"model={model}", f"image_size={SIZE}"])
    gan = instantiate(cfg.model, _convert_="all")
    clock = Clock()
    numbers = [Numbers("nowhere", policy, retries=3)] if policy else []
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar"), False)
    trainer = L.Trainer(
        accelerator="cpu",
        callbacks=[*numbers, clock],
        max_epochs=-1,
        enable_model_summary=False,
        **quiet,
    )
    trainer.fit(gan, torch.utils.data.DataLoader(Batches(), batch_size=None))
    return statistics.median(clock.seconds[2:])


def main() -> None:
    """Measure each model in turns, so that a slow minute slows all alike."""
    register_resolvers()
    table = [["model", "on_nonfinite", "ms_per_batch", "more_than_without"]]
    for model in MODELS:
        policies = (None, "stop", "skip")
        turns = [{policy: seconds(model, policy) for policy in policies} for _ in range(TURNS)]
        best = {policy: min(turn[policy] for turn in turns) for policy in policies}
        for policy, value in best.items():
            more = f"{value / best[None] - 1:.1%}"
            table.append([model, policy or "(none)", f"{1e3 * value:.1f}", more])
    with Path(__file__).with_name("cost.csv").open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(table)


if __name__ == "__main__":
    main()
