"""Whether the generator has learned the augmentation: asked once, at the end of a run."""

import logging

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_only

from mbgan.augment import Augment
from mbgan.callbacks import find
from mbgan.callbacks.guard import Guard
from mbgan.data.stream import turn
from mbgan.gan import GAN, generate
from mbgan.images import Rows, from_uint8, to_uint8
from mbgan.latents import Draws, fixed_latents
from mbgan.metrics.leaks import LEAST, find_leaks, verdict

log = logging.getLogger(__name__)


class Leaks(Callback):
    """Compares generated with held-out and with augmented training images, and logs the verdict.

    Nothing is said of a run without augmentation, or of too few images.

    Args:
        n: images on each side, at most.
        seed: of the latents and of the augmentation.

    Raises:
        ValueError: if n is too small to tell.
    """

    def __init__(self, n: int, seed: int) -> None:
        if n < 2 * LEAST:
            raise ValueError(f"callbacks.leaks.n must be at least {2 * LEAST}, got {n}")
        self.n, self.seed = n, seed

    @rank_zero_only
    @torch.no_grad()
    def on_train_end(self, trainer: L.Trainer, gan: GAN) -> None:
        """Say which traces of augmentation the averaged generator's images bear."""
        data = trainer.datamodule
        train, held_out = self.pick(data.train, data.d4), self.pick(data.held_out, data.d4)
        few = len(held_out) < 2 * LEAST or len(train) < LEAST
        if type(gan.augment) is Augment or few or find(trainer, Guard).interrupted:
            return
        z = fixed_latents(range(self.n), gan.generator.z_dim, self.seed)
        # In the shares that the images have: classes differ in color too.
        condition = torch.from_numpy(np.resize(data.held_out.conditions, self.n))
        x_fake = generate(gan.generator_ema, z, condition).cpu()
        x_real, draws = from_uint8(train.to(gan.device)), Draws(self.seed, 0)
        augmented = to_uint8(gan.augment(x_real, draws, "leaks")).cpu()
        traces = find_leaks(held_out, augmented, x_fake)
        leaks = any(trace.leaks for trace in traces)
        log.log(logging.WARNING if leaks else logging.INFO, "%s", verdict(traces))
        for logger in trainer.loggers:
            found = {f"leak/{trace.name}": float(trace.leaks) for trace in traces}
            logger.log_metrics(found, step=gan.images_seen)

    def pick(self, images: Rows, d4: bool) -> torch.Tensor:
        """Return up to n images [n, 3, S, S], uint8, spread over all, turned if d4."""
        rows = np.linspace(0, len(images) - 1, min(self.n, len(images))).astype(int)
        x = torch.from_numpy(images[rows])
        pose = (Draws(self.seed, 0).uniform("pose", len(x)) * 8).long()
        return turn(x, pose) if d4 else x
