"""A worker that trains by torchgan's own Trainer and losses, as its documentation shows.

python -m benchmarks.peers.torchgan_worker IMAGES IMAGE_SIZE BATCH_SIZE FOLDER

torchgan steps on the Wasserstein loss and on the penalty one after the other, and counts both:
ncritic=10 is five batches a generator step. Its penalty takes the norm over the whole batch, where
the paper's is of each image; the work is the same.
"""

import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import torch
from torch import Tensor
from torchgan.losses import (
    WassersteinDiscriminatorLoss,
    WassersteinGeneratorLoss,
    WassersteinGradientPenalty,
)
from torchgan.models import Discriminator, Generator
from torchgan.trainer import Trainer

from benchmarks import plain
from benchmarks.peers.data import loader
from benchmarks.workers import Gate


class PaperGenerator(Generator):
    """The plain loop's generator."""

    def __init__(self, image_size: int) -> None:
        super().__init__(plain.Z_DIM)
        self.network = plain.generator(image_size)

    def forward(self, z: Tensor) -> Tensor:
        """Return images [N, 3, H, W]."""
        x: Tensor = self.network(z)
        return x


class PaperCritic(Discriminator):
    """The plain loop's critic."""

    def __init__(self, image_size: int) -> None:
        super().__init__(3)
        self.network = plain.critic(image_size)

    def forward(self, x: Tensor) -> Tensor:
        """Return scores [N, 1]."""
        scores: Tensor = self.network(x)
        return scores


class Gated:
    """A loader that waits before each turn of five batches and one generator step."""

    def __init__(self, images: str, image_size: int, batch_size: int, gate: Gate) -> None:
        self.batches = loader(images, image_size, batch_size)
        self.batch_size, self.gate = batch_size, gate

    def __iter__(self) -> Iterator[list[Tensor]]:
        """Yield batches for ever."""
        done = 0
        for _ in count():
            for batch in self.batches:
                if done % plain.N_CRITIC == 0:
                    self.gate.wait(plain.N_CRITIC * self.batch_size if done else 0)
                done += 1
                yield batch


def main(images: str, image_size: int, batch_size: int, folder: Path) -> None:
    """Train."""
    adam = {"name": torch.optim.Adam, "args": {"lr": 2e-4, "betas": (0.5, 0.9)}}
    sizes = {"image_size": image_size}
    trainer = Trainer(
        {
            "generator": {"name": PaperGenerator, "args": sizes, "optimizer": adam},
            "discriminator": {"name": PaperCritic, "args": sizes, "optimizer": adam},
        },
        [
            WassersteinGeneratorLoss(),
            WassersteinDiscriminatorLoss(),
            WassersteinGradientPenalty(lambd=plain.GP_WEIGHT),
        ],
        device=torch.device("cpu"),
        ncritic=2 * plain.N_CRITIC,
        epochs=1,
        checkpoints=str(folder / "model" / "gan"),
        recon=str(folder / "images"),
    )
    trainer(Gated(images, image_size, batch_size, Gate()))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
