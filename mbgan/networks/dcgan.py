"""DCGAN (Radford et al. 2016, sec. 3): strided convolutions and batch norm in both networks.

Theirs is for 64 x 64 pixels with filters 1024, 512, 256, 128; other sizes have more or fewer
halvings between 4 x 4 and image_size, with at most eight times `width` filters. Kernels are 4 x 4
as in their Torch code, so that no padding is lopsided (their Fig. 1 shows 5 x 5).
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

from mbgan.latents import Draws
from mbgan.networks import Critic, Generator
from mbgan.networks.blocks import check_width

SLOPE = 0.2  # of LeakyReLU (sec. 4)
STD = 0.02  # of the first weights (sec. 4)


def filters(image_size: int, width: int) -> list[int]:
    """Return the filters of the hidden layers, from image_size / 2 pixels down to 4.

    Raises:
        ValueError: if width is below 1.
    """
    check_width(width)
    halvings = image_size.bit_length() - 3  # 64 pixels are halved 4 times to 4
    return [width * min(8, 2**i) for i in range(halvings)]


def initialize(network: nn.Module) -> None:
    """Draw all weights but batch norm's from N(0, STD^2), with zero biases."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.normal_(layer.weight, std=STD)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


class DCGANGenerator(Generator):
    """Dense layer to 4 x 4, then transposed convolutions to image_size, with batch norm and ReLU.

    Args:
        z_dim: length of the latent; 100 in the paper.
        image_size: side of the images in pixels, a power of two from 16 to 256.
        width: filters of the last hidden layer; 128 in the paper.

    Raises:
        ValueError: if z_dim, image_size or width is out of range.
    """

    def __init__(self, z_dim: int = 100, image_size: int = 64, width: int = 128) -> None:
        super().__init__(z_dim, image_size)
        channels = filters(image_size, width)[::-1]
        self.dense = nn.Linear(z_dim, channels[0] * 4 * 4, bias=False)
        layers: list[nn.Module] = [nn.BatchNorm2d(channels[0]), nn.ReLU()]
        for c_in, c_out in pairwise(channels):
            layers += [
                nn.ConvTranspose2d(c_in, c_out, 4, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(c_out),
                nn.ReLU(),
            ]
        self.layers = nn.Sequential(*layers, nn.ConvTranspose2d(channels[-1], 3, 4, 2, 1))
        initialize(self)

    def forward(self, z: Tensor, draws: Draws | None = None) -> Tensor:
        """Return images [N, 3, H, W] in [-1, 1] for latents z [N, z_dim]."""
        return torch.tanh(self.layers(self.dense(z).unflatten(1, (-1, 4, 4))))


class DCGANCritic(Critic):
    """Strided convolutions to 4 x 4 with LeakyReLU, batch norm after all but the first.

    Args:
        image_size: side of the images in pixels, a power of two from 16 to 256.
        width: filters of the first layer; 128 mirrors the paper's generator.
        batch_norm: without it a penalty may differentiate a score by its own image.

    Raises:
        ValueError: if image_size or width is out of range.
    """

    def __init__(self, image_size: int = 64, width: int = 128, batch_norm: bool = True) -> None:
        channels = filters(image_size, width)
        super().__init__(image_size, channels[-1] * 4 * 4)
        layers: list[nn.Module] = [nn.Conv2d(3, channels[0], 4, 2, 1), nn.LeakyReLU(SLOPE)]
        for c_in, c_out in pairwise(channels):
            layers.append(nn.Conv2d(c_in, c_out, 4, stride=2, padding=1, bias=not batch_norm))
            if batch_norm:
                layers.append(nn.BatchNorm2d(c_out))
            layers.append(nn.LeakyReLU(SLOPE))
        self.layers = nn.Sequential(*layers)
        initialize(self)

    def features(self, x: Tensor) -> Tensor:
        """Return the last feature maps [N, F], flat, of images x [N, 3, H, W] in [-1, 1]."""
        return self.layers(x).flatten(1)
