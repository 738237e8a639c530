"""Which of several groups of runs is best, and how sure one can be: statistics over seeds.

A measurement is one run's score, lower is better, with the 95 % interval that its own images
leave. The unit of what is said of a model is the run: intervals and tests are over seeds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, studentized_range
from scipy.stats import t as student

from mbgan.latents import seed_of
from mbgan.metrics.floor import detectable

LEVEL = 0.05  # of all tests of one ranking together


@dataclass(frozen=True)
class Measurement:
    """One run's score.

    Attributes:
        seed: of the run.
        value: the score.
        low: lower end of its own 95 % interval.
        high: upper end.
    """

    seed: int
    value: float
    low: float
    high: float

    @property
    def sd(self) -> float:
        """Return the standard deviation that the interval stands for, as if it were normal."""
        return (self.high - self.low) / (2 * float(norm.ppf(0.975)))


@dataclass(frozen=True)
class Estimate:
    """A group's mean score with its 95 % interval.

    Attributes:
        mean: over seeds.
        low: lower end.
        high: upper end.
        n_seeds: runs of different seeds behind it.
        over: what the interval is over, "seeds", or of one run "images".
    """

    mean: float
    low: float
    high: float
    n_seeds: int
    over: str


@dataclass(frozen=True)
class Comparison:
    """Two groups' scores at equal seeds.

    Attributes:
        a: name of the group with the lower mean over all its seeds; `difference` is a less b.
        b: name of the other.
        difference: mean over the seeds that both have, else of the two groups' means.
        low: lower end of its 95 % interval (paired t); None without one.
        high: upper end.
        n_pairs: seeds that both have.
        p: of the paired t test; None without one.
        p_holm: the same, corrected for all comparisons of this ranking (Holm 1979).
        reason: why there is no test.
    """

    a: str
    b: str
    difference: float
    low: float | None = None
    high: float | None = None
    n_pairs: int = 0
    p: float | None = None
    p_holm: float | None = None
    reason: str = ""


def by_seed(runs: Sequence[Measurement]) -> list[Measurement]:
    """Return one measurement a seed, in order: the mean of those that repeat one.

    Raises:
        ValueError: if there are none.
    """
    if not runs:
        raise ValueError("a group must have at least 1 run with a score, got 0")
    found = []
    for seed in sorted({run.seed for run in runs}):
        same = [(run.value, run.low, run.high) for run in runs if run.seed == seed]
        found.append(Measurement(seed, *map(float, np.mean(same, axis=0))))
    return found


def estimate(runs: Sequence[Measurement]) -> Estimate:
    """Return the mean over seeds with Student's interval; of one seed, the run's own interval.

    Raises:
        ValueError: if there are no runs.
    """
    runs = by_seed(runs)
    values = np.array([run.value for run in runs])
    if len(runs) == 1:
        return Estimate(runs[0].value, runs[0].low, runs[0].high, 1, "images")
    mean, reach = float(values.mean()), reach_of(values)
    return Estimate(mean, mean - reach, mean + reach, len(runs), "seeds")


def reach_of(values: NDArray[np.float64]) -> float:
    """Return half the width of Student's 95 % interval of the mean of values [n], n at least 2."""
    n = len(values)
    return float(student.ppf(0.975, n - 1) * values.std(ddof=1) / n**0.5)


def probability_of_best(
    groups: Mapping[str, Sequence[Measurement]], draws: int = 20_000
) -> dict[str, float]:
    """Return for each group how likely its mean over all seeds is the lowest.

    Each group's mean is drawn from what its runs leave open: Student's t about the mean of its
    seeds, with the larger of two spreads: that among seeds, and that which each run's own interval
    stands for (two seeds may agree by chance). One seed tells nothing of others: it is given the
    spread among seeds of the groups that have several, pooled, beside its own; if none has, its
    own alone, and the probability is of these runs only. Ends of 0 and 1 mean under 1 in `draws`.

    Args:
        groups: measurements by name.
        draws: of every group's mean.

    Raises:
        ValueError: if a group is empty.
    """
    if not groups:
        return {}
    seeds = {name: by_seed(runs) for name, runs in groups.items()}
    several = [np.array([r.value for r in runs]) for runs in seeds.values() if len(runs) > 1]
    pooled_df = sum(len(values) - 1 for values in several)
    pooled = sum(float(v.var(ddof=1)) * (len(v) - 1) for v in several) / max(pooled_df, 1)
    rng, means = np.random.default_rng(seed_of("best")), []
    for runs in seeds.values():
        values, own = np.array([r.value for r in runs]), np.mean([r.sd**2 for r in runs])
        n = len(runs)
        if n > 1:
            spread, df = max(float(values.var(ddof=1)), float(own)), n - 1
        else:
            spread, df = pooled + float(own), pooled_df
        noise = rng.standard_t(df, draws) if df else rng.standard_normal(draws)
        means.append(values.mean() + (spread / n) ** 0.5 * noise)
    table = np.stack(means)
    lowest = table == table.min(axis=0)  # equal ones share
    return dict(zip(seeds, (lowest / lowest.sum(axis=0)).mean(axis=1).tolist(), strict=True))


