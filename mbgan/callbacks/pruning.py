"""Ending a run that is worse than others of its study, at an evaluation."""

import logging
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from mbgan.callbacks import find
from mbgan.callbacks.evaluation import Evaluation
from mbgan.callbacks.provenance import Provenance
from mbgan.gan import GAN

log = logging.getLogger(__name__)


class Pruning(Callback):
    """Reports each evaluation's KID to a trial of an Optuna study, and stops when it is pruned.

    The start, which no setting has moved yet, is not reported. Without a trial it does nothing.

    Args:
        pruner: of Optuna; its steps are images seen.
        storage: URL of the study's database.
        study: its name.
        trial: the trial's number; None outside of a study.
    """

    def __init__(self, pruner: Any, storage: str | None, study: str, trial: int | None) -> None:
        self.pruner, self.storage, self.study, self.number = pruner, storage, study, trial

    def on_train_start(self, trainer: L.Trainer, gan: GAN) -> None:
        """Open the study; do not go on with a run that was pruned."""
        self.trial = None
        if self.number is not None and trainer.is_global_zero:
            from optuna import load_study, logging
            from optuna.trial import Trial

            logging.set_verbosity(logging.WARNING)
            study = load_study(
                study_name=self.study, storage=self.storage or "", pruner=self.pruner
            )
            frozen = study.trials[self.number]
            if not frozen.state.is_finished():  # else it is resumed by itself, after its study
                self.trial = Trial(study, frozen._trial_id)
                self.before = frozen.intermediate_values  # what a cut-off job reported
        self._reported = -1
        self._look(trainer, gan)

    def on_train_batch_end(
        self, trainer: L.Trainer, gan: GAN, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop where the study says so."""
        self._look(trainer, gan)

    def _look(self, trainer: L.Trainer, gan: GAN) -> None:
        evaluation = find(trainer, Evaluation)
        seen = evaluation.rows[-1]["images_seen"]
        if self.number is None or seen in (0, self._reported):
            return
        self._reported, prune = seen, False
        if self.trial is not None:
            if seen not in self.before:
                self.trial.report(evaluation.rows[-1][evaluation.objective], step=seen)
            prune = self.trial.should_prune() and not trainer.should_stop
        if not trainer.strategy.broadcast(prune):
            return
        trainer.should_stop = True
        if trainer.is_global_zero:
            find(trainer, Provenance).record["pruned"] = True
            log.info("pruned at %d images: others of the study were better there", seen)
