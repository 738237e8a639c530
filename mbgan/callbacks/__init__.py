"""What happens around the training loop: scores, samples, checkpoints, progress, records."""

from abc import ABC, abstractmethod
from typing import Any, TypeVar

from lightning import Trainer
from lightning.pytorch.callbacks import Callback

from mbgan.callbacks.guard import Guard
from mbgan.gan import GAN

C = TypeVar("C", bound=Callback)


def find(trainer: Trainer, kind: type[C]) -> C:
    """Return the trainer's callback of a kind.

    Raises:
        ValueError: if it was taken out of the config.
    """
    for callback in trainer.callbacks:
        if isinstance(callback, kind):
            return callback
    raise ValueError(f"callbacks must include {kind.__name__.lower()}, which others build on")


class Periodic(Callback, ABC):
    """Acts whenever the clock passes a multiple of `every` images, and when the run is done.

    Args:
        every: images seen between two acts, at least 1.

    Raises:
        ValueError: if every is under 1.
    """

    def __init__(self, every: int) -> None:
        if every < 1:
            raise ValueError(f"eval_every must be at least 1 image, got {every}")
        self.every = every

    @abstractmethod
    def act(self, trainer: Trainer, gan: GAN) -> None:
        """Do what this callback is for; called on every rank."""

    def on_train_batch_start(self, trainer: Trainer, gan: GAN, batch: Any, batch_idx: int) -> None:
        """Remember the clock before the batch."""
        self._before = gan.images_seen

    def on_train_batch_end(
        self, trainer: Trainer, gan: GAN, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Act if it is time; a run that was asked to stop does not wait for it."""
        done = trainer.should_stop and not find(trainer, Guard).interrupted
        if done or gan.images_seen // self.every > self._before // self.every:
            gan.settle()
            self.act(trainer, gan)
