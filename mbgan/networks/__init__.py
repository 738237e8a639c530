"""Generators and critics, and the contract that `mbgan.gan.GAN` holds them to."""

from torch import Tensor, nn

from mbgan.latents import Draws


def check_image_size(image_size: int) -> None:
    """Refuse a side that four halvings do not take to a whole number of pixels.

    Raises:
        ValueError: if image_size is not a power of two from 16 to 256.
    """
    if image_size not in (16, 32, 64, 128, 256):
        raise ValueError(f"image_size must be a power of two from 16 to 256, got {image_size}")


class Generator(nn.Module):
    """Maps latents z [N, z_dim] to images [N, 3, H, W] in [-1, 1], with H = W = image_size.

    In eval mode image i is a function of z_i alone. In training a network may draw more numbers
    (noise, style mixing) from the draws it is handed, and from nowhere else: then a run resumes
    exactly and is the same on several devices.

    Raises:
        ValueError: if z_dim or image_size is out of range.
    """

    def __init__(self, z_dim: int, image_size: int) -> None:
        super().__init__()
        if z_dim < 1:
            raise ValueError(f"z_dim must be at least 1, got {z_dim}")
        check_image_size(image_size)
        self.z_dim, self.image_size = z_dim, image_size

    def __call__(self, z: Tensor, draws: Draws | None = None) -> Tensor:  # typed
        """Run `forward` and its hooks."""
        return super().__call__(z, draws)


class Critic(nn.Module):
    """Maps images [N, 3, H, W] in [-1, 1] to scores [N], or [N, K] of K places; higher for real.

    A score is a linear function `score` of `features`, so that a condition can be projected on
    them.

    Args:
        image_size: side of the images in pixels, a power of two from 16 to 256.
        width_out: length F of the features.

    Raises:
        ValueError: if image_size is out of range.
    """

    def __init__(self, image_size: int, width_out: int) -> None:
        super().__init__()
        check_image_size(image_size)
        self.image_size = image_size
        self.score = nn.Linear(width_out, 1)

    def features(self, x: Tensor) -> Tensor:
        """Return what the scores are made of, [N, F] or [N, K, F], for images x [N, 3, H, W]."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Return scores [N] or [N, K] of images x [N, 3, H, W] in [-1, 1]."""
        return self.score(self.features(x)).squeeze(-1)

    def lower_layers(self) -> list[nn.Module]:
        """Return what learns before the score, from the image on; a block counts as one layer."""
        beside = ("score", "projection")
        return stacked(nn.ModuleList(m for k, m in self.named_children() if k not in beside))

    def freeze(self, n: int) -> None:
        """Let the n layers nearest to the image learn no more (FreezeD; Mo et al. 2020, sec. 3).

        As in their code, batch norm and spectral norm keep following the batches.

        Raises:
            ValueError: if that would leave no layer before the score.
        """
        layers = self.lower_layers()
        if n not in range(max(1, len(layers))):
            raise ValueError(
                f"freeze_critic must be from 0 to {len(layers) - 1}, as {type(self).__name__} has "
                f"{len(layers)} layers before its score and one must learn, got {n}"
            )
        for layer in layers[:n]:
            layer.requires_grad_(False)

    def extra_loss(self, x_real: Tensor, draws: Draws) -> Tensor:
        """Return what else the critic minimizes on (augmented) real images, a scalar []."""
        return x_real.new_zeros(())

    def __call__(self, x: Tensor) -> Tensor:  # nn.Module.__call__, typed
        """Run `forward` and its hooks."""
        return super().__call__(x)


def stacked(network: nn.Module) -> list[nn.Module]:
    """Return what learns in a network, in order of definition; a norm goes with its layer.

    Only containers are opened: a residual block is one layer, with its shortcut.
    """
    found: list[nn.Module] = []
    for child in network.children():
        weights = list(child.parameters())
        if isinstance(child, nn.Sequential | nn.ModuleList):
            found += stacked(child)
        elif found and weights and all(weight.dim() < 2 for weight in weights):  # a norm
            found[-1] = nn.ModuleList([found[-1], child])
        elif weights:
            found.append(child)
    return found


class MixesImages:
    """Marks layers whose output depends on the other images of the batch, as batch norm's does."""


def mixes_images(critic: nn.Module) -> bool:
    """Whether a score depends on the other images of the batch: real and fake go apart then."""
    kinds = (nn.modules.batchnorm._BatchNorm, MixesImages)
    return any(isinstance(module, kinds) for module in critic.modules())
