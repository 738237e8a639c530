"""Features of the real images by every extractor at hand, kept in a folder for measure.py.

python features.py DIR OUT
"""

import sys
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from mbgan.assembly import quiet_libraries
from mbgan.data.cache import load_images
from mbgan.data.folder import find_images
from mbgan.metrics.features import EfficientNetLite, EfficientNetLite0, EfficientNetLite2

CACHE = Path("~/.cache/mbgan").expanduser()
SIDE, BATCH, SEED = 224, 16, 0  # pixels, as the images are; images; of the random weights
# The last blocks of 80, 192 and 320 channels, and of 48, 208 and 352.
BLOCKS = {"efficientnet_lite0": (7, 14, 15), "efficientnet_lite2": (6, 19, 20)}
TAPS = ("64", "192", "768", "2048", "logits_unbiased")


class Taps(nn.Module):
    """Mean activations of some blocks of an EfficientNet, its features and its logits."""

    def __init__(self, extractor: EfficientNetLite) -> None:
        super().__init__()
        self.name, self.extractor, self.seen = extractor.name, extractor, dict[str, Tensor]()
        for block in BLOCKS[self.name]:
            extractor.network._blocks[block].register_forward_hook(self._keep)

    def _keep(self, block: nn.Module, inputs: object, x: Tensor) -> None:
        self.seen[str(x.shape[1])] = x.mean((2, 3))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return features by their width, and logits, of images x [N, 3, H, W] in 0..255."""
        features, logits = self.extractor(x)
        return self.seen | {"1280": features, "logits": logits}


class RandomInception(nn.Module):
    """The Inception network of FID with random weights, whose features say little of tissue."""

    name = "inception_random"

    def __init__(self) -> None:
        super().__init__()
        module = "torch_fidelity.feature_extractor_inceptionv3"
        with (
            patch(f"{module}.load_state_dict_from_url", lambda *args, **kwargs: {}),
            patch.object(FeatureExtractorInceptionV3, "load_state_dict", lambda *args: None),
        ):
            self.network = FeatureExtractorInceptionV3("inception-v3-compat", list(TAPS))
        generator = torch.Generator().manual_seed(SEED)
        for part in self.network.modules():
            if isinstance(part, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(part.weight, generator=generator)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return features by their width, and logits, of images x [N, 3, H, W], uint8."""
        return dict(zip((*TAPS[:4], "logits"), self.network(x), strict=True))


def blurred(x: Tensor) -> Tensor:
    """Return images that lost what is smaller than two pixels."""
    half = F.interpolate(x.float(), scale_factor=0.5, mode="bilinear", antialias=True)
    return F.interpolate(half, size=x.shape[-1], mode="bilinear").round().to(torch.uint8)


def quarters(x: Tensor) -> Tensor:
    """Return the four quarters [4 N, 3, H / 2, W / 2] of images, those of one image in a row."""
    n, _, height, width = x.shape
    parts = x.reshape(n, 3, 2, height // 2, 2, width // 2).permute(0, 2, 4, 1, 3, 5)
    return parts.reshape(4 * n, 3, height // 2, width // 2)


@torch.no_grad()
def extract(network: nn.Module, images: Tensor, file: Path) -> None:
    """Write features and logits of images [N, 3, H, W], uint8, unless they are there."""
    if file.exists():
        return
    parts = [
        {key: value.numpy().astype(np.float32) for key, value in network(batch).items()}
        for batch in images.split(BATCH)
    ]
    np.savez(file, **{key: np.concatenate([part[key] for part in parts]) for key in parts[0]})
    print(file.name, len(images), flush=True)


def main(root: str, out: Path) -> None:
    """Extract by three networks at two magnifications, and altered images by one."""
    quiet_libraries()
    out.mkdir(parents=True, exist_ok=True)
    images = {
        magnification: torch.from_numpy(
            load_images(find_images(root, magnification), SIDE, CACHE).images.copy()
        )
        for magnification in ("100x", "400x")
    }
    lite0 = Taps(EfficientNetLite0().eval())
    for network in (lite0, Taps(EfficientNetLite2().eval()), RandomInception().eval()):
        for magnification, x in images.items():
            extract(network, x, out / f"{network.name} {magnification} plain.npz")
    for magnification, x in images.items():
        # What a network for 0..255 sees of images in 0..1 and in -1..1.
        altered = {"unit": x.float() / 255, "signed": x.float() / 127.5 - 1}
        if magnification == "400x":
            altered |= {"mirrored": x.flip(-1), "blurred": blurred(x), "quarters": quarters(x)}
        for name, changed in altered.items():
            extract(lite0, changed, out / f"{lite0.name} {magnification} {name}.npz")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
