"""Scores of the averaged generator against held-out images, while it trains."""

import logging
import math
from collections.abc import Sequence
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_only

from mbgan.callbacks import Periodic
from mbgan.gan import GAN, generate
from mbgan.latents import fixed_latents
from mbgan.metrics.features import Features
from mbgan.metrics.suite import Suite
from mbgan.runs import Run

log = logging.getLogger(__name__)


class Evaluation(Periodic):
    """Scores `generator_ema` at the start, every so many images and at the end.

    Every rank generates its share of the images and all ranks score all of them, so that the
    scores equal those of one process. Rows go to metrics.jsonl, metrics.csv and the loggers.

    Args:
        run_dir: the run folder.
        suite: which scores.
        every: images seen between two evaluations, at least 1.
        seed: of the latents, the same at every evaluation.
        also: other extractors' suites, which score the same images and pick nothing.
    """

    def __init__(
        self, run_dir: str, suite: Suite, every: int, seed: int, also: Sequence[Suite] = ()
    ) -> None:
        super().__init__(every)
        self.run, self.suite, self.seed = Run(run_dir), suite, seed
        self.suites = [suite, *also]
        self.rows: list[dict[str, Any]] = []
        self._ordered, self._batches = torch.zeros(()), 0

    @property
    def objective(self) -> str:
        """Key of the score that picks the best checkpoint; lower is better."""
        return f"kid/{self.suite.extractor.name}"

    @property
    def best(self) -> dict[str, Any] | None:
        """The row with the lowest KID so far, the later of equals; never that of the start."""
        later = [row for row in self.rows[::-1] if row["images_seen"]]
        return min(later, key=lambda row: row[self.objective], default=None)

    def on_train_start(self, trainer: L.Trainer, gan: GAN) -> None:
        """Extract the real features and score the start; forget what a resume undoes.

        Raises:
            ValueError: if the ranks, or this run and its resumed one, differ in extractor.
        """
        name = trainer.strategy.broadcast(self.suite.extractor.name)
        self.rows = [r for r in self.run.read_metrics() if r["images_seen"] <= gan.images_seen]
        if name != self.suite.extractor.name or any(self.objective not in r for r in self.rows):
            raise ValueError(
                f"extractor must be one for the whole run and all ranks, got "
                f"{self.suite.extractor.name}; name it: extractor=inception or another"
            )
        self._ordered = self._ordered.to(gan.device)
        x_real, self.conditions = self.suite.pick(trainer.datamodule.held_out)
        extractors = [suite.extractor.to(gan.device) for suite in self.suites]
        self.real = [extractor.extract(x_real) for extractor in extractors]
        if not self.rows:
            self.act(trainer, gan)

    def on_train_batch_end(
        self, trainer: L.Trainer, gan: GAN, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add up what one batch says too little of, without waiting for the device."""
        self._ordered += gan.losses["critic/ordered"]
        self._batches += 1
        super().on_train_batch_end(trainer, gan, outputs, batch, batch_idx)

    def on_save_checkpoint(self, trainer: L.Trainer, gan: GAN, checkpoint: dict[str, Any]) -> None:
        """Add what was added up since the last evaluation, on each rank; called on all of them."""
        ordered = torch.stack(_of_all_ranks(trainer, self._ordered)).cpu()  # [ranks]
        checkpoint["since_evaluation"] = {"ordered": ordered, "batches": self._batches}

    def on_load_checkpoint(self, trainer: L.Trainer, gan: GAN, checkpoint: dict[str, Any]) -> None:
        """Go on adding up, with the mean of the ranks if they are others now."""
        since = checkpoint.get("since_evaluation")  # earlier versions began anew
        if since is not None:
            ordered, ranks = since["ordered"], trainer.world_size
            same = len(ordered) == ranks
            self._ordered = ordered[trainer.global_rank] if same else ordered.mean()
            self._batches = since["batches"]

    def act(self, trainer: L.Trainer, gan: GAN) -> None:
        """Score the averaged generator; on rank 0, write the row."""
        fakes, scores = self._fake_features(trainer, gan), dict[str, float]()
        for suite, real, fake in zip(self.suites, self.real, fakes, strict=True):
            scores |= suite.scores(real, fake)
        row = {
            "images_seen": gan.images_seen,
            **trainer.strategy.broadcast(scores),
            "n_real": len(self.real[0].features),
            "n_fake": len(fakes[0].features),
            "extractor_sha256": self.suite.extractor.sha256,
            **{name: float(value) for name, value in gan.losses.items()},
        }
        if self._batches:
            ordered = trainer.strategy.reduce(self._ordered / self._batches, reduce_op="mean")
            row["critic/ordered"] = float(ordered)  # since the last evaluation
            self._ordered, self._batches = torch.zeros_like(self._ordered), 0
        self.rows.append(row)
        self._write(trainer, row)

    @torch.no_grad()
    def _fake_features(self, trainer: L.Trainer, gan: GAN) -> list[Features]:
        n = len(self.conditions)
        share = math.ceil(n / trainer.world_size)
        mine = range(trainer.global_rank * share, (trainer.global_rank + 1) * share)
        z = fixed_latents(mine, gan.generator.z_dim, self.seed)
        conditions = self.conditions[[i % n for i in mine]]  # of the real images
        x_fake = generate(gan.generator_ema, z, conditions)
        seen = [suite.extractor.extract(x_fake) for suite in self.suites]
        if trainer.world_size == 1:
            return seen

        def gathered(part: torch.Tensor) -> torch.Tensor:
            return torch.cat(_of_all_ranks(trainer, part.to(gan.device)))[:n].cpu()

        return [Features(*map(gathered, features)) for features in seen]

    @rank_zero_only
    def _write(self, trainer: L.Trainer, row: dict[str, Any]) -> None:
        self.run.write_metrics(self.rows)
        numbers = {key: value for key, value in row.items() if isinstance(value, float)}
        for logger in trainer.loggers:
            logger.log_metrics(numbers, step=row["images_seen"])
        scores = [
            f"{k} {v:.4g}" for k, v in numbers.items() if k.endswith(self.suite.extractor.name)
        ]
        log.info(
            "%8d images seen: %s (n_real %d, n_fake %d)",
            *(row["images_seen"], ", ".join(scores), row["n_real"], row["n_fake"]),
        )


def _of_all_ranks(trainer: L.Trainer, part: torch.Tensor) -> list[torch.Tensor]:
    """Return what each rank holds; parts are of one shape, on the ranks' own devices."""
    if trainer.world_size == 1:
        return [part]
    parts = [torch.empty_like(part) for _ in range(trainer.world_size)]
    torch.distributed.all_gather(parts, part)
    return parts
