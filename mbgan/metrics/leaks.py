"""Leaks of augmentation: do generated images show what real ones never do, only augmented ones?

A generator whose images are augmented before the critic sees them may learn to draw borders,
holes and colors that belong to the augmentation (Karras et al. 2020, sec. 2.2).

Each trace is a number per image that one kind of augmentation raises. An image bears the trace if
its number is over what 95 % of real images have, and not over what any augmented one has: what
lies further out is another fault, such as noise. If generated images were real ones, a share
`rate` of them augmented, they would bear it in (1 - rate) * share_real + rate * share_augmented.

The rule: a trace leaks if (1) augmented images bear it more often than real ones, (2) so do
generated ones, (3) but these not more often than augmented ones, and (4) its rate is over 0.1;
"more often" is by Fisher's exact test at 1 % over all traces. A trace without (1) tells nothing of
this augmentation; one without (3) is a fault of the generator's own, such as a wrong color.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from scipy.stats import fisher_exact
from torch import Tensor
from torch.nn import functional as F

from mbgan.images import from_uint8

LEAST = 20  # images on each side: with fewer, no share is known to within 0.2
LEVEL = 0.01  # of error, over all traces together
LEAST_RATE = 0.1
SMALL = 1e-6


@dataclass(frozen=True)
class Trace:
    """How many images bear a trace of augmentation.

    Attributes:
        name: border, hole, color, saturation, contrast or pose.
        share_real: of real images, of those that set the threshold.
        share_augmented: of augmented real images.
        share_fake: of generated images.
        shown: whether the augmentation leaves this trace at all.
        leaks: whether generated images bear it, by the rule above.
    """

    name: str
    share_real: float
    share_augmented: float
    share_fake: float
    shown: bool
    leaks: bool

    @property
    def rate(self) -> float:
        """Return the share of generated images that would have to be augmented; NaN if untold."""
        if not self.shown:
            return float("nan")
        return (self.share_fake - self.share_real) / (self.share_augmented - self.share_real)


def find_leaks(real: Tensor, augmented: Tensor, fake: Tensor) -> list[Trace]:
    """Compare generated images with real and with augmented real ones, trace by trace.

    Every second real image says what is usual, the others set the thresholds.

    Args:
        real: images [n_real, 3, S, S], uint8, not augmented; best those that were held out.
        augmented: images [n, 3, S, S], uint8, such as real ones augmented as in training.
        fake: generated images [n_fake, 3, S, S], uint8.

    Raises:
        ValueError: if a side has fewer than 20 images.
    """
    sizes = {"n_real": len(real) // 2, "n_augmented": len(augmented), "n_fake": len(fake)}
    if min(sizes.values()) < LEAST:
        raise ValueError(
            f"leaks can be told from at least {2 * LEAST} real, {LEAST} augmented and {LEAST} "
            f"generated images, got {len(real)}, {len(augmented)} and {len(fake)}"
        )
    null, augmented, fake = (from_uint8(x) for x in (real[1::2], augmented, fake))
    traces = fit_traces(from_uint8(real[::2]))
    level = LEVEL / len(traces)
    return [
        compare(name, trace(null), trace(augmented), trace(fake), level)
        for name, trace in traces.items()
    ]


def verdict(traces: list[Trace]) -> str:
    """Return a line for people: which traces leak, and how far."""
    leaks = [
        f"{t.name} in {t.share_fake:.0%} of generated images ({t.share_real:.0%} of real, "
        f"{t.share_augmented:.0%} of augmented ones)"
        for t in traces
        if t.leaks
    ]
    return f"augmentation leaks: {'; '.join(leaks)}" if leaks else "no leak of augmentation"


def compare(name: str, null: Tensor, augmented: Tensor, fake: Tensor, level: float) -> Trace:
    """Return one trace from its numbers [N] in real, augmented and generated images.

    Args:
        name: of the trace.
        null: real images that had no part in defining it.
        augmented: augmented images.
        fake: generated images.
        level: of each test.
    """
    low, high = torch.quantile(null, 0.95), augmented.max()
    bear = [int(((s > low) & (s <= high)).sum()) for s in (null, augmented, fake)]
    n_null, n_augmented, n_fake = len(null), len(augmented), len(fake)
    share_real, share_augmented, share_fake = (
        count / n for count, n in zip(bear, (n_null, n_augmented, n_fake), strict=True)
    )

    def more(count: int, n: int, count_base: int, n_base: int) -> bool:
        table = [[count, n - count], [count_base, n_base - count_base]]
        return bool(fisher_exact(table, alternative="greater").pvalue < level)

    in_null, in_augmented, in_fake = bear
    shown = more(in_augmented, n_augmented, in_null, n_null)
    trace = Trace(name, share_real, share_augmented, share_fake, shown, leaks=False)
    leaks = (
        shown
        and more(in_fake, n_fake, in_null, n_null)
        and not more(in_fake, n_fake, in_augmented, n_augmented)
        and trace.rate > LEAST_RATE
    )
    return replace(trace, leaks=leaks)


def fit_traces(usual: Tensor) -> dict[str, Callable[[Tensor], Tensor]]:
    """Return the traces by name: functions of images [N, 3, S, S] in [-1, 1] to numbers [N].

    Args:
        usual: real images [N, 3, S, S] in [-1, 1], from which color and pose are measured.
    """
    center, spread = usual.mean((2, 3)).mean(0), usual.mean((2, 3)).T.cov()
    precision = torch.linalg.inv(spread + SMALL * torch.eye(3))
    saturation_usual, contrast_usual = saturation(usual).median(), contrast(usual).median()
    maps = pattern(usual).mean(0)
    poses = [p for m in (maps, maps.T) for p in (m, m.flip(0), m.flip(1), m.flip(0, 1))]
    upright = maps - torch.stack(poses).mean(0)  # [8, 8], what turning takes away

    def color(x: Tensor) -> Tensor:
        away = x.mean((2, 3)) - center  # [N, 3]
        return (away @ precision * away).sum(1)  # squared Mahalanobis distance

    return {
        "border": border,
        "hole": hole,
        "color": color,
        "saturation": lambda x: (saturation(x) - saturation_usual).abs(),
        "contrast": lambda x: (contrast(x) - contrast_usual).abs(),
        "pose": lambda x: -(pattern(x) * upright).sum((1, 2)),
    }


def border(x: Tensor) -> Tensor:
    """Return how much nearer to 0, the padding, the emptiest line beside an edge is than the image.

    In log units of mean squares, [N] for images [N, 3, S, S]. The line next to the outermost: this
    one is pale in many a generator, whose convolutions find zeros beyond it.
    """
    lines = torch.stack([x[:, :, 1], x[:, :, -2], x[..., 1], x[..., -2]])  # [4, N, 3, S]
    emptiest = lines.square().mean((2, 3)).amin(0)
    return -torch.log(emptiest / (x.square().mean((1, 2, 3)) + SMALL) + SMALL)


def hole(x: Tensor) -> Tensor:
    """Return how much nearer to 0 the emptiest square of a quarter of the side is than the image.

    In log units of mean squares, [N] for images [N, 3, S, S].
    """
    side = x.shape[2] // 4
    squares = F.avg_pool2d(x.square().mean(1, keepdim=True), side, stride=max(1, side // 4))
    emptiest = squares.amin((1, 2, 3))
    return -torch.log(emptiest / (x.square().mean((1, 2, 3)) + SMALL) + SMALL)


def saturation(x: Tensor) -> Tensor:
    """Return the log of the mean spread over red, green and blue [N] of images [N, 3, S, S]."""
    return torch.log(x.std(1).mean((1, 2)) + SMALL)


def contrast(x: Tensor) -> Tensor:
    """Return the log of the spread over pixels [N] of images [N, 3, S, S]."""
    return torch.log(x.std((1, 2, 3)) + SMALL)


def pattern(x: Tensor) -> Tensor:
    """Return images [N, 3, S, S] as 8 x 8 grays of mean 0 and norm 1, [N, 8, 8]."""
    gray = F.adaptive_avg_pool2d(x.mean(1, keepdim=True), 8)[:, 0]
    gray = gray - gray.mean((1, 2), keepdim=True)
    return gray / (gray.norm(dim=(1, 2), keepdim=True) + SMALL)
