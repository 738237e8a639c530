"""Does a generator copy its training images? Fakes against held-out reals, as a control.

A generator trained with turned and mirrored images copies them turned and mirrored, and features
of a turned image lie about as far from the upright one as those of another image do. So training
images stand here in all eight poses: features [8, N, F]; one pose alone, [1, N, F], will do where
nothing was turned. Extract them so:

    features = torch.stack([extractor.extract(pose).features for pose in poses(images)])

No score tells copies from a narrow generator with certainty: look at the nearest pairs, too.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from scipy.stats import hypergeom, mannwhitneyu, norm
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from mbgan.metrics.axes import principal_axes
from mbgan.metrics.neighbors import blocks, nearest

# Of all tests of a verdict together: at most 5 % false alarms, though training images come as pairs
# of mutual neighbors, which makes their test fire more often than it says.
LEVEL = 0.03
TAIL, LEAST_TAIL = 0.05, 10  # images that a test looks at: a share of all, and at least so many
COPYING = 0.25  # share of copies from which on a generator is called copying
Word = Literal["fine", "suspicious", "copying"]
RULE = (
    f"suspicious: among the closest {TAIL:.0%} (at least {LEAST_TAIL}) of fakes and a control more "
    f"are fakes than by chance (hypergeometric test, {LEVEL:.0%} over all tests); closeness is "
    "feature distance and structural similarity to the nearest training image in any pose, "
    "controls are held-out images and each training image against the others. copying: besides, "
    f"{COPYING:.0%} of fakes too many are closer than {1 - TAIL:.0%} of training images to others, "
    "in a measure in which that control's test fires. fine: no test fires."
)


class Match(NamedTuple):
    """The nearest training image of each of M images.

    Attributes:
        distance: to it, in features [M], float64.
        image: its number [M] among the training images.
        pose: the pose [M], 0..7, in which it is nearest.
    """

    distance: Tensor
    image: Tensor
    pose: Tensor


class CopyTest(NamedTuple):
    """Z of the Mann-Whitney test, far below 0 for copies, and its one-sided p."""

    z: float
    p: float


@dataclass(frozen=True)
class Verdict:
    """Whether fakes are copies, and by which numbers.

    Attributes:
        word: fine, suspicious or copying.
        share: of fakes that are copies, by the measure that finds most of them.
        p_values: of each test: MEASURE/CONTROL.
        level: below which a p value fires.
        rule: how the word follows from the numbers.
    """

    word: Word
    share: float
    p_values: dict[str, float]
    level: float
    rule: str = RULE


def poses(images: Tensor) -> Tensor:
    """Return images [..., S, S] in the eight poses of the square, [8, ..., S, S].

    Bit 0 of the first index mirrors left-right, bit 1 top-bottom, bit 2 swaps the axes.
    """
    flips = ((), (-1,), (-2,), (-2, -1))
    upright = [images.flip(axes) for axes in flips]
    return torch.stack([*upright, *(x.mT for x in upright)])


def nearest_pose(train: Tensor, x: Tensor) -> Match:
    """Return the nearest training image of each image x, and the pose in which it is nearest.

    Args:
        train: features [P, N, F] of training images in P poses, at least 2 images.
        x: features [M, F].

    Raises:
        ValueError: if features do not fit together, are not finite or all equal.
    """
    check(train, x=x)
    n = train.shape[1]
    distance, place = nearest(x, train.flatten(0, 1))
    return Match(distance, place % n, place // n)


def match_others(train: Tensor) -> Match:
    """Return the nearest other training image of each: how far real images are from strangers.

    Args:
        train: features [P, N, F] of training images in P poses, at least 2 images; the images in
            their first pose are matched with the others in all.

    Raises:
        ValueError: as `nearest_pose`.
    """
    check(train)
    count, n, _ = train.shape
    parts = []
    for rows, block in blocks(train[0], train.flatten(0, 1)):
        every, line = block.view(-1, count, n), torch.arange(len(block))
        every[line, :, torch.arange(n)[rows]] = torch.inf  # itself, in all poses
        distance, place = block.min(1)
        parts.append((distance, place % n, place // n))
    return Match(*(torch.cat(part) for part in zip(*parts, strict=True)))


def authenticity(train: Tensor, x: Tensor) -> float:
    """Return the share of images that are authentic, in [0, 1] (Alaa et al. 2022, sec. 4.3).

    One is authentic if it lies farther from its nearest training image than that lies from the
    nearest other one. Other poses of one image are no others. Held-out images are far from 1,
    too: compare with them.

    Args:
        train: features [P, N, F] of training images in P poses, at least 2 images.
        x: features [M, F] of fakes, or of held-out images.

    Raises:
        ValueError: as `nearest_pose`.
    """
    found = nearest_pose(train, x)
    spacing = match_others(train).distance[found.image]
    return float((found.distance > spacing).double().mean())


def copy_test(train: Tensor, held_out: Tensor, fake: Tensor, components: int = 64) -> CopyTest:
    """Return whether fakes lie nearer to the training images than held-out ones (C_T).

    Meehan et al. 2020, eq. 1, with one cell: Z of the Mann-Whitney U that counts the pairs in
    which the fake is farther. Finds a shift of all fakes, hardly one copy in ten; above 0 the
    generator falls short of the data.

    Args:
        train: features [P, N, F] of training images in P poses, at least 2 images.
        held_out: features [n_real, F].
        fake: features [n_fake, F].
        components: of the PCA of training features in which distances are taken; 64 in the paper.

    Raises:
        ValueError: as `nearest_pose`.
    """
    check(train, held_out=held_out, fake=fake)
    axes = principal_axes(train.flatten(0, 1), components)
    reference = axes.project(train.flatten(0, 1))
    distances = [nearest(axes.project(x), reference)[0] for x in (fake, held_out)]
    n, m = len(fake), len(held_out)
    u = mannwhitneyu(*(d.numpy() for d in distances)).statistic
    z = float((u - n * m / 2) / (n * m * (n + m + 1) / 12) ** 0.5)
    return CopyTest(z, float(norm.cdf(z)))


def similarity(found: Match, train_images: Tensor, images: Tensor) -> Tensor:
    """Return the structural similarity [M] of images and their matches (Wang et al. 2004).

    About 1 for a copy in the same pose; other fields of one tissue mostly under 0.1.

    Args:
        found: the match of each image.
        train_images: [N, 3, S, S], uint8.
        images: [M, 3, S, S], uint8.

    Raises:
        ValueError: if images have another size or type.
    """
    if train_images.shape[1:] != images.shape[1:] or len(images) != len(found.image):
        raise ValueError(
            f"images must be one per match, {len(found.image)}, and of the training images' size, "
            f"got {list(images.shape)} and training images {list(train_images.shape)}"
        )
    if train_images.dtype != torch.uint8 or images.dtype != torch.uint8:
        raise ValueError(
            f"images must be uint8, got {train_images.dtype} and {images.dtype}; see to_uint8"
        )
    values = []
    for rows in torch.arange(len(images)).split(32):
        originals = [poses(train_images[found.image[i]])[found.pose[i]] for i in rows]
        pair = images[rows].float(), torch.stack(originals).float()
        value = structural_similarity_index_measure(*pair, reduction="none", data_range=255.0)
        values.append(torch.as_tensor(value).double())
    return torch.cat(values)


def verdict(
    train: Tensor,
    held_out: Tensor,
    fake: Tensor,
    images: tuple[Tensor, Tensor, Tensor] | None = None,
) -> Verdict:
    """Return whether the generator copies; the rule is `RULE`.

    Two controls, since either may mislead: held-out images of other patients lie farther from the
    training images than a good generator's fakes; doubles among the training images lie as near
    to each other as copies do.

    Args:
        train: features [P, N, F] of training images in P poses, at least 2 images.
        held_out: features [n_real, F], at least 2.
        fake: features [n_fake, F], at least 2.
        images: of train, held_out and fake, [N, 3, S, S], uint8; None leaves similarity out.

    Raises:
        ValueError: as `nearest_pose` and `similarity`.
    """
    check(train, held_out=held_out, fake=fake)
    found = nearest_pose(train, fake), nearest_pose(train, held_out), match_others(train)
    measures = {"distance": [m.distance for m in found]}
    if images is not None:
        train_images, held_out_images, fake_images = images
        sides = zip(found, (fake_images, held_out_images, train_images), strict=True)
        measures["similarity"] = [-similarity(m, train_images, x) for m, x in sides]
    p_values = {}
    for name, (fakes, *controls) in measures.items():
        for control, values in zip(("held_out", "train"), controls, strict=True):
            p_values[f"{name}/{control}"] = closer(fakes, values)
    level = LEVEL / len(p_values)
    share = {name: excess(fakes, control) for name, (fakes, _, control) in measures.items()}
    copying = [share[m] >= COPYING and p_values[f"{m}/train"] < level for m in measures]
    suspicious: Word = "suspicious" if min(p_values.values()) < level else "fine"
    return Verdict("copying" if any(copying) else suspicious, max(share.values()), p_values, level)


def closer(x: Tensor, control: Tensor) -> float:
    """Return p that so many of the smallest numbers are from x, were both of one distribution.

    Exact, since any order of exchangeable numbers is as likely as another. Looks at the smallest
    twentieth of both, where one copy in ten shows and a mean would not; at least at ten.

    Args:
        x: numbers [N].
        control: numbers [M].
    """
    n, m = len(x), len(control)
    tail = min(n + m, max(LEAST_TAIL, round(TAIL * (n + m))))
    order = torch.cat([control, x]).argsort(stable=True)  # of equal numbers the control's first
    return float(hypergeom.sf(int((order[:tail] >= m).sum()) - 1, n + m, n, tail))


def excess(x: Tensor, control: Tensor) -> float:
    """Return the share [0, 1] of x below the control's lowest twentieth, less what is usual."""
    below = float((x < control.quantile(TAIL)).double().mean())
    return max(0.0, (below - TAIL) / (1 - TAIL))


def check(train: Tensor, **sides: Tensor) -> None:
    """Refuse features that tell nothing.

    Args:
        train: features [P, N, F].
        sides: other features [M, F], by the name of the argument.

    Raises:
        ValueError: naming the argument, the rule and the value.
    """
    if train.ndim != 3 or train.shape[1] < 2:
        raise ValueError(
            f"train must be features [poses, N, F] of at least 2 images, "
            f"got {list(train.shape)}; features.unsqueeze(0) makes a single pose"
        )
    for name, x in sides.items():
        if x.ndim != 2 or len(x) < 2 or x.shape[1] != train.shape[2]:
            raise ValueError(
                f"{name} must be features [N, {train.shape[2]}] of at least 2 images, "
                f"got {list(x.shape)}"
            )
    for name, x in {"train": train, **sides}.items():
        if bad := int((~x.isfinite()).any(-1).sum()):
            raise ValueError(f"{name} must be finite, got NaN or infinity in {bad} rows")
    if (train == train[:, :1]).all():
        raise ValueError(
            f"train must hold images that differ, got {train.shape[1]} with equal features; "
            "are they one image, or is the extractor broken?"
        )
