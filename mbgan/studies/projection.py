"""Projection of images into a generator's latent space: which image of its own is most like them?

A generator that copies draws its training images better than held-out ones of the same kind: the
two sets' distances tell (latent recovery, Webster et al. 2019). Its own images, projected alike,
tell how near the search comes to an image that the generator certainly draws.

Tried on two generators of 64 x 64 tissue: the distance below ends at 0.03 for their own images and
0.15 for real ones. Styles w, searched freely, come nearer to real images than latents, but by blurs
that no latent gives. Features of EfficientNet-Lite0 keep the texture, lose layout and color, and
take five times as long.
"""

import logging
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.stats import mannwhitneyu
from torch import Tensor
from torch.nn import functional as F

from mbgan.data.datamodule import MagnificationDataModule
from mbgan.data.folder import ImageFile
from mbgan.gan import generate
from mbgan.images import Rows, from_uint8, to_uint8
from mbgan.latents import fixed_latents, seed_of
from mbgan.networks import Generator

log = logging.getLogger(__name__)
CANDIDATES = 256  # random latents that a search may start from
LR = 0.1  # of Adam (Karras et al. 2020, app. D); at 0.03 and 0.3 the mean distance ends higher
SMALLEST = 8  # pixels, side of the coarsest scale


@dataclass(frozen=True)
class Projected:
    """What a generator can make of N images, on the CPU.

    Attributes:
        images: [N, 3, S, S], uint8.
        distances: of each from its target, [N]; see `pyramid`.
    """

    images: Tensor
    distances: Tensor


def project(
    generator: Generator,
    targets: Tensor,
    steps: int,
    seed: int,
    candidates: int = CANDIDATES,
    batch_size: int = 32,
) -> Projected:
    """Search the latents whose images are most like the targets, each by itself.

    From the best of some random latents, by Adam, with a rate that falls to 0 over the second
    half. Latents stay on the sphere of radius sqrt(z_dim), where N(0, I) has nearly all its mass:
    off it the generator draws what it never would (Menon et al. 2020).

    Args:
        generator: in eval mode; its weights get no gradients.
        targets: images [N, 3, S, S], uint8.
        steps: of Adam.
        seed: of the random latents.
        candidates: random latents to start from, `fixed_latents` from index 0 on.
        batch_size: targets searched at a time.

    Raises:
        ValueError: if steps is under 1, or the targets are not of the generator's size.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    side = generator.image_size
    if targets.shape[1:] != (3, side, side):
        raise ValueError(f"targets must be [N, 3, {side}, {side}], got {list(targets.shape)}")
    weight = next(generator.parameters())
    random = on_sphere(fixed_latents(range(candidates), generator.z_dim, seed).to(weight))
    with torch.no_grad():
        seen = torch.cat(
            [pyramid(generator.render(generator.points(z))) for z in random.split(batch_size)]
        )
    images, distances = [], []
    for part in targets.split(batch_size):
        wanted = pyramid(from_uint8(part.to(weight.device), weight.dtype))
        start = random[torch.stack([(seen - row).norm(dim=1).argmin() for row in wanted])]
        with torch.no_grad():
            z = search(generator, wanted, start, steps)
            found = generator.render(generator.points(z))
        images.append(to_uint8(found).cpu())
        distances.append((pyramid(found) - wanted).norm(dim=1).cpu())
    return Projected(torch.cat(images), torch.cat(distances))


@torch.enable_grad()
def search(generator: Generator, wanted: Tensor, start: Tensor, steps: int) -> Tensor:
    """Return latents [N, z_dim] whose images' pyramids come near those wanted [N, F]."""
    z = start.clone().requires_grad_(True)
    optimizer = torch.optim.Adam([z])
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = LR * min(1, 2 * (1 - step / steps))
        x = generator.render(generator.points(on_sphere(z)))
        error = (pyramid(x) - wanted).square().sum()
        (z.grad,) = torch.autograd.grad(error, z)
        optimizer.step()
    return on_sphere(z.detach())


def on_sphere(z: Tensor) -> Tensor:
    """Return latents z [N, z_dim] at the length sqrt(z_dim)."""
    return F.normalize(z, dim=1) * math.sqrt(z.shape[1])


