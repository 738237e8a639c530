"""Checkpoints on the clock of images seen: the last one and the best one."""

import os
from pathlib import Path
from typing import Any

import lightning as L

from mbgan.callbacks import Periodic, find
from mbgan.callbacks.evaluation import Evaluation
from mbgan.callbacks.guard import Guard
from mbgan.gan import GAN
from mbgan.runs import Run


class Checkpoints(Periodic):
    """Saves checkpoints/last.ckpt every so many images, and best.ckpt when its KID is the lowest.

    Lightning's own ModelCheckpoint counts the steps of both optimizers together. A file is
    written under a temporary name and renamed: a run killed while saving keeps the old one.

    Args:
        run_dir: the run folder.
        every: images seen between two checkpoints.
    """

    def __init__(self, run_dir: str, every: int) -> None:
        super().__init__(every)
        self.run = Run(run_dir)

    def act(self, trainer: L.Trainer, gan: GAN) -> None:
        """Save the last checkpoint."""
        self._save(trainer, gan, self.run.checkpoint("last"))

    def on_train_batch_end(
        self, trainer: L.Trainer, gan: GAN, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save the best checkpoint if it was scored just now and is, then the last if it is time.

        In this order: a run killed in between scores the best one again.
        """
        best = find(trainer, Evaluation).best
        if best is not None and best["images_seen"] == gan.images_seen:
            self._save(trainer, gan, self.run.checkpoint("best"))
        super().on_train_batch_end(trainer, gan, outputs, batch, batch_idx)
        if find(trainer, Guard).interrupted:
            self._save(trainer, gan, self.run.checkpoint("last"))

    def _save(self, trainer: L.Trainer, gan: GAN, path: Path) -> None:
        gan.settle()
        temporary = path.with_name(f".{path.name}.saving")
        try:
            trainer.save_checkpoint(temporary)  # on every rank: some strategies gather weights
            if trainer.is_global_zero:
                with temporary.open("r+b") as file:
                    os.fsync(file.fileno())
                temporary.replace(path)
        except OSError as error:
            raise OSError(
                error.errno,
                f"cannot write {path} ({error.strerror}); make room there, then go on from the "
                f"checkpoint before with resume={self.run.folder}",
            ) from error
        finally:
            if trainer.is_global_zero:
                temporary.unlink(missing_ok=True)
