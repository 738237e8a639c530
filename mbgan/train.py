"""Fit one GAN: python -m mbgan.train."""

import logging
import os
import sys
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from mbgan.failures import lost_a_rank, writing_to
from mbgan.runs import Run
from mbgan.sweeps import outcome, train_job
from mbgan.verbs import INTERRUPTED, discard_new_folder, verb

log = logging.getLogger(__name__)


@verb("train")
def main(cfg: DictConfig) -> float | None:
    """Train one GAN, score its best checkpoint and return its KID, which a sweep minimizes."""
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        return train_job(cfg, Run(cfg.run_dir))
    if cfg.forecast:
        forecast(cfg)
        return None
    with Run(cfg.run_dir).alone():
        return train(cfg)


def train(cfg: DictConfig) -> float | None:
    """Train and score in this process; see `main`."""
    from mbgan.callbacks.wandb import finished  # heavy imports wait until --help had its chance

    with finished(), writing_to(Path(cfg.run_dir)):
        return fit_and_score(cfg)


def forecast(cfg: DictConfig) -> None:
    """Time a few steps, say what the rest of the run costs, and leave no folder.

    Raises:
        ValueError: if nothing is left to train.
    """
    from mbgan import assembly
    from mbgan.studies.cost import table
    from mbgan.weights import read_run

    hardware, seen = cfg.hardware, 0
    if cfg.resume is not None:
        old = Run(Path(cfg.resume).expanduser())
        cfg = assembly.resumed(cfg, list(HydraConfig.get().overrides.task))
        seen = 0 if old.unbegun else read_run(old, "last")[1]["images_seen"]
    if cfg.total_images <= seen:
        raise ValueError(
            f"total_images must be more than the {seen} that the run has seen, got "
            f"{cfg.total_images}; say how far it is to go on: total_images=NUMBER"
        )
    devices = assembly.check_devices(cfg.trainer)
    speed = assembly.time_training(cfg)
    left = cfg.total_images - seen
    log.info("%s", table(speed, devices, left, cfg.total_images, hardware))
    discard_new_folder()


def fit_and_score(cfg: DictConfig) -> float | None:
    """Train, score the best checkpoint, and return its KID; None without, or on other ranks.

    With full_metrics=null a run ends unscored: a study's generators are many, and judged by what
    their images do.
    """
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
        checkpoint = run.whole("last")
        read_checkpoint(checkpoint)
        assembly.check_same_data(run, parts.datamodule)
    assembly.record_config(parts, cfg, run)
    guard = find(parts.trainer, Guard)
    if parts.trainer.world_size > 1:
        guard.hold()
    try:
        parts.trainer.fit(parts.gan, parts.datamodule, ckpt_path=checkpoint, weights_only=True)
    except RuntimeError as error:
        if parts.trainer.world_size > 1 and lost_a_rank(error):
            silent = ", ".join(map(str, guard.silent))
            raise ValueError(
                f"another of the {parts.trainer.world_size} processes of this run is gone, or did "
                f"not answer for rank_timeout_s={cfg.rank_timeout_s} s (rank {silent or 'unknown'})"
                "; its own last words say why. Go on from the last checkpoint, on any number of "
                f"devices: python -m mbgan.train resume={run.folder.absolute()}"
            ) from None
        raise
    if not parts.trainer.is_global_zero:
        return None
    folder = run.folder.absolute()
    if guard.interrupted or guard.signaled:  # the latter after the last batch
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
