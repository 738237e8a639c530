"""A worker that trains by a LightningModule as tutorials of two optimizers write it.

python -m benchmarks.peers.lightning_worker IMAGES IMAGE_SIZE BATCH_SIZE FOLDER
"""

import sys
from typing import Any

import lightning as L
import torch
from torch import Tensor

from benchmarks import plain
from benchmarks.peers.data import loader
from benchmarks.workers import Gate


class WGANGP(L.LightningModule):
    """The plain loop's networks and mathematics."""

    def __init__(self, image_size: int, gate: Gate) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator, self.critic = plain.generator(image_size), plain.critic(image_size)
        self.gate, self.images = gate, 0

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        """Take a critic step, and every fifth time a generator step."""
        real, _ = batch
        opt_g, opt_d = self.optimizers()
        z = torch.randn(len(real), plain.Z_DIM, device=self.device)

        self.toggle_optimizer(opt_d)
        fake = self.generator(z).detach()
        penalty = plain.gradient_penalty(self.critic, real, fake)
        d_loss = self.critic(fake).mean() - self.critic(real).mean() + plain.GP_WEIGHT * penalty
        opt_d.zero_grad()
        self.manual_backward(d_loss)
        opt_d.step()
        self.untoggle_optimizer(opt_d)
        self.log("d_loss", d_loss, prog_bar=True)

        if (batch_idx + 1) % plain.N_CRITIC == 0:
            self.toggle_optimizer(opt_g)
            g_loss = -self.critic(self.generator(z)).mean()
            opt_g.zero_grad()
            self.manual_backward(g_loss)
            opt_g.step()
            self.untoggle_optimizer(opt_g)
            self.log("g_loss", g_loss, prog_bar=True)
        self.images += len(real)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Return Adam for each player."""
        networks = (self.generator, self.critic)
        return [torch.optim.Adam(n.parameters(), lr=2e-4, betas=(0.5, 0.9)) for n in networks]

    def on_train_start(self) -> None:
        """Wait for the first turn."""
        self.gate.wait(0)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Wait after every turn."""
        if (batch_idx + 1) % plain.N_CRITIC == 0:
            self.gate.wait(self.images)
            self.images = 0


def main(images: str, image_size: int, batch_size: int, folder: str) -> None:
    """Train."""
    trainer = L.Trainer(accelerator="cpu", max_epochs=-1, default_root_dir=folder)
    trainer.fit(WGANGP(image_size, Gate()), loader(images, image_size, batch_size))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
