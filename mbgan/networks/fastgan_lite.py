"""FastGAN at small sizes (Liu et al. 2021): skip-layer excitation, and a critic that reconstructs.

Lighter than the paper's. The generator has no noise inputs, and no spectral norm: batch norm
follows each convolution and takes any scale away. The critic has no excitation and no second
track of small images; its reconstructions are compared by absolute difference, as the paper's
perceptual distance needs another network's weights.
"""

from itertools import pairwise
from math import log2

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from mbgan.latents import Draws
from mbgan.networks import Critic, Generator, check_image_size, stacked
from mbgan.networks.blocks import check_width, normed

# Channels at each side, in units of the paper's ngf (its code; 256: 0.5 and so on).
CHANNELS = {4: 16, 8: 8, 16: 4, 32: 2, 64: 2, 128: 1, 256: 0.5}


class SkipExcitation(nn.Module):
    """Weighs the channels of a fine map by what a coarse one says (Liu et al. 2021, eq. 1)."""

    def __init__(self, coarse: int, fine: int) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(4),
            nn.Conv2d(coarse, fine, 4),
            nn.SiLU(),
            nn.Conv2d(fine, fine, 1),
            nn.Sigmoid(),
        )

    def forward(self, x_coarse: Tensor, x_fine: Tensor) -> Tensor:
        """Return maps [N, fine, H, W] times gates [N, fine, 1, 1] of maps [N, coarse, h, w]."""
        return x_fine * self.gate(x_coarse)


class Gate(nn.Module):
    """Gated linear unit: half of the channels weigh the others (Dauphin et al. 2017, eq. 1).

    The gradient of nn.GLU is slow on images with channels last.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return maps [N, C, H, W] of maps x [N, 2 C, H, W]."""
        value, gate = x.chunk(2, dim=1)
        return value * gate.sigmoid()


