"""Scores from features that exist already: how far two sets are apart, and how diverse one is."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.image.inception import InceptionScore

from mbgan.latents import generator_of, seed_of


class Given(nn.Identity):
    """Stands where torchmetrics wants a network: the images it is handed are features."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features


def fid(real: Tensor, fake: Tensor) -> float:
    """Return the Frechet distance of Gaussians fitted to features (Heusel et al. 2017, eq. 6).

    Biased upwards by small samples: two sets of 150 images of one distribution are far from 0.

    Args:
        real: features [n_real, F], float64, at least 2.
        fake: features [n_fake, F], float64, at least 2.
    """
    check_sizes(real, fake)
    return max(0.0, float(frechet(real[None].double(), fake[None].double())[0]))


def frechet(x: Tensor, y: Tensor) -> Tensor:
    """Return Frechet distances [B] of samples x [B, N, F] and y [B, M, F], many at once.

    The trace of (S_x S_y)^(1/2) is the sum of the singular values of R_x R_y^T, where S = R^T R: a
    hundred times as fast for 150 images as the eigenvalues of S_x S_y, of which most are 0. R is
    the centered sample, or, where there are more images than features, its triangle.
    """
    means = [side.mean(1, keepdim=True) for side in (x, y)]
    roots = [
        (side - mean) / (side.shape[1] - 1) ** 0.5 for side, mean in zip((x, y), means, strict=True)
    ]
    roots = [torch.linalg.qr(r).R if r.shape[1] > r.shape[2] else r for r in roots]
    variances = sum(root.square().sum((1, 2)) for root in roots)
    common = torch.linalg.svdvals(roots[0] @ roots[1].mT).sum(1)
    return (means[0] - means[1]).square().sum((1, 2)) + variances - 2 * common


def diversity(real: Tensor, fake: Tensor) -> float:
    """Return the mean squared distance from a fake to its nearest other fake, over the reals' own.

    About 1 for equal distributions at equal n, 0 where the fakes are one image or a few, however
    far those lie apart: the mean over all pairs still finds two images half as diverse as many.

    Args:
        real: features [n_real, F], float64, at least 2.
        fake: features [n_fake, F], float64, at least 2.
    """
    check_sizes(real, fake)
    nearest = []
    for features in (fake, real):
        distances = torch.cdist(features, features).fill_diagonal_(torch.inf)
        nearest.append(distances.min(1).values.square().mean())
    return float(nearest[0] / nearest[1])


def vendi(x: Tensor) -> float:
    """Return how many images, all unlike each other, would be as diverse as these (Vendi score).

    exp of the entropy of the eigenvalues of K / N, K the cosines of features (Friedman & Dieng
    2023, def. 3.1): 1 for equal images, N for orthogonal ones. It grows with N.

    Args:
        x: features [N, F], at least one, none of them 0.

    Raises:
        ValueError: if there is no image, or one without features.
    """
    if not len(x) or not x.any(1).all():
        raise ValueError(
            f"vendi needs images with features other than 0, got {len(x)} images, "
            f"{int((~x.any(1)).sum())} of them with none"
        )
    unit = F.normalize(x.double())
    kernel = unit @ unit.T if len(x) <= x.shape[1] else unit.T @ unit  # the same eigenvalues
    return float(torch.special.entr(torch.linalg.eigvalsh(kernel / len(x)).clamp(0, 1)).sum().exp())


def vendi_ratio(real: Tensor, fake: Tensor) -> float:
    """Return the Vendi score of the fakes over the reals' own, at equal n.

    About 1 for equal distributions; the larger side gives a random part.

    Args:
        real: features [n_real, F], at least 2.
        fake: features [n_fake, F], at least 2.
    """
    check_sizes(real, fake)
    n, generator = min(len(real), len(fake)), generator_of("vendi")
    scores = [
        vendi(settled(x)[torch.randperm(len(x), generator=generator)[:n]]) for x in (fake, real)
    ]
    return scores[0] / scores[1]


def inception_score(logits: Tensor) -> float:
    """Return exp E[KL(p(y|x) || p(y))] (Salimans et al. 2016), at least 1.

    Args:
        logits: class logits [N, classes]; the mean over (up to) 10 equal parts is returned.

    Raises:
        ValueError: if the extractor has no classes.
    """
    if logits.shape[1] == 0:
        raise ValueError(
            "inception_score needs an extractor with a classifier, got one without; take "
            "extractor=inception or efficientnet_lite0 for it"
        )
    splits = min(10, len(logits))
    metric = InceptionScore(Given(logits.shape[1]), splits=splits, sync_on_compute=False)
    with torch.random.fork_rng(devices=[]):  # torchmetrics shuffles with the global generator
        torch.manual_seed(seed_of("inception_score"))
        metric.update(settled(logits))
        return float(metric.compute()[0])


def settled(x: Tensor) -> Tensor:
    """Return x [N, ...] in an order of its own, so that a draw of some does not depend on theirs.

    By place along a random direction: by length, say, a draw would be of short or long ones.
    """
    flat = x.flatten(1).double()
    direction = torch.randn(flat.shape[1], generator=generator_of("settled"), dtype=torch.float64)
    return x[(flat @ direction).argsort(stable=True)]


def check_sizes(real: Tensor, fake: Tensor) -> None:
    """Refuse samples without a variance.

    Raises:
        ValueError: if a side has fewer than 2 images.
    """
    if min(len(real), len(fake)) < 2:
        raise ValueError(
            "scores need at least 2 images on each side, "
            f"got n_real={len(real)}, n_fake={len(fake)}"
        )
