"""Exact intervals, discrimination, agreement and power: the numbers of a reader study."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import beta, binom, norm, t
from sklearn.metrics import cohen_kappa_score

LEVEL = 0.05
MOST = 100_000  # images that any study could have

Row = dict[str, Any]


def rate(k: float, n: float) -> Row | None:
    """Return a share with its exact 95 % interval (Clopper and Pearson 1934); None of nothing."""
    if n == 0:
        return None
    low = beta.ppf(LEVEL / 2, k, n - k + 1) if k > 0 else 0.0
    high = beta.isf(LEVEL / 2, k + 1, n - k) if k < n else 1.0
    return {"k": k, "n": n, "value": k / n, "interval": [float(low), float(high)]}


def effective(values: NDArray[np.float64], patients: Sequence[str]) -> float:
    """Return how many independent images would tell the mean of these as well.

    As images of one patient are alike, they tell less than as many of different ones: n over the
    design effect, and less still with few patients (Korn and Graubard 1998). Where all values are
    equal, which hides it, the number of patients.

    Args:
        values: one an image [N].
        patients: of each [N].
    """
    names, of = np.unique(np.asarray(patients, str), return_inverse=True)
    n, g = len(values), len(names)
    if g == n:
        return n
    apart = values - values.mean()
    variance = (apart**2).sum() / (n - 1)
    if g == 1 or variance == 0:
        return g
    among = (np.bincount(of, apart) ** 2).sum() * g / (g - 1) / n
    few = (t.isf(LEVEL / 2, n - 1) / t.isf(LEVEL / 2, g - 1)) ** 2
    return float(n / max(1, among / variance) * few)


def d_prime(hits: int, n_signal: int, alarms: int, n_noise: int) -> tuple[float, float]:
    """Return d' and the criterion c, log-linear corrected (Hautus 1995), so that both are finite.

    Args:
        hits: generated images called synthetic.
        n_signal: of so many.
        alarms: real images called synthetic.
        n_noise: of so many.
    """
    hit = float(norm.ppf((hits + 0.5) / (n_signal + 1)))
    alarm = float(norm.ppf((alarms + 0.5) / (n_noise + 1)))
    return hit - alarm, -(hit + alarm) / 2


def auroc(signal: NDArray[np.float64], noise: NDArray[np.float64], patients: Sequence[str]) -> Row:
    """Return how often a generated image looks more synthetic than a real one, ties halved.

    The interval is method 5 of Newcombe (2006), which unlike a bootstrap has a width at 1, too.

    Args:
        signal: signed confidence [P] that generated images are synthetic.
        noise: the same [N] of real ones.
        patients: of the real ones [N].
    """
    wins = (np.sign(signal[:, None] - noise[None]) + 1) / 2  # [P, N]
    value, p = float(wins.mean()), len(signal)
    found = {"value": value, "interval": _newcombe(value, p, len(noise))}
    if len(set(patients)) == len(noise):
        return found | {"patient_interval": None}
    # Each real image's share of wins is its part in the AUROC's variance (DeLong et al. 1988).
    e = effective(wins.mean(0), patients)
    return found | {"patient_interval": _newcombe(value, p, e)}


def _newcombe(value: float, p: float, n: float) -> list[float]:
    z, mean = norm.isf(LEVEL / 2), (p + n) / 2 - 1

    def low(value: float) -> float:
        def above(x: float) -> float:
            spread = 1 + mean * ((1 - x) / (2 - x) + x / (1 + x))
            return float(x + z * np.sqrt(x * (1 - x) * spread / (p * n)) - value)

        return float(brentq(above, 0, min(value, 1 - 1e-9))) if value > 0 else 0.0

    return [low(value), 1 - low(1 - value)]


def fleiss_kappa(counts: NDArray[np.int64]) -> float | None:
    """Return Fleiss' kappa (1971); None if all chose one category, where it is not defined.

    Args:
        counts: how many readers chose each category for each image [N, categories].
    """
    readers = counts[0].sum()
    seen = (counts * (counts - 1)).sum() / (len(counts) * readers * (readers - 1))
    chance = float(((counts.sum(0) / counts.sum()) ** 2).sum())
    return None if chance == 1 else float((seen - chance) / (1 - chance))


def cohen_kappa(a: Sequence[str], b: Sequence[str]) -> float | None:
    """Return Cohen's kappa (1960) of two readers; None if both gave one answer only."""
    if len({*a, *b}) < 2:
        return None  # not defined
    return float(cohen_kappa_score(a, b))


def power_of(n: int | NDArray[np.int64], accuracy: float) -> Any:
    """Return how surely a reader of some accuracy is told from guessing, by an exact test.

    Two-sided at 0.05, of n images of which half are real.
    """
    least = binom.isf(LEVEL / 2, n, 0.5) + 1  # right answers that guessing hardly brings
    return binom.sf(least - 1, n, accuracy) + binom.cdf(n - least, n, accuracy)


def check_size(n: int) -> None:
    """Refuse a number of images that no study can have.

    Raises:
        ValueError: if it is odd, or below 4.
    """
    if not isinstance(n, int) or n < 4 or n % 2:
        raise ValueError(f"n must be even and at least 4, got {n}")


def images_needed(accuracy: float, power: float) -> int:
    """Return from which even number of images on a study has some power.

    Power goes up and down with n, as counts are whole; here it stays above for all larger n.

    Raises:
        ValueError: if a share is out of range, or no study is large enough.
    """
    if not 0.5 < accuracy < 1:
        raise ValueError(f"accuracy must be between 0.5 (guessing) and 1, got {accuracy}")
    if not 0 < power < 1:
        raise ValueError(f"power must be between 0 and 1, got {power}")
    n = np.arange(2, MOST, 2)
    weak = np.flatnonzero(power_of(n, accuracy) < power)
    if len(weak) == len(n) or weak[-1] == len(n) - 1:
        raise ValueError(
            f"accuracy={accuracy} would need more than {MOST:,} images; name a higher one"
        )
    return int(n[weak[-1] + 1]) if len(weak) else 2