def pyramid(x: Tensor) -> Tensor:
    """Return images [N, 3, S, S] in [-1, 1] as vectors [N, F] that say how alike images are.

    The distance of two is the root mean square over pixels, and over the scales of S, S / 2, ...,
    8 pixels: in [0, 2], the unit of x.
    """
    levels = [x]
    while levels[-1].shape[-1] > SMALLEST:
        levels.append(F.avg_pool2d(levels[-1], 2))
    vectors = [level.flatten(1) for level in levels]
    return torch.cat([v / math.sqrt(v.shape[1] * len(levels)) for v in vectors], 1)


def project_sides(
    generator: Generator, datamodule: MagnificationDataModule, n: int, steps: int, seed: int
) -> tuple[list[tuple[Tensor, Tensor]], dict[str, Any]]:
    """Project training images, held-out ones and the generator's own, n of each at random.

    Args:
        generator: in eval mode.
        datamodule: the data it trained on.
        n: images of each kind; all where there are fewer.
        steps: of the search.
        seed: of the choice and of the latents.

    Returns:
        Targets and reconstructions of each kind, and by kind what was found: n, the files,
        distances and their median; "probability" and "p" of `copying` beside them.
    """
    own = fixed_latents(range(CANDIDATES, CANDIDATES + n), generator.z_dim, seed)
    chosen: dict[str, tuple[Tensor, list[str]]] = {
        "train": choose(datamodule.train, datamodule.train_files, n, seed, generator.chosen),
        "held_out": choose(datamodule.test, datamodule.test_files, n, seed, generator.chosen),
        "generated": (generate(generator, own).cpu(), []),
    }
    for kind, (targets, _) in chosen.items():
        if not len(targets):
            raise ValueError(
                f"projection needs an image of each kind, got none that is {kind.replace('_', ' ')}"
                " of this condition; choose another with class= or magnification="
            )
    pairs: list[tuple[Tensor, Tensor]] = []
    found: dict[str, Any] = {}
    distances: dict[str, Tensor] = {}
    for kind, (targets, files) in chosen.items():
        log.info("projecting %d %s images", len(targets), kind.replace("_", "-"))
        projected = project(generator, targets, steps, seed)
        pairs.append((targets, projected.images))
        distances[kind] = projected.distances
        found[kind] = {
            "n": len(targets),
            "median": float(projected.distances.quantile(0.5)),
            "distances": projected.distances.tolist(),
            "files": files,
        }
    return pairs, found | copying(distances["train"], distances["held_out"])


def choose(
    images: Rows, files: list[ImageFile], n: int, seed: int, condition: int | None
) -> tuple[Tensor, list[str]]:
    """Return n random images [n, 3, S, S], uint8, or all there are, and their files' names.

    Those of one condition, or of any if it is None.
    """
    order = np.random.default_rng(seed_of(seed, "projected")).permutation(len(images))
    if condition is not None:
        order = order[images.conditions[order] == condition]
    rows = np.sort(order[:n])
    return torch.from_numpy(images[rows]), [files[i].name for i in rows]


def copying(train: Tensor, held_out: Tensor) -> dict[str, float]:
    """Return how far training images are nearer to their projections than held-out ones.

    Args:
        train: distances [n_train].
        held_out: distances [n_held_out].

    Returns:
        "probability" that a training image is nearer than a held-out one, 0.5 where nothing is
        memorized, and "p", one-sided, of the Mann-Whitney test that takes images as independent.
    """
    test = mannwhitneyu(held_out.numpy(), train.numpy(), alternative="greater")
    pairs = len(train) * len(held_out)
    return {"probability": float(test.statistic) / pairs, "p": float(test.pvalue)}


def verdict(found: dict[str, Any]) -> str:
    """Return a line for people of what `project_sides` found."""
    train, held_out, own = (found[kind] for kind in ("train", "held_out", "generated"))
    return (
        f"a training image is nearer to its projection than a held-out one with probability "
        f"{found['probability']:.2f} (0.5: nothing memorized; p = {found['p']:.2g}, n = "
        f"{train['n']} and {held_out['n']}); median distances {train['median']:.3f} and "
        f"{held_out['median']:.3f}, {own['median']:.3f} of the generator's own images"
    )
