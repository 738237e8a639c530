"""When a run ends: at its last image, or when somebody asks."""

import logging
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.environments import LightningEnvironment

from mbgan.failures import lost_a_rank, sign_of_life, silent_ranks
from mbgan.gan import GAN
from mbgan.runs import SIGNALS

log = logging.getLogger(__name__)


class Guard(Callback):
    """Stops the run after `total_images`, and on a signal.

    Ctrl-C, SIGTERM, SIGUSR1 or SIGUSR2 lets the current batch end and the run be saved; a second
    Ctrl-C ends the process at once. The others may come twice: from SLURM, and from torchrun.
    Listed before the callbacks that must see the stop.

    Args:
        total_images: images the critic sees: the length of the run, at least 1.
        check_every: on several devices, batches between two looks at the other ranks' signals;
            each look waits for the device.

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
        self.silent: list[int] = []  # ranks that did not answer, where that ended the run
        self._handlers: dict[int, Any] = {}  # of the verb, where they are taken over
        self._held: list[int] = []

    def hold(self) -> None:
        """Let signals wait, for this process and those that it starts, until all ranks have met.

        A rank that ends while others look for it leaves them where they hear nothing, and one that
        ends while it starts another leaves that.
        """
        self._take(lambda number, frame: self._held.append(number))
        if hasattr(signal, "pthread_sigmask"):
            signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)

    def setup(self, trainer: L.Trainer, gan: GAN, stage: str) -> None:
        """All ranks have met, and may end; those that Lightning started wait for who did."""
        folder = Path(trainer.default_root_dir)
        sign_of_life(folder, trainer.global_rank).unlink(missing_ok=True)  # of one that was killed
        if trainer.local_rank == 0 or not _started_by_another(trainer):
            self._give_back()

    def on_train_start(self, trainer: L.Trainer, gan: GAN) -> None:
        """Take over the signals; a run that was done already trains no further."""
        trainer.should_stop = gan.images_seen >= self.total_images
        self._take(self._on_signal)
        self._hear()

    def teardown(self, trainer: L.Trainer, gan: GAN, stage: str) -> None:
        """Give the signals back."""
        self._give_back()

    def on_exception(self, trainer: L.Trainer, gan: GAN, exception: BaseException) -> None:
        """After an error, where Lightning calls no teardown: end the ranks that wait for this."""
        launcher = trainer.strategy.launcher
        started = [] if launcher is None else [*launcher.procs]
        if launcher is not None:
            launcher.procs.clear()  # Lightning looks at them, and kills this one if one is gone
        if trainer.world_size > 1 and lost_a_rank(exception):
            folder, rank = Path(trainer.default_root_dir), trainer.global_rank
            self.silent = silent_ranks(folder, rank, trainer.world_size)
            if trainer.local_rank > 0 and _started_by_another(trainer):
                parent = rank - trainer.local_rank  # started this one, and hangs for ever
                if parent in self.silent:
                    os.kill(os.getppid(), signal.SIGKILL)
        for process in started:
            process.kill()
        self._give_back()

    def on_train_batch_end(
        self, trainer: L.Trainer, gan: GAN, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop where the run is to stop."""
        if gan.images_seen >= self.total_images:
            trainer.should_stop = True
        elif trainer.world_size == 1 and self.signaled:
            self.interrupted = trainer.should_stop = True
        if (
            trainer.world_size > 1
            and (batch_idx + 1) % self.check_every == 0
            and not trainer.should_stop
            and trainer.strategy.reduce_boolean_decision(self.signaled, all=False)
        ):
            self.interrupted = trainer.should_stop = True

    def _take(self, handler: Callable[[int, FrameType | None], None]) -> None:
        for number in SIGNALS:
            before = signal.signal(number, handler)
            self._handlers.setdefault(number, before)

    def _give_back(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers.clear()
        self._hear()

    def _hear(self) -> None:
        if hasattr(signal, "pthread_sigmask"):
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        while self._held:
            signal.raise_signal(self._held.pop(0))

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.signaled and number == signal.SIGINT:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        if not self.signaled:
            name = signal.Signals(number).name
            log.warning("%s: saving at the end of this batch (Ctrl-C to stop now)", name)
        self.signaled = True


def _started_by_another(trainer: L.Trainer) -> bool:
    """Tell whether Lightning started this rank, which is not the first, rather than torchrun."""
    return isinstance(trainer.strategy.cluster_environment, LightningEnvironment)
