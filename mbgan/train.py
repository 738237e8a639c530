"""Fit one GAN: python -m mbgan.train."""

import logging
import os
import sys

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from mbgan.verbs import INTERRUPTED, verb

log = logging.getLogger(__name__)


@verb("train")
def main(cfg: DictConfig) -> float:
    """Train one GAN, score its best checkpoint and return its KID, which a sweep minimizes."""
    from hydra.utils import instantiate  # heavy imports wait until --help had its chance

    from mbgan.assembly import assemble, resumed, save_config_once_training, score
    from mbgan.callbacks import find
    from mbgan.callbacks.evaluation import Evaluation
    from mbgan.callbacks.guard import Guard
    from mbgan.metrics.suite import table
    from mbgan.runs import Run

    resume = cfg.resume
    if resume is not None:
        cfg = resumed(cfg, list(HydraConfig.get().overrides.task))
    if cfg.image_size not in (32, 64, 128, 256):
        raise ValueError(f"image_size must be a power of two from 32 to 256, got {cfg.image_size}")
    if HydraConfig.get().mode == RunMode.MULTIRUN and cfg.trainer.devices != 1:
        # Lightning starts the other ranks with this command line: each would run the whole sweep.
        raise ValueError(
            f"trainer.devices must be 1 in a sweep (-m), got {cfg.trainer.devices}; "
            "start such runs one by one"
        )
    parts, run = assemble(cfg), Run(cfg.run_dir)
    checkpoint = None
    if resume is not None:
        checkpoint = run.checkpoint("last")
        save_config_once_training(parts, cfg, run)
    try:
        parts.trainer.fit(parts.gan, parts.datamodule, ckpt_path=checkpoint, weights_only=True)
    finally:
        if "wandb" in sys.modules:
            sys.modules["wandb"].finish()
    shown = os.path.relpath(run.folder)
    if find(parts.trainer, Guard).interrupted:
        go_on = f"python -m mbgan.train resume={shown}"
        log.warning("interrupted at %d images; go on with: %s", parts.gan.images_seen, go_on)
        sys.exit(INTERRUPTED)
    evaluation = find(parts.trainer, Evaluation)
    if parts.trainer.is_global_zero:
        suite = instantiate(cfg.full_metrics)
        result = score(run, "best", suite, parts.datamodule, evaluation.seed)
        log.info("%s", table(result))
        log.info("all of it: %s (samples/, metrics.csv, scores.json, checkpoints/)", shown)
        log.info("images from it: python -m mbgan.generate run=%s n=64", shown)
    return min(row[evaluation.objective] for row in evaluation.rows)


if __name__ == "__main__":
    main()
