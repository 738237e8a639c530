"""Generators and critics, and the contract that `mbgan.gan.GAN` holds them to."""

import torch
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

    def points(self, z: Tensor) -> Tensor:
        """Return where latents z [N, z_dim] lie in the space of truncation: here z itself."""
        return z

    def render(self, points: Tensor) -> Tensor:
        """Return images [N, 3, H, W] in [-1, 1] of N `points`, such as truncated ones."""
        return self(points)

    def center(self) -> Tensor:
        """Return what truncation draws points towards: here 0 [z_dim], the mode of N(0, I)."""
        return next(self.parameters()).new_zeros(self.z_dim)

    def truncate(self, points: Tensor, psi: float) -> Tensor:
        """Return points moved to the share psi of their way from the center: fewer oddities.

        The truncation trick of Karras et al. 2019 (app. B), center + psi (point - center), in all
        layers. Without styles the point is z and becomes psi z: likelier latents, but shorter ones
        than the generator was trained on (Brock et al. 2019, sec. 3.1, draw large numbers again).

        Raises:
            ValueError: if psi is not in (0, 1].
        """
        if not 0 < psi <= 1:
            raise ValueError(f"truncation must be in (0, 1], got {psi}; 1 is none")
        return points if psi == 1 else torch.lerp(self.center(), points, psi)


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

    def extra_loss(self, x_real: Tensor, draws: Draws) -> Tensor:
        """Return what else the critic minimizes on (augmented) real images, a scalar []."""
        return x_real.new_zeros(())

    def __call__(self, x: Tensor) -> Tensor:  # nn.Module.__call__, typed
        """Run `forward` and its hooks."""
        return super().__call__(x)


class MixesImages:
    """Marks layers whose output depends on the other images of the batch, as batch norm's does."""


def mixes_images(critic: nn.Module) -> bool:
    """Whether a score depends on the other images of the batch: real and fake go apart then."""
    kinds = (nn.modules.batchnorm._BatchNorm, MixesImages)
    return any(isinstance(module, kinds) for module in critic.modules())
