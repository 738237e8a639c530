"""The end of a run that gets no better."""

import logging
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from mbgan.callbacks import find
from mbgan.callbacks.evaluation import Evaluation
from mbgan.gan import GAN

log = logging.getLogger(__name__)


class Patience(Callback):
    """Stops a run after some evaluations in a row without a new best KID.

    They are counted in the rows of the evaluation: the same on all ranks, and after a resume. So
    a run that was stopped trains no further unless it is resumed with more patience. Listed after
    the evaluation and before what must see the stop.

    Args:
        patience: evaluations, at least 1; None for never.

    Raises:
        ValueError: if patience is under 1.
    """

    def __init__(self, patience: int | None) -> None:
        if patience is not None and patience < 1:
            raise ValueError(f"patience must be null or at least 1 evaluation, got {patience}")
        self.patience = patience

    def on_train_start(self, trainer: L.Trainer, gan: GAN) -> None:
        """Do not go on with a run that was stopped."""
        self._look(trainer, gan)

    def on_train_batch_end(
        self, trainer: L.Trainer, gan: GAN, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop where patience ends."""
        self._look(trainer, gan)

    def _look(self, trainer: L.Trainer, gan: GAN) -> None:
        evaluation = find(trainer, Evaluation)
        best = evaluation.best
        if self.patience is None or best is None or trainer.should_stop:
            return
        since = sum(row["images_seen"] > best["images_seen"] for row in evaluation.rows)
        if since >= self.patience:
            trainer.should_stop = True
            log.info(
                "no better KID in %d evaluations: stopped at %d images, best at %d",
                *(since, gan.images_seen, best["images_seen"]),
            )
