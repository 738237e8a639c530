"""How fast a training goes, from a few of its steps."""

import time
from typing import Any

import lightning as L
import torch

from mbgan.gan import GAN


class StepTimer(L.Callback):
    """Stops a training as soon as its speed is known: after whole turns of critic and generator.

    The first turn is left out: memory is laid out and kernels are chosen then.

    Args:
        seconds: to measure for, at least one turn.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.start: tuple[float, int, int] | None = None
        self.images_per_s, self.steps = 0.0, 0

    def on_train_batch_end(self, trainer: L.Trainer, gan: GAN, *rest: Any) -> None:
        """Look at the clock when the generator had its turn."""
        if gan.critic_steps % gan.n_critic:
            return
        if gan.device.type == "cuda":
            torch.cuda.synchronize()
        now = (time.perf_counter(), gan.images_seen, gan.critic_steps)
        if self.start is None:
            self.start = now
            return
        elapsed, images, steps = (b - a for a, b in zip(self.start, now, strict=True))
        self.images_per_s, self.steps = images / elapsed, int(steps)
        trainer.should_stop = elapsed >= self.seconds
