"""Generators and critics, and the contract that `mbgan.gan.GAN` holds them to."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import spectral_norm

from mbgan.images import to_uint8
from mbgan.latents import Draws, generator_of


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

    Attributes:
        conditions: names of what tells images apart; empty if nothing does.
        chosen: number of the condition where none is named.
        embedding: of conditions, [K, z_dim], once there are some.

    Raises:
        ValueError: if z_dim or image_size is out of range.
    """

    embedding: nn.Embedding | None

    def __init__(self, z_dim: int, image_size: int) -> None:
        super().__init__()
        if z_dim < 1:
            raise ValueError(f"z_dim must be at least 1, got {z_dim}")
        check_image_size(image_size)
        self.z_dim, self.image_size = z_dim, image_size
        self.conditions = tuple[str, ...]()
        self.chosen: int | None = None
        self.register_module("embedding", None)

    def condition_on(self, names: Sequence[str], seed: int) -> None:
        """Make images depend on one of the named conditions (Mirza & Osindero 2014).

        Their vectors begin with a length of about 1, that of a one-hot code, against the latent's
        sqrt(z_dim). At equal length a first layer learned what all images of a condition share so
        much faster than the latent that projected drew one image a condition.
        """
        self.conditions = tuple(names)
        numbers = generator_of(seed, "generator embedding")
        self.embedding = embedding(len(names), self.z_dim, self.z_dim**-0.5, numbers)

    def matching(self, label: str | None, magnification: str | None) -> list[int]:
        """Return the numbers of the conditions that a class and a magnification leave; [0] of none.

        Raises:
            ValueError: if there is no such condition.
        """
        chosen = list(range(len(self.conditions)))
        for key, value in (("class", label), ("magnification", magnification)):
            if value is None:
                continue
            if not chosen:
                raise ValueError(
                    f"{key} must be left out, as the run tells no images apart, got {value}; train "
                    f"one with model.condition={key}"
                )
            parts = [self.conditions[i].casefold().split("/") for i in chosen]
            chosen = [i for i, of in zip(chosen, parts, strict=True) if str(value).casefold() in of]
            if not chosen:
                names = ", ".join(self.conditions)
                raise ValueError(f"{key} must be one of the run's ({names}), got {value}")
        return chosen or [0]

    def __call__(self, z: Tensor, draws: Draws | None = None) -> Tensor:  # typed
        """Run `forward` and its hooks, on latents that hold their conditions already."""
        return super().__call__(z, draws)

    def conditioned(self, z: Tensor, condition: Tensor | None) -> Tensor:
        """Return latents [N, z_dim] that hold z [N, z_dim] and conditions [N], in 0 .. K - 1.

        Their sum over the root of 2: to a dense layer the same as both side by side, and any
        network takes it. Without conditions to tell apart, z as it is; condition=None stands for
        the chosen one.
        """
        if self.embedding is None:
            return z
        return (z + self.vectors(z.shape[0], condition)) / math.sqrt(2)

    def vectors(self, n: int, condition: Tensor | None) -> Tensor:
        """Return the vectors [n, z_dim] of conditions [n], or of the chosen one."""
        assert self.embedding is not None, "there are conditions to tell apart"
        if condition is None:
            assert self.chosen is not None, "the generator draws by a condition"
            condition = torch.full((n,), self.chosen)
        vectors: Tensor = self.embedding(condition.to(self.embedding.weight.device))
        return vectors

    def points(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return where latents z [N, z_dim] lie in the space of truncation: here, conditioned z."""
        return self.conditioned(z, condition)

    def render(self, points: Tensor) -> Tensor:
        """Return images [N, 3, H, W] in [-1, 1] of N `points`, such as truncated ones."""
        return self(points)

    def center(self, condition: Tensor | None = None) -> Tensor:
        """Return what truncation draws points towards: that of z = 0, the mode of N(0, I).

        One for each condition [N, z_dim], or [1, z_dim] if it is None.
        """
        n = 1 if condition is None else len(condition)
        return self.points(next(self.parameters()).new_zeros(n, self.z_dim), condition)

    def truncate(self, points: Tensor, psi: float, condition: Tensor | None = None) -> Tensor:
        """Return points moved to the share psi of their way from the center: fewer oddities.

        The truncation trick of Karras et al. 2019 (app. B), center + psi (point - center), in all
        layers. Without styles the point is z and becomes psi z: likelier latents, but shorter ones
        than the generator was trained on (Brock et al. 2019, sec. 3.1, draw large numbers again).

        Raises:
            ValueError: if psi is not in (0, 1].
        """
        if not 0 < psi <= 1:
            raise ValueError(f"truncation must be in (0, 1], got {psi}; 1 is none")
        return points if psi == 1 else torch.lerp(self.center(condition), points, psi)


class Critic(nn.Module):
    """Maps images [N, 3, H, W] in [-1, 1] to scores [N], or [N, K] of K places; higher for real.

    A score is a linear function `score` of `features`, so that a condition can be projected on
    them.

    Args:
        image_size: side of the images in pixels, a power of two from 16 to 256.
        width_out: length F of the features.

    Attributes:
        projection: of conditions, [K, F], once there are some.
        extractor: name of the trained network that it sees by, by which its generator must not be
            judged; None if it learns to see by itself.

    Raises:
        ValueError: if image_size is out of range.
    """

    projection: nn.Embedding | None
    extractor: str | None = None

    def __init__(self, image_size: int, width_out: int) -> None:
        super().__init__()
        check_image_size(image_size)
        self.image_size = image_size
        self.score = nn.Linear(width_out, 1)
        self.width_out = width_out
        self.register_module("projection", None)

    def condition_on(self, n: int, seed: int) -> None:
        """Judge each image by one of n conditions (Miyato & Koyama 2018, eq. 3)."""
        std = self.width_out**-0.5
        numbers = generator_of(seed, "critic embedding")
        self.projection = embedding(n, self.width_out, std, numbers)
        if parametrize.is_parametrized(self.score):
            spectral_norm(self.projection)

    def features(self, x: Tensor) -> Tensor:
        """Return what the scores are made of, [N, F] or [N, K, F], for images x [N, 3, H, W]."""
        raise NotImplementedError

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return scores [N] or [N, K] of images x [N, 3, H, W] in [-1, 1].

        Args:
            x: the images.
            condition: [N], in 0 .. K - 1; not looked at where there are none to tell apart.
        """
        features = self.features(x)
        scores: Tensor = self.score(features).squeeze(-1)
        if self.projection is None:
            return scores
        assert condition is not None, "the critic judges by a condition"
        direction = self.projection(condition).view(len(x), *[1] * (features.dim() - 2), -1)
        return scores + (features * direction).sum(-1)

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
        """Return what else the critic minimizes on (augmented) real images, a scalar [].

        Called right after they were judged, beside as many fakes or before them.
        """
        return x_real.new_zeros(())

    def extra_generator_loss(self, draws: Draws) -> Tensor:
        """Return what else the generator minimizes on the images judged last, a scalar []."""
        return self.score.weight.new_zeros(())

    def __call__(self, x: Tensor, condition: Tensor | None = None) -> Tensor:  # typed
        """Run `forward` and its hooks."""
        return super().__call__(x, condition)


@torch.no_grad()
def generate(
    generator: Generator,
    z: Tensor,
    condition: Tensor | None = None,
    batch_size: int = 64,
    truncation: float = 1.0,
) -> Tensor:
    """Return a generator's images [N, 3, H, W], uint8, in eval mode.

    Args:
        generator: left in the mode it is in.
        z: latents [N, z_dim].
        condition: numbers [N] of their conditions; None for the generator's chosen one.
        batch_size: images drawn at a time.
        truncation: psi of `Generator.truncate`.
    """
    was_training = generator.training
    points = generator.eval().points(z.to(next(generator.parameters())), condition)
    parts = generator.truncate(points, truncation, condition).split(batch_size)
    images = torch.cat([to_uint8(generator.render(part)) for part in parts])
    generator.train(was_training)
    return images


def embedding(n: int, length: int, std: float, numbers: torch.Generator) -> nn.Embedding:
    """Return vectors [n, length] of N(0, std^2), drawn by a generator of its own."""
    vectors = nn.Embedding(n, length)
    nn.init.normal_(vectors.weight, std=std, generator=numbers)
    return vectors


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


class RescalesWeights:
    """Marks layers that compute with other weights than they store, as equalized rates do."""


def mixes_images(critic: nn.Module) -> bool:
    """Whether a score depends on the other images of the batch: real and fake go apart then."""
    kinds = (nn.modules.batchnorm._BatchNorm, MixesImages)
    return any(isinstance(module, kinds) for module in critic.modules())