class RepeatConv(nn.Module):
    """Repeats every pixel, 2 x 2, and convolves 3 x 3: a transposed convolution, at half the cost.

    The two linear maps in a row are one, whose 4 x 4 kernel is the 3 x 3 one spread by the
    repetition. One whose sixteen weights learn freely draws checkerboards instead of tissue.
    """

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        bound = (9 * c_in) ** -0.5  # PyTorch's for a 3 x 3 convolution
        self.weight = nn.Parameter(torch.empty(c_in, c_out, 3, 3).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        """Return maps [N, c_out, 2 H, 2 W] of maps x [N, c_in, H, W]."""
        kernel = 4 * F.avg_pool2d(self.weight, 2, stride=1, padding=1)  # [c_in, c_out, 4, 4]
        return F.conv_transpose2d(x, kernel, stride=2, padding=1)


def gated(conv: nn.Module, channels: int) -> nn.Sequential:
    """Return a convolution to 2 channels for each, batch norm, and the gate that halves them."""
    return nn.Sequential(conv, nn.BatchNorm2d(2 * channels), Gate())


class FastGANGenerator(Generator):
    """Doubles a 4 x 4 map up to image_size, coarse maps exciting fine ones (Liu et al. 2021).

    Maps of side s excite those of side 16 s, as in the paper; below 64 pixels, where there is no
    such pair, the first map excites the last.

    Args:
        z_dim: length of the latent; 256 in the paper.
        image_size: side of the images in pixels, a power of two from 16 to 256.
        width: channels at image_size.

    Raises:
        ValueError: if z_dim, image_size or width is out of range.
    """

    def __init__(self, z_dim: int = 256, image_size: int = 64, width: int = 32) -> None:
        super().__init__(z_dim, image_size)
        check_width(width)
        sides = [side for side in CHANNELS if side <= image_size]
        channels = [int(width * CHANNELS[side] / CHANNELS[image_size]) for side in sides]
        first = nn.ConvTranspose2d(z_dim, 2 * channels[0], 4, bias=False)
        self.first = gated(first, channels[0])
        self.blocks = nn.ModuleList(
            gated(RepeatConv(c_in, 2 * c_out), c_out) for c_in, c_out in pairwise(channels)
        )
        reach = int(log2(min(16, image_size // 4)))  # doublings between the two ends of a skip
        self.skips = nn.ModuleList(
            SkipExcitation(coarse, fine)
            for coarse, fine in zip(channels, channels[reach:], strict=False)
        )
        self.last = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, z: Tensor, draws: Draws | None = None) -> Tensor:
        """Return images [N, 3, H, W] in [-1, 1] for latents z [N, z_dim]."""
        maps = [self.first(z[:, :, None, None])]  # [N, C, 4, 4]
        unexcited = len(self.blocks) - len(self.skips)
        for i, block in enumerate(self.blocks):
            x = block(maps[-1])
            if i >= unexcited:
                x = self.skips[i - unexcited](maps[i - unexcited], x)
            maps.append(x)
        return torch.tanh(self.last(maps[-1]))


class Halving(nn.Module):
    """Halves maps along two paths and averages them (Liu et al. 2021, fig. 4)."""

    def __init__(self, c_in: int, c_out: int, batch_norm: bool) -> None:
        super().__init__()
        self.deep = nn.Sequential(
            normed(c_in, c_out, 4, stride=2, pad=1, batch_norm=batch_norm),
            normed(c_out, c_out, 3, pad=1, batch_norm=batch_norm),
        )
        self.shallow = nn.Sequential(nn.AvgPool2d(2), normed(c_in, c_out, 1, batch_norm=batch_norm))

    def forward(self, x: Tensor) -> Tensor:
        """Return maps [N, c_out, H / 2, W / 2] of maps [N, c_in, H, W]."""
        return (self.deep(x) + self.shallow(x)) / 2


def decoder(c_in: int, doublings: int) -> nn.Sequential:
    """Return layers from maps [N, c_in, s, s] to images [N, 3, s 2^doublings, ...] in [-1, 1]."""
    layers: list[nn.Module] = []
    for _ in range(doublings):
        layers += [RepeatConv(c_in, c_in // 2), nn.LeakyReLU(0.2)]
        c_in //= 2
    return nn.Sequential(*layers, nn.Conv2d(c_in, 3, 3, padding=1), nn.Tanh())


def quadrants(x: Tensor) -> Tensor:
    """Return the four quarters [N, 4, C, H / 2, W / 2] of maps [N, C, H, W], row by row."""
    split = x.unflatten(3, (2, -1)).unflatten(2, (2, -1))  # [N, C, 2, H / 2, 2, W / 2]
    return split.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)


class FastGANCritic(Critic):
    """Scores the places of an image, and learns to redraw real ones (Liu et al. 2021, sec. 3.2).

    The maps that the scores are made of must also hold enough of a real image to draw it small,
    and those before enough to draw any quarter of it: what keeps a critic of few images from
    learning them by a detail.

    Args:
        image_size: side of the images in pixels, a power of two from 16 to 256.
        width: channels of the first layer, at image_size / 2; each halving doubles them.
        reconstruction_weight: of each of the two reconstructions; 1 in the paper.
        batch_norm: after each convolution but the first, as in the paper; it mixes the images of
            a batch, so penalties on each image's slope need it off.

    Raises:
        ValueError: if image_size, width or reconstruction_weight is out of range.
    """

    def __init__(
        self,
        image_size: int = 64,
        width: int = 32,
        reconstruction_weight: float = 1.0,
        batch_norm: bool = True,
    ) -> None:
        check_width(width)
        if not reconstruction_weight >= 0:
            raise ValueError(
                f"reconstruction_weight must be at least 0, got {reconstruction_weight}"
            )
        check_image_size(image_size)
        deep = min(8, image_size // 4)  # side of the deepest maps
        halvings = int(log2(image_size // deep))
        channels = [width * 2**i for i in range(halvings)]
        super().__init__(image_size, channels[-1])
        spectral_norm(self.score)
        self.first = normed(3, width, 4, stride=2, pad=1)
        *middle, last = (Halving(*pair, batch_norm) for pair in pairwise(channels))
        self.middle, self.deep = nn.Sequential(*middle), last
        self.places = nn.Sequential(
            normed(channels[-1], channels[-1], 1, batch_norm=batch_norm),
            normed(channels[-1], channels[-1], 4),
        )
        self.reconstruction_weight = reconstruction_weight
        self.side = min(32, image_size // 2)  # of the drawings, in pixels
        doublings = int(log2(self.side // deep))
        self.draw_whole = decoder(channels[-1], doublings)
        self.draw_quarter = decoder(channels[-2], doublings)

    def maps(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return middle maps [N, F / 2, 2 s, 2 s] and deep ones [N, F, s, s] of images x."""
        middle = self.middle(self.first(x))
        return middle, self.deep(middle)

    def features(self, x: Tensor) -> Tensor:
        """Return features [N, K, F] of the K places of images x [N, 3, H, W] in [-1, 1]."""
        return self.places(self.maps(x)[1]).flatten(2).mT  # [N, K, F]

    def lower_layers(self) -> list[nn.Module]:
        """Return the layers on the way to the score; the decoders lie beside it."""
        return stacked(nn.ModuleList([self.first, self.middle, self.deep, self.places]))

    def extra_loss(self, x_real: Tensor, draws: Draws) -> Tensor:
        """Return the weighted error [] of drawings of x_real [N, 3, H, W], whole and a quarter."""
        if not self.reconstruction_weight:
            return super().extra_loss(x_real, draws)
        middle, deep = self.maps(x_real)
        n = torch.arange(len(x_real))
        pick = (4 * draws.uniform("quarter", len(x_real))).long()
        quarter = self.draw_quarter(quadrants(middle)[n, pick])
        pairs = [(self.draw_whole(deep), x_real), (quarter, quadrants(x_real)[n, pick])]
        errors = [
            F.l1_loss(drawn, F.interpolate(x, size=self.side, mode="area")) for drawn, x in pairs
        ]
        return self.reconstruction_weight * torch.stack(errors).sum()
