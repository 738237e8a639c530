"""Checkpoints on the clock of images seen: the last one and the best one."""

from typing import Any

import lightning as L

from mbgan.callbacks import Periodic, find
from mbgan.callbacks.evaluation import Evaluation
from mbgan.callbacks.guard import Guard
from mbgan.files import flush
from mbgan.gan import GAN
from mbgan.runs import Run


class Checkpoints(Periodic):
    """Saves checkpoints/last.ckpt every so many images, and best.ckpt when its KID is the lowest.

    Lightning's own ModelCheckpoint counts the steps of both optimizers together. Of both the one
    before is kept, too (`Run.keep`): a run killed while saving, or a damaged file, loses nothing.

    Args:
        run_dir: the run folder.
        every: images seen between two checkpoints.
    """

    def __init__(self, run_dir: str, every: int) -> None:
        super().__init__(every)
        self.run = Run(run_dir)

    def act(self, trainer: L.Trainer, gan: GAN) -> None:
        """Save the last checkpoint."""
        self._save(trainer, gan, "last")

    def on_train_batch_end(
        self, trainer: L.Trainer, gan: GAN, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save the best checkpoint if it was scored just now and is, then the last if it is time.

        In this order: a run killed in between scores the best one again.
        """
        best = find(trainer, Evaluation).best
        if best is not None and best["images_seen"] == gan.images_seen:
            self._save(trainer, gan, "best")
        super().on_train_batch_end(trainer, gan, outputs, batch, batch_idx)
        if find(trainer, Guard).interrupted:
            self._save(trainer, gan, "last")

    def _save(self, trainer: L.Trainer, gan: GAN, name: str) -> None:
        gan.settle()
        path = self.run.checkpoint(name)
        temporary = path.with_name(f".{path.name}.saving")
        try:
            trainer.save_checkpoint(temporary)  # on every rank: some strategies gather weights
            if trainer.is_global_zero:
                flush(temporary)
                self.run.keep(temporary, name)
        except OSError as error:
            raise OSError(
                error.errno,
                f"cannot write {path} ({error.strerror}); make room there, then go on from the "
                f"checkpoint before with resume={self.run.folder}",
            ) from error
        finally:
            if trainer.is_global_zero:
                temporary.unlink(missing_ok=True)
