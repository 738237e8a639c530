"""Generators and critics, and the contract that `mbgan.gan.GAN` holds them to."""

from torch import Tensor, nn


def check_image_size(image_size: int) -> None:
    """Refuse a side that four halvings do not take to a whole number of pixels.

    Raises:
        ValueError: if image_size is not a power of two from 16 to 256.
    """
    if image_size not in (16, 32, 64, 128, 256):
        raise ValueError(f"image_size must be a power of two from 16 to 256, got {image_size}")


class Generator(nn.Module):
    """Maps latents z [N, z_dim] to images [N, 3, H, W] in [-1, 1], with H = W = image_size.

    Raises:
        ValueError: if z_dim or image_size is out of range.
    """

    def __init__(self, z_dim: int, image_size: int) -> None:
        super().__init__()
        if z_dim < 1:
            raise ValueError(f"z_dim must be at least 1, got {z_dim}")
        check_image_size(image_size)
        self.z_dim, self.image_size = z_dim, image_size

    def __call__(self, z: Tensor) -> Tensor:  # nn.Module.__call__, typed
        """Run `forward` and its hooks."""
        return super().__call__(z)


class Critic(nn.Module):
    """Maps images [N, 3, H, W] in [-1, 1] to scores [N], higher for real."""

    def __call__(self, x: Tensor) -> Tensor:  # nn.Module.__call__, typed
        """Run `forward` and its hooks."""
        return super().__call__(x)
