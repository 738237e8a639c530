"""The line in the terminal, and the losses in the loggers."""

import logging
import sys
from typing import Any, TextIO

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_only
from rich import progress
from rich.console import Console
from rich.table import Column

from mbgan.callbacks import find
from mbgan.callbacks.evaluation import Evaluation
from mbgan.gan import GAN


class Progress(Callback):
    """Shows images seen, speed, time left, losses and the last KID, and logs the losses.

    Args:
        total_images: the length of the run.
        log_every: batches between two looks at the losses; each look waits for the device.

    Raises:
        ValueError: if log_every is under 1.
    """

    def __init__(self, total_images: int, log_every: int) -> None:
        if log_every < 1:
            raise ValueError(f"callbacks.progress.log_every must be at least 1, got {log_every}")
        self.total_images, self.log_every = total_images, log_every

    @rank_zero_only
    def on_train_start(self, trainer: L.Trainer, gan: GAN) -> None:
        """Open the line, on a terminal; other lines are written above it."""
        console = Console(stderr=True)
        self._line = progress.Progress(
            progress.BarColumn(bar_width=16),
            progress.TextColumn("{task.completed:,.0f}/{task.total:,.0f} images"),
            progress.TextColumn("{task.fields[speed]}"),
            progress.TimeRemainingColumn(compact=True),
            progress.TextColumn(
                "{task.fields[losses]}",
                table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1),
            ),
            console=console,
            disable=not console.is_terminal,
            expand=True,
        )
        self._stderr = sys.stderr
        self._line.start()
        self._task = self._line.add_task(
            "", total=self.total_images, completed=gan.images_seen, speed="", losses=""
        )
        self._redirect(self._stderr, sys.stderr)  # rich's by now: above the line

    @staticmethod
    def _redirect(old: TextIO, new: TextIO) -> None:
        for handler in logging.getLogger().handlers:
            if isinstance(handler, logging.StreamHandler) and handler.stream is old:
                handler.setStream(new)

    @rank_zero_only
    def on_train_batch_end(
        self, trainer: L.Trainer, gan: GAN, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the line; every `log_every` batches read the losses."""
        self._line.update(self._task, completed=gan.images_seen)
        if (batch_idx + 1) % self.log_every:
            return
        losses = {name: float(loss) for name, loss in gan.losses.items()}
        for logger in trainer.loggers:
            logger.log_metrics(losses, step=gan.images_seen)
        evaluation = find(trainer, Evaluation)
        shown = {name.removesuffix("/loss"): x for name, x in losses.items() if "/loss" in name}
        shown["KID"] = evaluation.rows[-1][evaluation.objective]
        speed = self._line.tasks[0].speed
        self._line.update(
            self._task,
            speed=f"{speed:.1f}/s" if speed else "",
            losses="  ".join(f"{name} {value:.3g}" for name, value in shown.items()),
        )

    def on_exception(self, trainer: L.Trainer, gan: GAN, exception: BaseException) -> None:
        """Close the line after an error too, where Lightning calls no teardown."""
        self.teardown(trainer, gan, "fit")

    @rank_zero_only
    def teardown(self, trainer: L.Trainer, gan: GAN, stage: str) -> None:
        """Close the line."""
        if hasattr(self, "_line"):
            self._redirect(sys.stderr, self._stderr)
            self._line.stop()
            del self._line
