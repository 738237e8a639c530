"""Building blocks of more than one architecture."""

from torch import nn
from torch.nn.utils.parametrizations import spectral_norm


def check_width(width: int) -> None:
    """Refuse a network without channels.

    Raises:
        ValueError: if width is below 1.
    """
    if width < 1:
        raise ValueError(f"width must be at least 1, got {width}")


def normed(
    c_in: int, c_out: int, kernel: int, stride: int = 1, pad: int = 0, batch_norm: bool = False
) -> nn.Sequential:
    """Return a convolution with spectral norm (Miyato et al. 2018) and its activation."""
    conv = spectral_norm(nn.Conv2d(c_in, c_out, kernel, stride, pad))
    norm = [nn.BatchNorm2d(c_out)] if batch_norm else []
    return nn.Sequential(conv, *norm, nn.LeakyReLU(0.2))
