"""Trainings of mbgan itself, through its own config, assembly and trainer.

python -m benchmarks.ours RUN_DIR steps|run TURNS OVERRIDE ...: a worker that takes so many turns of
critic and generator at a time; "run" has the callbacks and loggers of mbgan.train, "steps" none.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import lightning as L
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from benchmarks.workers import Gate
from mbgan.assembly import Parts, assemble
from mbgan.gan import GAN
from mbgan.verbs import conf_dir, keep_freed_memory, register_resolvers

ENDLESS = ["total_images=1_000_000_000", "eval_every=1_000_000_000"]


class Turns(L.Callback):
    """Calls a function before the first turn of critic and generator, and after every so many.

    Args:
        wait: is told the images that the critic saw since.
        turns: between two calls.
    """

    def __init__(self, wait: Callable[[int], None], turns: int) -> None:
        self.wait, self.turns, self.images = wait, turns, 0

    def on_train_start(self, trainer: L.Trainer, gan: L.LightningModule) -> None:
        """Wait for the first turn."""
        if trainer.is_global_zero:
            self.wait(0)

    def on_train_batch_end(self, trainer: L.Trainer, gan: L.LightningModule, *rest: object) -> None:
        """Count turns; the other ranks stand still when the first one does."""
        assert isinstance(gan, GAN)
        steps, seen = gan.critic_steps, gan.images_seen
        if steps % (gan.n_critic * self.turns) == 0 and trainer.is_global_zero:
            seen, self.images = seen - self.images, seen
            self.wait(seen)


def config(run_dir: Path, callbacks: bool, *overrides: str) -> DictConfig:
    """Return the config of mbgan.train with overrides, for a run that does not end by itself."""
    register_resolvers()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose("train", [f"run_dir={run_dir}", *ENDLESS, *overrides])
    if not callbacks:
        cfg.callbacks, cfg.logger = {}, {}
    return cfg


def fit(cfg: DictConfig, *callbacks: L.Callback) -> Parts:
    """Train until a callback ends it, as mbgan.train would; return the parts."""
    keep_freed_memory()  # as each verb does
    parts = assemble(cfg)
    parts.trainer.callbacks.extend(callbacks)
    parts.trainer.fit(parts.gan, parts.datamodule)
    return parts


def main() -> None:
    """Be a worker."""
    run_dir, kind, turns, *overrides = sys.argv[1:]
    gate = Gate()
    fit(config(Path(run_dir), kind == "run", *overrides), Turns(gate.wait, int(turns)))


if __name__ == "__main__":
    main()
