"""Fit one GAN: python -m mbgan.train."""

import logging
import os
import sys

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from mbgan.runs import Run
from mbgan.sweeps import outcome, train_job
from mbgan.verbs import INTERRUPTED, verb

log = logging.getLogger(__name__)


@verb("train")
def main(cfg: DictConfig) -> float | None:
    """Train one GAN, score its best checkpoint and return its KID, which a sweep minimizes."""
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        return train_job(cfg, Run(cfg.run_dir))
    if cfg.resume is None:
        return train(cfg)
    with Run(cfg.run_dir).alone():
        return train(cfg)


def train(cfg: DictConfig) -> float | None:
    """Train and score in this process; see `main`."""
    from mbgan.callbacks.wandb import finished  # heavy imports wait until --help had its chance

    with finished():
        return fit_and_score(cfg)


def fit_and_score(cfg: DictConfig) -> float | None:
    """Train, score the best checkpoint, and return its KID; None without, or on other ranks.

    With full_metrics=null a run ends unscored: a study's generators are many, and judged by what
    their images do.
    """
    import torch
    from hydra.utils import instantiate

    from mbgan import assembly
    from mbgan.callbacks import find
    from mbgan.callbacks.dashboards import publish
    from mbgan.callbacks.evaluation import Evaluation
    from mbgan.callbacks.guard import Guard
    from mbgan.saved import trusting
    from mbgan.studies.score_sheet import rows, table
    from mbgan.weights import read_checkpoint

    if cfg.resume is not None:
        cfg = assembly.resumed(cfg, list(HydraConfig.get().overrides.task))
    os.environ.update(trusting(cfg))  # in the end the run is read back, with the user's own parts
    if cfg.image_size not in (32, 64, 128, 256):
        raise ValueError(f"image_size must be a power of two from 32 to 256, got {cfg.image_size}")
    parts, run, checkpoint = assembly.assemble(cfg), Run(cfg.run_dir), None
    if cfg.resume is not None:
        checkpoint = run.checkpoint("last")
        read_checkpoint(checkpoint)
        assembly.check_same_data(run, parts.datamodule)
    assembly.record_config(parts, cfg, run)
    try:
        parts.trainer.fit(parts.gan, parts.datamodule, ckpt_path=checkpoint, weights_only=True)
    except torch.OutOfMemoryError:
        raise ValueError(
            f"batch_size must fit into the memory of {parts.trainer.strategy.root_device}, got "
            f"{cfg.batch_size} at image_size={cfg.image_size}; lower either"
        ) from None
    except RuntimeError as error:
        if parts.trainer.world_size > 1 and assembly.lost_a_rank(error):
            raise ValueError(
                f"another of the {parts.trainer.world_size} processes of this run is gone; its own "
                f"last words say why. Go on from the last checkpoint, on any number of devices: "
                f"python -m mbgan.train resume={run.folder.absolute()}"
            ) from None
        raise
    if not parts.trainer.is_global_zero:
        return None
    folder = run.folder.absolute()
    if find(parts.trainer, Guard).interrupted:
        seen = parts.gan.images_seen
        log.warning("stopped at %d images; go on: python -m mbgan.train resume=%s", seen, folder)
        sys.exit(INTERRUPTED)
    if cfg.full_metrics is None or outcome(run).get("pruned"):
        return None
    evaluation = find(parts.trainer, Evaluation)
    suite = instantiate(cfg.full_metrics, extractor=None)
    suite.extractor = evaluation.suite.extractor
    # Other latents than those that picked the best checkpoint.
    result = assembly.score(run, "best", suite, parts.datamodule, seed=evaluation.seed + 1)
    log.info("%s", table(result))
    publish(parts.trainer.loggers, run, result, rows(result))
    log.info("all of it: %s (samples/, scored/, metrics.csv, scores.json, checkpoints/)", folder)
    log.info("images from it: python -m mbgan.generate run=%s n=64", folder)
    return float(result["scores"][evaluation.objective]["value"])


if __name__ == "__main__":
    main()