def compare_pairs(groups: Mapping[str, Sequence[Measurement]]) -> list[Comparison]:
    """Return each pair of groups, compared at the seeds that both have, by a paired t test.

    Runs of equal seed share their order of images and the latents that score them. P-values are
    corrected for all pairs together (Holm 1979), so that the chance of any false finding in the
    ranking is at most LEVEL. The lower mean stands first.

    Raises:
        ValueError: if a group is empty.
    """
    seeds = {name: by_seed(runs) for name, runs in groups.items()}
    order = sorted(seeds, key=lambda name: np.mean([run.value for run in seeds[name]]))
    found = [pair(a, seeds[a], b, seeds[b]) for a, b in combinations(order, 2)]
    tested = [i for i, comparison in enumerate(found) if comparison.p is not None]
    corrected = holm([found[i].p or 0.0 for i in tested])
    for i, p_holm in zip(tested, corrected, strict=True):
        found[i] = Comparison(**{**vars(found[i]), "p_holm": p_holm})
    return found


def pair(a: str, runs_a: list[Measurement], b: str, runs_b: list[Measurement]) -> Comparison:
    """Return two groups, one measurement a seed, compared by a paired t test."""
    value_a, value_b = ({run.seed: run.value for run in runs} for runs in (runs_a, runs_b))
    common = sorted(value_a.keys() & value_b.keys())
    if len(common) < 2:
        rough = float(np.mean([*value_a.values()]) - np.mean([*value_b.values()]))
        n = {0: "no seed", 1: "1 seed"}[len(common)]
        reason = f"a paired test needs at least 2 seeds that both have, got {n}"
        return Comparison(a, b, rough, n_pairs=len(common), reason=reason)
    differences = np.array([value_a[seed] - value_b[seed] for seed in common])
    mean, error = float(differences.mean()), float(differences.std(ddof=1)) / len(common) ** 0.5
    if error <= 1e-12 * abs(mean):
        reason = "all differences are equal, as of runs that are copies: no spread to test by"
        return Comparison(a, b, mean, n_pairs=len(common), reason=reason)
    reach = reach_of(differences)
    p = float(2 * student.sf(abs(mean) / error, len(common) - 1))
    return Comparison(a, b, mean, mean - reach, mean + reach, len(common), p)


def resampled_pair(differences: Sequence[float], test_share: float) -> Comparison:
    """Return the mean of differences between folds, by the corrected resampled t test.

    Training sides of folds overlap, so that their differences are no independent draws: the
    variance of the mean is taken as (1 / J + n_test / n_train) times their variance (Nadeau &
    Bengio 2003, sec. 3, "corrected resampled t-test"), not 1 / J times.

    Args:
        differences: of J folds, over all repeats, at least 2.
        test_share: n_test / n_train, above 0.

    Raises:
        ValueError: if there are too few, or the share is out of range.
    """
    values = np.asarray(differences, dtype=float)
    if len(values) < 2:
        raise ValueError(f"a test over folds needs at least 2 of them, got {len(values)}")
    if not test_share > 0:
        raise ValueError(f"test_share must be above 0, got {test_share}")
    n, mean, sd = len(values), float(values.mean()), float(values.std(ddof=1))
    if sd <= 1e-12 * max(1, abs(mean)):
        reason = "all differences are equal: no spread to test by"
        return Comparison("", "", mean, n_pairs=n, reason=reason)
    error = (1 / n + test_share) ** 0.5 * sd
    reach = float(student.ppf(0.975, n - 1)) * error
    p = float(2 * student.sf(abs(mean) / error, n - 1))
    return Comparison("", "", mean, mean - reach, mean + reach, n, p)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number, in the order given (Holm 1979).

    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p, kind="stable")
    steps = p[order] * (len(p) - np.arange(len(p)))
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return corrected.tolist()


def smallest_kid_difference(floor: Mapping[str, object], n_real: int) -> float | None:
    """Return the difference of two generators' KIDs that n_real images can tell apart at best.

    Args:
        floor: of KID in scores.json: range, splits, n_each. The range of so many normal numbers
            is that of the studentized range times their standard deviation, which at equal
            distributions shrinks as 1 / n (KID is then a degenerate U-statistic).
        n_real: held-out images of a full score.

    Returns:
        The difference, see `metrics.floor.detectable`; None without a floor.
    """
    ends, splits, n_each = (floor.get(key) for key in ("range", "splits", "n_each"))
    if not (isinstance(ends, list) and isinstance(splits, int) and isinstance(n_each, int)):
        return None
    if splits < 2:
        return None
    sd = (ends[1] - ends[0]) / float(studentized_range.ppf(0.5, splits, np.inf))
    return detectable(sd * n_each / n_real)
