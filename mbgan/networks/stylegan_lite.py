"""StyleGAN2 (Karras et al. 2020) for a few hundred images and minutes of a small machine.

Theirs: mapping network, constant input, modulated and demodulated convolutions, noise, skip
generator, residual critic with minibatch standard deviation, equalized learning rate. Ours, for
speed: two mapping layers (as Zhao et al. 2020 for small data), at most eight times `width`
channels, halving by plain averages, and doubling after the convolution, by bilinear interpolation
(away from the border the [1, 3, 3, 1] filter of their Fig. 7). Images end in tanh.
"""

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mbgan.latents import Draws
from mbgan.networks import Critic, Generator, MixesImages, RescalesWeights
from mbgan.networks.blocks import check_width

SLOPE = 0.2  # of LeakyReLU
RELU_GAIN = math.sqrt(2)  # given to the layer before: LeakyReLU halves the second moment


def levels(image_size: int, width: int) -> dict[int, int]:
    """Return the channels of each resolution from 4 to image_size.

    Raises:
        ValueError: if width is below 1.
    """
    check_width(width)
    resolutions = [2**i for i in range(2, image_size.bit_length())]
    return {r: width * min(8, image_size // r) for r in resolutions}


def activate(x: Tensor) -> Tensor:
    """Return LeakyReLU(x)."""
    return F.leaky_relu(x, SLOPE)


def double(x: Tensor) -> Tensor:
    """Return maps [N, C, 2 H, 2 W], interpolated bilinearly from x [N, C, H, W]."""
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


class EqualizedLinear(nn.Linear, RescalesWeights):
    """Dense layer with weights of unit variance, scaled when used (Karras et al. 2018, sec. 4.1).

    Args:
        n_in: length of the input.
        n_out: length of the output.
        gain: standard deviation of the output for a normal input.
        bias: its first value.
        lr_multiplier: of the layer's learning rate.
    """

    def __init__(
        self, n_in: int, n_out: int, gain: float = 1, bias: float = 0, lr_multiplier: float = 1
    ) -> None:
        super().__init__(n_in, n_out)
        nn.init.normal_(self.weight, std=1 / lr_multiplier)
        nn.init.constant_(self.bias, bias / lr_multiplier)
        self.scale, self.lr_multiplier = gain * lr_multiplier / math.sqrt(n_in), lr_multiplier

    def forward(self, x: Tensor) -> Tensor:
        """Return [N, n_out] of x [N, n_in]."""
        return F.linear(x, self.weight * self.scale, self.bias * self.lr_multiplier)


class EqualizedConv(nn.Conv2d, RescalesWeights):
    """Convolution that keeps the size, with weights of unit variance, scaled when used."""

    def __init__(self, c_in: int, c_out: int, kernel: int, gain: float = RELU_GAIN) -> None:
        super().__init__(c_in, c_out, kernel, padding=kernel // 2)
        nn.init.normal_(self.weight)
        assert self.bias is not None, "asked for"
        nn.init.zeros_(self.bias)
        self.scale = gain / math.sqrt(c_in * kernel**2)

    def forward(self, x: Tensor) -> Tensor:
        """Return [N, c_out, H, W] of x [N, c_in, H, W]."""
        return F.conv2d(x, self.weight * self.scale, self.bias, padding=self.padding)


class ModulatedConv(nn.Module):
    """Convolution whose weights each image scales by its style (Karras et al. 2020, eqs. 1-3).

    Scaling input channels before one shared convolution, and output channels after it, is the
    same as a kernel for each image, and faster on a CPU.

    Args:
        c_in: channels of the input.
        c_out: channels of the output.
        w_dim: length of the style vector.
        kernel: side of the kernel in pixels, odd.
        demodulate: give the output the standard deviation RELU_GAIN, for a LeakyReLU to follow.
    """

    def __init__(self, c_in: int, c_out: int, w_dim: int, kernel: int, demodulate: bool) -> None:
        super().__init__()
        self.style = EqualizedLinear(w_dim, c_in, bias=1)
        self.weight = nn.Parameter(torch.randn(c_out, c_in, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(1, c_out, 1, 1))
        self.scale, self.demodulate = 1 / math.sqrt(c_in * kernel**2), demodulate

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """Return [N, c_out, H, W] of x [N, c_in, H, W] and styles w [N, w_dim]."""
        s = self.style(w)  # [N, c_in]
        weight = self.weight * self.scale
        y = F.conv2d(x * s[:, :, None, None].to(x), weight, padding=weight.shape[-1] // 2)
        if not self.demodulate:
            return y + self.bias.to(y)
        variance = s.square() @ weight.square().sum((2, 3)).T  # [N, c_out], eq. 3
        factor = RELU_GAIN * torch.rsqrt(variance + 1e-8)
        return torch.addcmul(self.bias.to(y), y, factor[:, :, None, None].to(y))


class StyledConv(nn.Module):
    """Modulated convolution, doubling or not, then noise and LeakyReLU.

    Args:
        c_in: channels of the input.
        c_out: channels of the output.
        w_dim: length of the style vector.
        resolution: side of the output in pixels.
        up: whether the output is twice as large as the input.
    """

    noise: Tensor

    def __init__(self, c_in: int, c_out: int, w_dim: int, resolution: int, up: bool) -> None:
        super().__init__()
        self.conv = ModulatedConv(c_in, c_out, w_dim, 3, demodulate=True)
        self.noise_strength = nn.Parameter(torch.zeros(()))
        self.register_buffer("noise", torch.randn(1, 1, resolution, resolution))
        self.up = up

    def forward(self, x: Tensor, w: Tensor, draws: Draws | None) -> Tensor:
        """Return maps [N, c_out, H, W]; the noise is a fixed field where draws are None."""
        y = self.conv(x, w)
        if self.up:
            y = double(y)
        noise = self.noise
        if draws is not None:
            noise = draws.normal("noise", len(x), *noise.shape[1:]).to(noise, non_blocking=True)
        return activate(y + (self.noise_strength * noise).to(y))


class StyleGANGenerator(Generator):
    """Mapping network from z to w, and a synthesis network that w styles layer by layer.

    Args:
        z_dim: length of the latent.
        image_size: side of the images in pixels, a power of two from 16 to 256.
        width: channels at image_size; doubled at each halving up to eight times.
        w_dim: length of the style vector.
        mapping_layers: dense layers from z to w.
        style_mixing: share of images in training with a second w from a random layer on.

    Raises:
        ValueError: if a number is out of range.
    """

    def __init__(
        self,
        z_dim: int = 512,
        image_size: int = 256,
        width: int = 32,
        w_dim: int = 512,
        mapping_layers: int = 2,
        style_mixing: float = 0.9,
    ) -> None:
        super().__init__(z_dim, image_size)
        for name, value in (("w_dim", w_dim), ("mapping_layers", mapping_layers)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if not 0 <= style_mixing <= 1:
            raise ValueError(f"style_mixing must be in [0, 1], got {style_mixing}")
        self.w_dim, self.style_mixing = w_dim, style_mixing
        lengths = [z_dim] + [w_dim] * mapping_layers
        self.mapping = nn.ModuleList(
            # Karras et al. 2019, app. C: the mapping learns a hundred times more slowly.
            EqualizedLinear(n_in, n_out, gain=RELU_GAIN, lr_multiplier=0.01)
            for n_in, n_out in pairwise(lengths)
        )
        channels = levels(image_size, width)
        self.constant = nn.Parameter(torch.randn(1, channels[4], 4, 4))
        self.convs = nn.ModuleList([StyledConv(channels[4], channels[4], w_dim, 4, up=False)])
        self.to_rgb = nn.ModuleList()
        for resolution, c in channels.items():
            if resolution > 4:
                before = channels[resolution // 2]
                self.convs.append(StyledConv(before, c, w_dim, resolution, up=True))
                self.convs.append(StyledConv(c, c, w_dim, resolution, up=False))
            self.to_rgb.append(ModulatedConv(c, 3, w_dim, 1, demodulate=False))

    def forward(self, z: Tensor, draws: Draws | None = None) -> Tensor:
        """Return images [N, 3, H, W] in [-1, 1] for latents z [N, z_dim]."""
        return self.synthesize(self.styles(z, draws), draws)

    def conditioned(self, z: Tensor, condition: Tensor | None) -> Tensor:
        """Return z and its condition's vector side by side, [N, 2 z_dim]; z where there is none.

        So that the style that is mixed in is of the same condition.
        """
        if self.embedding is None:
            return z
        return torch.cat([z, self.vectors(z.shape[0], condition)], dim=1)

    def style(self, z: Tensor) -> Tensor:
        """Return style vectors w [N, w_dim] for latents z [N, z_dim], or [N, 2 z_dim]."""
        if z.shape[1] > self.z_dim:
            z = (z[:, : self.z_dim] + z[:, self.z_dim :]) / math.sqrt(2)
        w = z * torch.rsqrt(z.square().mean(1, keepdim=True) + 1e-8)
        for layer in self.mapping:
            w = activate(layer(w))
        return w

    def styles(self, z: Tensor, draws: Draws | None = None) -> Tensor:
        """Return a style for each layer, [N, layers, w_dim], mixed in training."""
        w = self.style(z)[:, None].expand(-1, len(self.convs), -1)
        if draws is None or not self.training or not self.style_mixing:
            return w
        other = draws.normal("mixed z", len(z), self.z_dim).to(z, non_blocking=True)
        other = self.style(torch.cat([other, z[:, self.z_dim :]], dim=1))
        # Karras et al. 2019, sec. 3.1: from a random layer on, the style is another's.
        u = draws.uniform("mixing", len(z), 2)
        first = 1 + (u[:, 1] * (len(self.convs) - 1)).long()
        first = torch.where(u[:, 0] < self.style_mixing, first, len(self.convs))
        swap = torch.arange(len(self.convs)) >= first[:, None]  # [N, layers]
        return torch.where(swap[:, :, None].to(z.device, non_blocking=True), other[:, None], w)

    def synthesize(self, ws: Tensor, draws: Draws | None = None) -> Tensor:
        """Return images [N, 3, H, W] in [-1, 1] for styles ws [N, layers, w_dim]."""
        x = self.constant.expand(ws.shape[0], -1, -1, -1)  # len would fix it in torch.export
        rgb = x.new_zeros(())
        for i, (conv, w) in enumerate(zip(self.convs, ws.unbind(1), strict=True)):
            x = conv(x, w, draws.of(f"layer {i}") if draws and self.training else None)
            if i % 2 == 0:  # the last of its resolution
                rgb = (double(rgb) if i else rgb) + self.to_rgb[i // 2](x, w)
        return torch.tanh(rgb)

    def points(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return the styles [N, layers, w_dim] of latents z [N, z_dim], not mixed."""
        return self.styles(self.conditioned(z, condition))

    def render(self, points: Tensor) -> Tensor:
        """Return images [N, 3, H, W] in [-1, 1] for styles [N, layers, w_dim]."""
        return self.synthesize(points)

    def center(self, condition: Tensor | None = None) -> Tensor:
        """Return the mean style [1, 1, w_dim], or those of each condition [N, 1, w_dim]."""
        if condition is None:
            return self.mean_style()[None, None]
        kinds, place = condition.unique(return_inverse=True)
        return torch.stack([self.mean_style(kind) for kind in kinds])[place][:, None]

    @torch.no_grad()
    def mean_style(self, condition: Tensor | None = None, n: int = 10_000) -> Tensor:
        """Return the mean w [w_dim] over n fixed latents, what truncation draws styles towards."""
        z = Draws(seed=0, step=0).normal("mean style", n, self.z_dim).to(self.constant)
        same = None if condition is None else condition.expand(n)
        return self.style(self.conditioned(z, same)).mean(0)


class MinibatchStd(MixesImages, nn.Module):
    """Appends a map of how much the images of a group differ (Karras et al. 2018, sec. 3).

    Groups are of consecutive images, so that devices that share a batch make the same ones. A
    batch that is no multiple of `group` makes groups of the largest size that divides both.

    Args:
        group: images of a group; 4 in their code.

    Raises:
        ValueError: if group is below 1.
    """

    def __init__(self, group: int = 4) -> None:
        super().__init__()
        if group < 1:
            raise ValueError(f"group must be at least 1 image, got {group}")
        self.group = group

    def forward(self, x: Tensor) -> Tensor:
        """Return [N, C + 1, H, W] of x [N, C, H, W]."""
        n, _, height, width = x.shape
        size = math.gcd(n, self.group)
        groups = x.to(torch.promote_types(x.dtype, torch.float32)).unflatten(0, (-1, size))
        std = (groups.var(1, correction=0) + 1e-8).sqrt().mean((1, 2, 3))  # [N / size]
        extra = std.repeat_interleave(size).to(x)[:, None, None, None]  # [N, 1, 1, 1]
        return torch.cat([x, extra.expand(-1, -1, height, width)], 1)


class ResidualBlock(nn.Module):
    """Two convolutions and a shortcut, with a halving (Karras et al. 2020, Fig. 7c)."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.first, self.second = EqualizedConv(c_in, c_in, 3), EqualizedConv(c_in, c_out, 3)
        self.shortcut = EqualizedConv(c_in, c_out, 1, gain=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return [N, c_out, H / 2, W / 2] of x [N, c_in, H, W]."""
        y = activate(self.second(F.avg_pool2d(activate(self.first(x)), 2)))
        return (y + self.shortcut(F.avg_pool2d(x, 2))) * math.sqrt(0.5)  # of unit variance again


class StyleGANCritic(Critic):
    """Residual blocks to 4 x 4 pixels, minibatch standard deviation, and two dense layers.

    Args:
        image_size: side of the images in pixels, a power of two from 16 to 256.
        width: channels at image_size; doubled at each halving up to eight times.
        group: images that the minibatch standard deviation compares.

    Raises:
        ValueError: if image_size, width or group is out of range.
    """

    def __init__(self, image_size: int = 256, width: int = 32, group: int = 4) -> None:
        channels = list(levels(image_size, width).values())  # from 4 pixels to image_size
        super().__init__(image_size, channels[0])
        self.from_rgb = EqualizedConv(3, channels[-1], 1)
        halvings = pairwise(reversed(channels))
        self.blocks = nn.Sequential(*(ResidualBlock(c_in, c_out) for c_in, c_out in halvings))
        self.minibatch_std = MinibatchStd(group)
        self.last = EqualizedConv(channels[0] + 1, channels[0], 3)
        self.dense = EqualizedLinear(channels[0] * 4 * 4, channels[0], gain=RELU_GAIN)
        self.score = EqualizedLinear(channels[0], 1)

    def features(self, x: Tensor) -> Tensor:
        """Return features [N, 8 width] of images x [N, 3, H, W] in [-1, 1]."""
        x = self.blocks(activate(self.from_rgb(x)))
        x = activate(self.last(self.minibatch_std(x)))
        return activate(self.dense(x.flatten(1)))
