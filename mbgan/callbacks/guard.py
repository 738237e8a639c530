"""When a run ends: at its last image, when its numbers break, or when somebody asks."""

import logging
import signal
from types import FrameType
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from mbgan.gan import GAN
from mbgan.runs import SIGNALS

log = logging.getLogger(__name__)


class Guard(Callback):
    """Stops the run after `total_images`, on a number that is not finite, and on a signal.

    Ctrl-C, SIGTERM, SIGUSR1 or SIGUSR2 lets the current batch end and the run be saved; a second
    Ctrl-C ends the process at once. The others may come twice: from SLURM, and from torchrun.
    Listed first, so that the callbacks after it see the stop.

    Args:
        total_images: images the critic sees: the length of the run, at least 1.
        check_every: batches between two looks at the losses and, on several devices, at the
            other ranks' signals; each look waits for the device.

    Raises:
        ValueError: if a number is under 1.
    """

    def __init__(self, total_images: int, check_every: int = 10) -> None:
        if total_images < 1:
            raise ValueError(f"total_images must be at least 1, got {total_images}")
        if check_every < 1:
            raise ValueError(f"callbacks.guard.check_every must be at least 1, got {check_every}")
        self.total_images, self.check_every = total_images, check_every
        self.signaled = self.interrupted = False
        self._handlers: dict[int, Any] = {}

    def on_train_start(self, trainer: L.Trainer, gan: GAN) -> None:
        """Take over the signals; a run that was done already trains no further."""
        trainer.should_stop = gan.images_seen >= self.total_images
        self._handlers = {s: signal.signal(s, self._on_signal) for s in SIGNALS}

    def teardown(self, trainer: L.Trainer, gan: GAN, stage: str) -> None:
        """Give the signals back."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def on_exception(self, trainer: L.Trainer, gan: GAN, exception: BaseException) -> None:
        """After an error, where Lightning calls no teardown: end the ranks that wait for this."""
        self.teardown(trainer, gan, "fit")
        if trainer.strategy.launcher is not None:
            trainer.strategy.launcher.kill(signal.SIGKILL)

    def on_train_batch_end(
        self, trainer: L.Trainer, gan: GAN, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop where the run is to stop.

        Raises:
            FloatingPointError: if a loss is not finite.
        """
        if gan.images_seen >= self.total_images:
            trainer.should_stop = True
        elif trainer.world_size == 1 and self.signaled:
            self.interrupted = trainer.should_stop = True
        if (batch_idx + 1) % self.check_every and not trainer.should_stop:
            return
        broken = [name for name, loss in gan.losses.items() if not torch.isfinite(loss)]
        if trainer.strategy.reduce_boolean_decision(bool(broken), all=False):  # on any rank
            names = " and ".join(broken) or "a loss on another rank"
            raise FloatingPointError(
                f"{names} became infinite or NaN after {gan.images_seen} images; "
                "the last checkpoint is from before; try a lower model.make_opt_d.lr or "
                "trainer.precision=32-true"
            )
        if (
            not trainer.should_stop
            and trainer.world_size > 1
            and trainer.strategy.reduce_boolean_decision(self.signaled, all=False)
        ):
            self.interrupted = trainer.should_stop = True

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.signaled and number == signal.SIGINT:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        if not self.signaled:
            name = signal.Signals(number).name
            log.warning("%s: saving at the end of this batch (Ctrl-C to stop now)", name)
        self.signaled = True
