"""Generator and critic of the reference paper (secs. III.C and III.D).

The paper fixes the kernel (4 x 4, stride 2), the critic's filters (64, 128, 256, 512), the latent
(128), the first grid (16 x 16 x 512 for 256 x 256 pixels) and the normalization. Where it is
silent we mirror: the generator's filters run 256, 128, 64, 3; every layer has a bias (Keras'
default); "same" padding; batch norm after each transposed convolution but the last. Other image
sizes scale the first grid (image_size / 16), not the recipe.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

from mbgan.latents import Draws
from mbgan.networks import Critic, Generator
from mbgan.networks.blocks import Dropout

SLOPE = 0.2  # of LeakyReLU (sec. III.C)


class WGANGenerator(Generator):
    """Dense layer, then four transposed convolutions to image_size (sec. III.D).

    Args:
        z_dim: length of the latent; 128 in the paper.
        image_size: side of the images in pixels, a power of two from 16 to 256.
        width: filters of the last hidden layer; 64 mirrors the paper's critic.

    Raises:
        ValueError: if z_dim, image_size or width is out of range.
    """

    def __init__(self, z_dim: int = 128, image_size: int = 256, width: int = 64) -> None:
        super().__init__(z_dim, image_size)
        if width < 1:
            raise ValueError(f"width must be at least 1, got {width}")
        self.first_grid = image_size // 16
        filters = [8 * width, 4 * width, 2 * width, width]
        self.dense = nn.Linear(z_dim, filters[0] * self.first_grid**2)
        layers: list[nn.Module] = []
        for c_in, c_out in pairwise(filters):
            layers += [
                nn.ConvTranspose2d(c_in, c_out, kernel_size=4, stride=2, padding=1),
                nn.BatchNorm2d(c_out, momentum=0.2),  # Keras' 0.8 is the share that is kept
                nn.LeakyReLU(SLOPE),
            ]
        last = nn.ConvTranspose2d(filters[-1], 3, kernel_size=4, stride=2, padding=1)
        self.layers = nn.Sequential(nn.LeakyReLU(SLOPE), *layers, last)

    def forward(self, z: Tensor, draws: Draws | None = None) -> Tensor:
        """Return images [N, 3, H, W] in [-1, 1] for latents z [N, z_dim]."""
        x = self.dense(z).unflatten(1, (-1, self.first_grid, self.first_grid))  # [N, 8w, g, g]
        return torch.tanh(self.layers(x))


class WGANCritic(Critic):
    """Four strided convolutions with dropout and one linear score (sec. III.C); no norm.

    Args:
        image_size: side of the images in pixels, a power of two from 16 to 256.
        width: filters of the first layer; 64 in the paper.
        dropout: share of activations set to zero; 0.3 in the paper, which does not say after
            which layers: here after each.

    Raises:
        ValueError: if image_size, width or dropout is out of range.
    """

    def __init__(self, image_size: int = 256, width: int = 64, dropout: float = 0.3) -> None:
        if width < 1:
            raise ValueError(f"width must be at least 1, got {width}")
        super().__init__(image_size, 8 * width * (image_size // 16) ** 2)
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {dropout}")
        filters = [3, width, 2 * width, 4 * width, 8 * width]
        layers: list[nn.Module] = []
        for c_in, c_out in pairwise(filters):
            layers += [
                nn.Conv2d(c_in, c_out, kernel_size=4, stride=2, padding=1),
                nn.LeakyReLU(SLOPE),
            ]
            if dropout:
                layers.append(Dropout(dropout))
        self.layers = nn.Sequential(*layers)

    def features(self, x: Tensor) -> Tensor:
        """Return the last feature maps [N, F], flat, of images x [N, 3, H, W] in [-1, 1]."""
        return self.layers(x).flatten(1)
