"""Classifiers that measure what images are worth: a linear probe, a small network, a backbone.

All follow one contract, so that arms differ in their images alone: `look` turns images into what
the classifier learns from, once; `fit` spends the same budget whatever it is given.
"""

from collections.abc import Callable, Sequence
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.nn import functional as F

from mbgan.images import from_uint8
from mbgan.latents import generator_of, seed_of
from mbgan.metrics.encoders import IMAGENET_MEAN, IMAGENET_STD, read_tensors
from mbgan.metrics.features import Extractor
from mbgan.studies.feature_cache import extract_once

Predict = Callable[[Tensor], NDArray[np.float64]]  # what `look` made [N, ...] -> shares [N, K]


class Classifier(Protocol):
    """What the study needs of a classifier.

    Attributes:
        settings: values of the one setting that is tuned, the same for every arm.
    """

    settings: Sequence[float]

    def look(self, images: Tensor) -> Tensor:
        """Return what it learns from, [N, ...], of images [N, 3, S, S], uint8."""

    def fit(self, x: Tensor, y: NDArray[np.int64], setting: float, seed: int) -> Predict:
        """Return what predicts classes, trained on x [N, ...] and classes y [N] in 0 .. K - 1.

        Every class weighs the same, however many images it has.
        """


class LinearProbe:
    """Logistic regression on the standardized features of a frozen network.

    Args:
        extractor: the network.
        settings: inverse strengths of its L2 penalty, C.
        max_iter: steps of L-BFGS at most.
        cache_dir: where features of images seen before are kept.

    Raises:
        ValueError: if a setting is out of range.
    """

    def __init__(
        self, extractor: Extractor, settings: Sequence[float], max_iter: int, cache_dir: str
    ) -> None:
        check_settings("linear_probe", settings)
        self.extractor, self.settings = extractor, list(settings)
        self.max_iter, self.cache_dir = max_iter, cache_dir

    def look(self, images: Tensor) -> Tensor:
        """Return features [N, F], float64."""
        self.extractor.to(device())
        return extract_once(self.extractor, images, self.cache_dir).features

    def fit(self, x: Tensor, y: NDArray[np.int64], setting: float, seed: int) -> Predict:
        """Return what predicts; nothing of it is random."""
        model = make_pipeline(
            StandardScaler(),
            LogisticRegression(C=setting, class_weight="balanced", max_iter=self.max_iter),
        )
        model.fit(x.numpy(), y)
        return lambda x: np.asarray(model.predict_proba(x.numpy()), dtype=np.float64)


class Network:
    """A network trained on pixels with AdamW; its learning rate falls to 0 along a cosine.

    Args:
        make: returns an untrained network [N, 3, S, S] in [-1, 1] -> [N, K], given K.
        settings: learning rates.
        steps: of the optimizer, the same for every arm.
        batch_size: images of a step; each class is as likely as another.
        weight_decay: of AdamW.

    Raises:
        ValueError: if a number is out of range.
    """

    def __init__(
        self,
        make: Callable[[int], nn.Module],
        settings: Sequence[float],
        steps: int,
        batch_size: int,
        weight_decay: float,
    ) -> None:
        check_settings("network", settings)
        if steps < 1 or batch_size < 2:
            raise ValueError(
                "a network's steps must be at least 1 and its batch_size at least 2, got "
                f"{steps} and {batch_size}"
            )
        self.make, self.settings, self.steps = make, list(settings), steps
        self.batch_size, self.weight_decay = batch_size, weight_decay

    def look(self, images: Tensor) -> Tensor:
        """Return the images as they are, uint8."""
        return images

    def fit(self, x: Tensor, y: NDArray[np.int64], setting: float, seed: int) -> Predict:
        """Return what predicts; its first weights and its order of images are the seed's."""
        torch.manual_seed(seed_of(seed, "classifier"))
        network = self.make(int(y.max()) + 1).to(device()).train()
        weights = list(network.parameters())
        optimizer = torch.optim.AdamW(weights, lr=setting, weight_decay=self.weight_decay)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)
        likely = torch.from_numpy(1 / np.bincount(y)[y])
        numbers, target = generator_of(seed, "batches"), torch.from_numpy(y)
        for _ in range(self.steps):
            rows = likely.multinomial(self.batch_size, replacement=True, generator=numbers)
            scores = network(from_uint8(x[rows].to(device())))
            loss = F.cross_entropy(scores, target[rows].to(device()))
            grads = torch.autograd.grad(loss, weights, allow_unused=True)
            for weight, grad in zip(weights, grads, strict=True):
                weight.grad = grad
            optimizer.step()
            schedule.step()
        network.eval()

        @torch.no_grad()
        def predict(x: Tensor) -> NDArray[np.float64]:
            parts = [network(from_uint8(part.to(device()))).cpu() for part in x.split(64)]
            return np.asarray(torch.cat(parts).double().softmax(1).numpy())

        return predict


