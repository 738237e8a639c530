"""Extractors without a classifier: DINOv2, and any encoder of the user's own, from a file."""

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mbgan.documents import read_torch, reason
from mbgan.metrics.features import Extractor, fetch, weights_file

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of levels in [0, 1]
DINOV2 = {  # variant -> its network in timm
    "vits14": "vit_small_patch14_dinov2",
    "vitb14": "vit_base_patch14_dinov2",
    "vitl14": "vit_large_patch14_dinov2",
    "vitg14": "vit_giant_patch14_dinov2",
}
DINOV2_URL = "https://dl.fbaipublicfiles.com/dinov2/dinov2_{0}/dinov2_{0}_pretrain.pth"


class Encoder(Extractor):
    """A network that maps standardized images [N, 3, side, side] to features [N, F].

    Args:
        name: as it stands in the scores' keys.
        network: the network whose weights are frozen.
        weights: the file they came from.
        side: to which images are scaled, in pixels.
        mean: of the images that the network was trained with, per channel, levels in [0, 1].
        std: likewise.
        settings: whatever else its features depend on, in words.
    """

    mean: Tensor  # [1, 3, 1, 1]
    std: Tensor

    def __init__(
        self,
        name: str,
        network: nn.Module,
        weights: Path,
        side: int,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        settings: str = "",
    ) -> None:
        standard = f"{side} {tuple(map(float, mean))} {tuple(map(float, std))}"
        super().__init__(name, network, weights, f"{standard} {settings}")
        self.side = side
        self.register_buffer("mean", 255 * torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", 255 * torch.tensor(std).view(1, 3, 1, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return features [N, F] and logits [N, 0] of images [N, 3, H, W], uint8."""
        # Bicubic, as what published DINOv2 scores are taken by (Stein et al. 2023, dgm-eval).
        x = F.interpolate(x.float(), size=(self.side, self.side), mode="bicubic", antialias=True)
        features = self.network((x.clamp(0, 255) - self.mean) / self.std)
        return features, features[:, :0]


class DINOv2(Encoder):
    """DINOv2 (Oquab et al. 2023): of the encoders in Stein et al. 2023 the nearest to people.

    The network is timm's, as torch-fidelity's fetches its code along with the weights and takes no
    file; the weights are the authors', in the file and the place where torch.hub keeps them.

    Args:
        variant: vits14, vitb14, vitl14 (the one of published scores) or vitg14.
        weights: file dinov2_<variant>_pretrain.pth; None looks in torch's cache and downloads it
            (84 MB to 4.5 GB) if it is not there.

    Raises:
        FileNotFoundError: if the file is missing and cannot be downloaded.
        ValueError: if there is no such variant, no timm, or the weights are of another network.
    """

    def __init__(self, variant: str = "vitl14", weights: str | Path | None = None) -> None:
        if variant not in DINOV2:
            raise ValueError(f"extractor.variant must be one of {', '.join(DINOV2)}, got {variant}")
        # Images of 16 x 16 patches: 224 pixels, where the authors classify.
        network = network_of_timm(DINOV2[variant], {"img_size": 224})
        url = DINOV2_URL.format(variant)
        path = weights_file(weights, Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name)
        if not path.is_file():
            fetch(url, path, "DINOv2")
        load(network, as_in_timm(read_tensors(path), network), path, f"variant={variant}")
        super().__init__(f"dinov2_{variant}", network, path, side=224)


class Local(Encoder):
    """An encoder of the user's own, such as one trained on pathology, from a file.

    Named local_<file>_<the first 8 digits of its fingerprint>: many files share a name.

    Args:
        weights: a TorchScript file (a program: run none that you do not trust); with
            `architecture`, tensors as .safetensors or of torch.save.
        architecture: name of a network of timm's; None for TorchScript.
        side: to which images are scaled, in pixels.
        mean: of the images that the network was trained with, per channel, levels in [0, 1].
        std: likewise.
        options: of `timm.create_model` for networks that differ from timm's own of that name.

    Raises:
        FileNotFoundError: if the file is missing.
        ValueError: if a setting is out of range, or the file does not hold such a network.
    """

    def __init__(
        self,
        weights: str | Path,
        architecture: str | None = None,
        side: int = 224,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        if side < 1:
            raise ValueError(f"extractor.side must be at least 1, got {side}")
        if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
            raise ValueError(
                "extractor.mean and extractor.std must be 3 numbers each, those of std above 0, "
                f"got {list(mean)} and {list(std)}"
            )
        if options and architecture is None:
            raise ValueError(f"extractor.options need an extractor.architecture, got {options}")
        path = weights_file(weights, cached=Path())
        if architecture is None:
            network = read_torchscript(path)
        else:
            network = network_of_timm(architecture, dict(options or {}))
            load(network, read_tensors(path), path, f"architecture={architecture}")
        settings = f"{architecture} {json.dumps(dict(options or {}), sort_keys=True)}"
        super().__init__(f"local_{path.stem}", network, path, side, mean, std, settings)
        self.name += f"_{self.fingerprint[:8]}"
        self._check_features(path)

    @torch.no_grad()
    def _check_features(self, path: Path) -> None:
        try:
            features = self.network(torch.zeros(2, 3, self.side, self.side))
        except (RuntimeError, AssertionError) as error:
            raise ValueError(
                f"extractor.weights must be a network that takes images [N, 3, {self.side}, "
                f"{self.side}], got {path}: {str(error).strip().splitlines()[-1]}; set "
                "extractor.side to its own"
            ) from None
        if not isinstance(features, Tensor) or features.ndim != 2 or len(features) != 2:
            got = list(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise ValueError(
                f"extractor.weights must be a network that returns features [N, F], got {path}, "
                f"which returns {got} for 2 images; pool them into one row an image"
            )


def network_of_timm(architecture: str, options: dict[str, Any]) -> Any:
    """Return a network of timm's up to its features, with random weights.

    Raises:
        ValueError: if timm is not installed, or has no such network.
    """
    if any(c in architecture for c in ":/\\"):  # nor hf-hub:NAME, whose config timm would fetch
        raise ValueError(f"extractor.architecture must be one of timm's own, got {architecture!r}")
    try:
        import timm
    except ImportError:
        raise ValueError(
            f"extractor network {architecture!r} needs the package timm; pip install "
            "'mbgan[timm]', or use extractor=efficientnet_lite0"
        ) from None
    try:
        return timm.create_model(architecture, pretrained=False, num_classes=0, **options)
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"extractor.architecture must be one of timm's, and extractor.options its, got "
            f"{architecture!r} and {options}: {reason(error)}"
        ) from None


def read_tensors(path: Path, setting: str = "extractor.weights") -> dict[str, Tensor]:
    """Return the named tensors of a file, without running code that it may hold.

    Args:
        path: of the file.
        setting: what names it, for the error.

    Raises:
        ValueError: if it holds anything but named tensors.
    """
    from safetensors import SafetensorError  # timm brings it
    from safetensors.torch import load_file

    rule = f"{setting} must hold tensors only, got {path}"
    hint = "; give TorchScript as extractor=local without extractor.architecture"
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = read_torch(path, rule)
    except SafetensorError as error:
        raise ValueError(f"{rule}: {reason(error)}") from None
    except ValueError as error:
        raise ValueError(f"{error}{hint if setting.startswith('extractor') else ''}") from None
    for key in ("model", "state_dict"):  # as training scripts keep them
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise ValueError(f"{setting} must hold named tensors, got {path}")
    return content


def load(network: Any, tensors: dict[str, Tensor], path: Path, setting: str) -> None:
    """Give a network its weights, all of them; those of a classifier are left over.

    Raises:
        ValueError: if they are those of another network.
    """
    own = network.state_dict()
    heads = network.pretrained_cfg["classifier"] or ()
    heads = [heads] if isinstance(heads, str) else heads
    unused = {f"{head}.{kind}" for head in heads for kind in ("weight", "bias")} - own.keys()
    shapes = {name: tensor.shape for name, tensor in tensors.items() if name not in unused}
    wrong = [
        name
        for name in own.keys() | shapes.keys()
        if name not in own or name not in shapes or own[name].shape != shapes[name]
    ]
    if wrong:
        raise ValueError(
            f"extractor.weights must be those of extractor.{setting}, got {path}, where "
            f"{len(wrong)} tensors are missing, left over or of another shape ({min(wrong)}); "
            "name the network that they were trained in"
        )
    network.load_state_dict({name: tensors[name] for name in own})


def as_in_timm(tensors: dict[str, Tensor], network: Any) -> dict[str, Tensor]:
    """Return the DINOv2 authors' weights under timm's names, for images of 224 pixels."""
    from timm.models.vision_transformer import checkpoint_filter_fn

    places = tensors.get("pos_embed")  # [1, 1 + 37 * 37, F] in the authors' files
    if places is not None and places.ndim == 3 and places.shape[1] == 1 + 37**2:
        grid = places[:, 1:].unflatten(1, (37, 37)).permute(0, 3, 1, 2)
        # The 0.1 and no antialiasing are the authors', which timm does otherwise.
        grid = F.interpolate(grid, scale_factor=(16 + 0.1) / 37, mode="bicubic")
        places = torch.cat([places[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)
        tensors = tensors | {"pos_embed": places}  # [1, 1 + 16 * 16, F]
    try:
        return checkpoint_filter_fn(tensors, network)
    except (RuntimeError, KeyError, ValueError, AssertionError):  # of no such network
        return tensors


def read_torchscript(path: Path) -> nn.Module:
    """Return the network of a TorchScript file.

    Raises:
        ValueError: if it is no such file.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # deprecated; encoders come in it
            return torch.jit.load(path, map_location="cpu")
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"extractor.weights must be a TorchScript file, got {path}: {reason(error)}; for a "
            "file of tensors set extractor.architecture to the name of its network in timm"
        ) from None
