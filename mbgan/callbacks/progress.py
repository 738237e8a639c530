"""The line in the terminal, and the losses in the loggers."""

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_only
from tqdm.auto import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from mbgan.callbacks import find
from mbgan.callbacks.evaluation import Evaluation
from mbgan.gan import GAN


class Progress(Callback):
    """Shows images seen, speed, losses and the last score, and logs the losses.

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
        """Open the bar; other lines are written above it."""
        self._redirect = logging_redirect_tqdm()
        self._redirect.__enter__()
        self._bar = tqdm(
            total=self.total_images,
            initial=gan.images_seen,
            unit=" images",
            disable=None,
            dynamic_ncols=True,
        )
        self._steps = gan.critic_steps

    @rank_zero_only
    def on_train_batch_end(
        self, trainer: L.Trainer, gan: GAN, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the bar; every `log_every` batches read the losses."""
        self._bar.update(gan.images_seen - self._bar.n)
        if (batch_idx + 1) % self.log_every:
            return
        losses = {name: float(loss) for name, loss in gan.losses.items()}
        for logger in trainer.loggers:
            logger.log_metrics(losses, step=gan.images_seen)
        elapsed = self._bar.format_dict["elapsed"]
        shown = {"it/s": f"{(gan.critic_steps - self._steps) / max(elapsed, 1e-9):.1f}"}
        shown |= {k: f"{v:.3g}" for k, v in losses.items() if k.endswith("/loss")}
        evaluation = find(trainer, Evaluation)
        shown[evaluation.objective] = f"{evaluation.rows[-1][evaluation.objective]:.3g}"
        self._bar.set_postfix(shown)

    def on_exception(self, trainer: L.Trainer, gan: GAN, exception: BaseException) -> None:
        """Close the bar after an error too, where Lightning calls no teardown."""
        self.teardown(trainer, gan, "fit")

    @rank_zero_only
    def teardown(self, trainer: L.Trainer, gan: GAN, stage: str) -> None:
        """Close the bar."""
        if hasattr(self, "_bar"):
            self._bar.close()
            self._redirect.__exit__(None, None, None)
            del self._bar