def check_settings(name: str, settings: Sequence[float]) -> None:
    """Refuse an empty grid, or one with numbers that cannot be.

    Raises:
        ValueError: if it is one.
    """
    if not len(settings) or min(settings) <= 0:
        raise ValueError(
            f"settings of the {name} must be numbers above 0, at least one, got {list(settings)}"
        )


def device() -> str:
    """Return where classifiers are trained."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def small_network(n_classes: int, width: int) -> nn.Module:
    """Return four strided convolutions with batch norm, and a linear layer on their mean.

    Args:
        n_classes: K.
        width: channels of the first convolution; each has twice those of the one before.
    """
    layers: list[nn.Module] = []
    channels = [3, *(width * 2**i for i in range(4))]
    for before, after in pairwise(channels):
        layers += [nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False)]
        layers += [nn.BatchNorm2d(after), nn.ReLU()]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels[-1], n_classes)]
    return nn.Sequential(*layers, *head)


class Backbone(nn.Module):
    """A network of timm's or torchvision's for images [N, 3, S, S] in [-1, 1]; see `backbone`."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, side: int | None) -> None:
        super().__init__()
        self.network, self.side = network, side
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return scores [N, K]."""
        if self.side is not None:
            x = F.interpolate(x, size=(self.side, self.side), mode="bilinear", antialias=True)
        scores: Tensor = self.network(((x + 1) / 2 - self.mean) / self.std)
        return scores


def backbone(
    n_classes: int, library: str, architecture: str, weights: str | None, side: int | None
) -> nn.Module:
    """Return a published architecture, from scratch or with weights from a file.

    Args:
        n_classes: K.
        library: timm or torchvision.
        architecture: its name there.
        weights: file of tensors; the last layer's are not used. None begins from scratch.
        side: to which images are scaled, in pixels; None leaves them.

    Raises:
        ValueError: if there is no such architecture, or the weights are of another.
        FileNotFoundError: if the weights are missing.
    """
    places = {"timm": ("timm", "create_model"), "torchvision": ("torchvision.models", "get_model")}
    if library not in places:
        raise ValueError(f"a backbone's library must be timm or torchvision, got {library!r}")
    module, function = places[library]
    if any(c in architecture for c in ":/\\"):  # hf-hub:NAME, which timm would fetch
        raise ValueError(f"a backbone's architecture must be {library}'s own, got {architecture!r}")
    try:
        make: Any = getattr(import_module(module), function)
    except ImportError:
        raise ValueError(f"library={library} is not installed: pip install {library}") from None
    try:
        network = make(architecture, num_classes=n_classes)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{library} has no network {architecture!r} ({error})") from None
    if weights is not None:
        path = Path(weights).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f"a backbone's weights must be a file, got {path}")
        own, given = network.state_dict(), read_tensors(path, "a backbone's weights")
        head = list(own)[-1].rpartition(".")[0]  # the last layer tells classes apart
        fits = {k: v for k, v in given.items() if k in own and own[k].shape == v.shape}
        fits = {k: v for k, v in fits.items() if not k.startswith(f"{head}.")}
        wrong = [k for k in own if k not in fits and not k.startswith(f"{head}.")]
        if wrong:
            raise ValueError(
                f"a backbone's weights must be those of {architecture}, got {path}, where "
                f"{len(wrong)} tensors are missing or of another shape ({min(wrong)})"
            )
        network.load_state_dict(own | fits)
    return Backbone(network, side)
