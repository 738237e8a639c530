"""Can an outsider tell training images from held-out ones? A membership attack, and its AUROC."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata
from torch import Tensor

from mbgan.metrics.neighbors import nearest

Values = NDArray[np.float64]


def auroc(members: Values, others: Values) -> float:
    """Return how often a member's suspicion is the higher one; ties count half; 0.5 is chance."""
    ranks, n, m = rankdata(np.concatenate([members, others])), len(members), len(others)
    return float((ranks[:n].sum() - n * (n + 1) / 2) / (n * m))


def closeness(images: Tensor, fakes: Tensor) -> Values:
    """Return how near each image [N, F] comes to a fake [M, F], in features: less the distance.

    The attack of one who has generated images alone (GAN-Leaks; Chen et al. 2020, sec. 4.1).
    """
    return -nearest(images, fakes)[0].numpy()


def interval(
    members: Values,
    others: Values,
    groups: tuple[Sequence[str], Sequence[str]],
    resamples: int = 1000,
) -> tuple[float, float]:
    """Return a 95 % interval of the AUROC: percentiles over resampled groups of each side.

    Args:
        members: suspicion of training images [N].
        others: of held-out images [M].
        groups: patient of each, or a name of its own where patients are unknown.
        resamples: of the bootstrap.
    """
    rng = np.random.default_rng(0)

    def drawn(values: Values, names: Sequence[str]) -> Values:
        known, places = np.unique(np.array(names), return_inverse=True)
        chosen = rng.integers(0, len(known), len(known))
        return np.concatenate([values[places == i] for i in chosen])

    found = [auroc(drawn(members, groups[0]), drawn(others, groups[1])) for _ in range(resamples)]
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)
