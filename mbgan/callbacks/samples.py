"""Pictures of the run: the same latents through training, as one PNG an evaluation."""

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_only

from mbgan.augment import Augment
from mbgan.augment import preview as augmented
from mbgan.callbacks import Periodic
from mbgan.callbacks.dashboards import show
from mbgan.data.stream import preview
from mbgan.gan import GAN, generate
from mbgan.images import grid, save_png
from mbgan.latents import fixed_latents
from mbgan.runs import Run


class Samples(Periodic):
    """Draws `generator_ema` at fixed latents at the start, every so many images and at the end.

    Args:
        run_dir: the run folder; samples/ gets a grid by images seen, training images in real.png,
            the same as the data module hands them out in transformed.png, and as the augmentation
            in the loop shows them to the critic in augmented.png.
        every: images seen between two grids.
        n: images of a grid.
        seed: of the latents.

    Raises:
        ValueError: if n is under 1.
    """

    def __init__(self, run_dir: str, every: int, n: int, seed: int) -> None:
        super().__init__(every)
        if n < 1:
            raise ValueError(f"callbacks.samples.n must be at least 1, got {n}")
        self.run, self.n, self.seed = Run(run_dir), n, seed

    @rank_zero_only
    def on_train_start(self, trainer: L.Trainer, gan: GAN) -> None:
        """Draw the start, and training images beside it, also as the critic sees them."""
        self.z = fixed_latents(range(self.n), gan.generator.z_dim, self.seed)
        self.conditions = torch.arange(self.n) % max(
            1, len(gan.generator.conditions)
        )  # side by side
        train = trainer.datamodule.train  # sorted by name: spread over classes and patients
        spread = np.linspace(0, len(train) - 1, min(self.n, len(train))).astype(int)
        save_png(grid(torch.from_numpy(train[spread])), self.run.samples / "real.png")
        seen = preview(trainer.datamodule.stream(), n=min(self.n, 8))
        columns = min(self.n, 8, len(train))
        save_png(grid(seen, columns), self.run.samples / "transformed.png")
        self.shown = torch.from_numpy(train[spread[:columns]])
        if gan.images_seen == 0:
            self.act(trainer, gan)

    @rank_zero_only
    def act(self, trainer: L.Trainer, gan: GAN) -> None:
        """Draw a grid, and hand it to the loggers that take pictures."""
        if type(gan.augment) is not Augment:
            sheet = augmented(gan.augment, self.shown.to(gan.device), rows=4)
            save_png(sheet, self.run.samples / "augmented.png")  # an adaptive one grows
        sheet = grid(generate(gan.generator_ema, self.z, self.conditions))
        save_png(sheet, self.run.samples / f"{gan.images_seen:09d}.png")
        show(trainer.loggers, "samples", sheet, gan.images_seen)
