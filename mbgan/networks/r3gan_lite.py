"""R3GAN for small images and small machines (Huang et al. 2024, sec. 4): no norm, no tricks.

Residual blocks of 1 x 1, grouped 3 x 3 and 1 x 1 convolutions with biases, LeakyReLU and fix-up
initialization, for the relativistic loss with R1 and R2. What is lighter here than in the paper:

- one block per resolution, not two;
- none at full resolution: a strided 4 x 4 convolution stands there;
- averages of 2 x 2 pixels and bilinear interpolation, not filters of their own;
- tanh at the end of the generator: images are in [-1, 1] by contract.
"""

import math
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mbgan.latents import Draws
from mbgan.networks import Critic, Generator, check_image_size
from mbgan.networks.blocks import check_width

SLOPE = 0.2  # of LeakyReLU
GAIN = math.sqrt(2 / (1 + SLOPE**2))  # keeps the variance through it (He et al. 2015)

Layer = TypeVar("Layer", nn.Linear, nn.Conv2d, nn.ConvTranspose2d)


def initialize(layer: Layer, gain: float = 1.0) -> Layer:
    """Draw a layer's weights from N(0, gain^2 / fan_in) and set its bias to 0; return it."""
    fan_in = layer.weight[0].numel()
    if isinstance(layer, nn.ConvTranspose2d):  # each output gathers 1 / stride^2 of the taps
        fan_in = layer.weight[:, 0].numel() // math.prod(layer.stride)
    nn.init.normal_(layer.weight, std=gain / math.sqrt(fan_in))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def widths(image_size: int, width: int) -> list[int]:
    """Return the channels of each grid from image_size / 2 down to 4 x 4: doubled up to 8 width.

    Raises:
        ValueError: if image_size or width is out of range.
    """
    check_image_size(image_size)
    check_width(width)
    return [width * min(2**i, 8) for i in range(image_size.bit_length() - 3)]


def project(c_in: int, c_out: int) -> nn.Module:
    """Return a linear map of channels, the identity where their number stays."""
    if c_in == c_out:
        return nn.Identity()
    return initialize(nn.Conv2d(c_in, c_out, 1, bias=False))


class Block(nn.Module):
    """x + f(x): 1 x 1 to twice the channels, grouped 3 x 3, 1 x 1 back (sec. 4).

    Fix-up (Zhang et al. 2019, sec. 3): the last convolution begins at 0, so that the block begins
    as the identity; the others are scaled by blocks^(-1 / (2 m - 2)) for the m = 3 in a block.

    Args:
        channels: of x.
        group: channels of a group of the 3 x 3 convolution.
        blocks: residual blocks in the whole network.

    Raises:
        ValueError: if group is under 1 or does not divide the channels.
    """

    def __init__(self, channels: int, group: int, blocks: int) -> None:
        super().__init__()
        inner = 2 * channels
        if group < 1:
            raise ValueError(f"group must be at least 1, got {group}")
        if inner % min(group, inner):
            raise ValueError(
                f"group must divide twice the channels of every block, got {group} for {channels} "
                "channels; choose a power of two, and width as well"
            )
        self.first = nn.Conv2d(channels, inner, 1)
        self.middle = nn.Conv2d(inner, inner, 3, padding=1, groups=inner // min(group, inner))
        self.last = nn.Conv2d(inner, channels, 1, bias=False)
        for conv in (self.first, self.middle):
            initialize(conv, GAIN * blocks**-0.25)
        nn.init.zeros_(self.last.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Return features [N, C, H, W] for features of the same shape."""
        y = F.leaky_relu(self.first(x), SLOPE)
        return x + self.last(F.leaky_relu(self.middle(y), SLOPE))


class R3GANGenerator(Generator):
    """A learned 4 x 4 grid weighted by z, residual blocks and bilinear steps to image_size / 2.

    Args:
        z_dim: length of the latent; 64 in the paper.
        image_size: side of the images in pixels, a power of two from 16 to 256.
        width: channels at image_size / 2, the finest grid with a block.
        group: channels of a group of the 3 x 3 convolutions, all where there are fewer.

    Raises:
        ValueError: if z_dim, image_size, width or group is out of range.
    """

    def __init__(
        self, z_dim: int = 64, image_size: int = 64, width: int = 32, group: int = 16
    ) -> None:
        super().__init__(z_dim, image_size)
        channels = widths(image_size, width)[::-1]  # coarse to fine
        self.grid = nn.Parameter(torch.randn(channels[0], 4, 4))
        self.weights = initialize(nn.Linear(z_dim, channels[0], bias=False))
        layers: list[nn.Module] = [Block(channels[0], group, len(channels))]
        for c_in, c_out in pairwise(channels):
            layers += [
                project(c_in, c_out),
                nn.Upsample(scale_factor=2, mode="bilinear"),
                Block(c_out, group, len(channels)),
            ]
        self.layers = nn.Sequential(*layers)
        self.to_rgb = initialize(nn.ConvTranspose2d(channels[-1], 3, 4, 2, 1))

    def forward(self, z: Tensor, draws: Draws | None = None) -> Tensor:
        """Return images [N, 3, H, W] in [-1, 1] for latents z [N, z_dim]."""
        x = self.grid * self.weights(z)[:, :, None, None]  # [N, C, 4, 4]
        return torch.tanh(self.to_rgb(self.layers(x)))


class R3GANCritic(Critic):
    """The generator turned around: a strided convolution, blocks, means; then all of a 4 x 4 grid.

    Args:
        image_size: side of the images in pixels, a power of two from 16 to 256.
        width: channels at image_size / 2, the finest grid with a block.
        group: channels of a group of the 3 x 3 convolutions, all where there are fewer.

    Raises:
        ValueError: if image_size, width or group is out of range.
    """

    def __init__(self, image_size: int = 64, width: int = 32, group: int = 16) -> None:
        channels = widths(image_size, width)
        super().__init__(image_size, channels[-1])
        initialize(self.score)
        layers: list[nn.Module] = [initialize(nn.Conv2d(3, width, 4, 2, 1))]
        for c_in, c_out in pairwise(channels):
            layers += [
                Block(c_in, group, len(channels)),
                nn.AvgPool2d(2),
                project(c_in, c_out),
            ]
        last = channels[-1]
        whole = initialize(nn.Conv2d(last, last, 4, groups=last, bias=False))  # of each channel
        self.layers = nn.Sequential(*layers, Block(last, group, len(channels)), whole)

    def features(self, x: Tensor) -> Tensor:
        """Return features [N, F] of images x [N, 3, H, W] in [-1, 1]."""
        return self.layers(x).flatten(1)
