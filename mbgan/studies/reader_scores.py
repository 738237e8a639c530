"""What the answers of a reader study say: how well real and generated images were told apart."""

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom, binomtest, fisher_exact, norm
from sklearn.metrics import cohen_kappa_score

from mbgan.studies.reader_answers import REAL, SYNTHETIC

LEVEL = 0.05
RESAMPLES = 2000
MOST = 100_000  # images that any study could have

Row = dict[str, Any]


def score_readers(key: Row, readers: Sequence[Row]) -> Row:
    """Return the scores of each reader, of all together, and of each image.

    Only the first answer to an image counts; the second tells whether a reader agrees with himself.

    Args:
        key: of the study.
        readers: the checked answers of each.
    """
    first = {r["reader"]: _first(r["answers"]) for r in readers}
    return {
        "version": 1,
        "study": key["study"],
        "n_images": len(key["images"]),
        "readers": [_reader(key, r["reader"], r["answers"]) for r in readers],
        "together": _together(key, first) if len(readers) > 1 else None,
        "agreement": _agreement(first) if len(readers) > 1 else None,
        "images": _images(key, first),
    }


def rate(k: int, n: int) -> Row | None:
    """Return a share with its exact 95 % interval (Clopper and Pearson 1934); None of nothing."""
    if n == 0:
        return None
    found = binomtest(k, n).proportion_ci(1 - LEVEL, method="exact")
    return {"k": k, "n": n, "value": k / n, "interval": [float(found.low), float(found.high)]}


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


def auroc(signal: NDArray[np.float64], noise: NDArray[np.float64]) -> Row:
    """Return how often a generated image looks more synthetic than a real one, ties halved.

    Args:
        signal: signed confidence [P] that generated images are synthetic.
        noise: the same [N] of real ones.

    Returns:
        The value, and a percentile bootstrap interval over the images of each kind.
    """
    wins = (np.sign(signal[:, None] - noise[None]) + 1) / 2  # [P, N]
    rng = np.random.default_rng(0)
    p, n = (
        rng.multinomial(len(x), np.full(len(x), 1 / len(x)), RESAMPLES) for x in (signal, noise)
    )
    drawn = ((p @ wins) * n).sum(1) / wins.size  # [RESAMPLES]
    return {"value": float(wins.mean()), "interval": _middle(drawn)}


def fleiss_kappa(counts: NDArray[np.int64]) -> float | None:
    """Return Fleiss' kappa (1971); None if all chose one category, where it is not defined.

    Args:
        counts: how many readers chose each category for each image [N, categories].
    """
    readers = counts[0].sum()
    seen = (counts * (counts - 1)).sum() / (len(counts) * readers * (readers - 1))
    chance = float(((counts.sum(0) / counts.sum()) ** 2).sum())
    return None if chance == 1 else float((seen - chance) / (1 - chance))


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


def _first(answers: Sequence[Row]) -> dict[str, Row]:
    found = dict[str, Row]()
    for answer in answers:
        found.setdefault(answer["image"], answer)
    return found


def _right(key: Row, answer: Row) -> bool:
    return bool(answer["answer"] == key["images"][answer["image"]]["truth"])


def _signed(answer: Row) -> int:
    return int(answer["confidence"]) * (1 if answer["answer"] == SYNTHETIC else -1)


def _reader(key: Row, name: str, answers: Sequence[Row]) -> Row:
    first = list(_first(answers).values())
    sides = {
        truth: [a for a in first if key["images"][a["image"]]["truth"] == truth]
        for truth in (SYNTHETIC, REAL)
    }
    right = {truth: sum(_right(key, a) for a in side) for truth, side in sides.items()}
    n = {truth: len(side) for truth, side in sides.items()}
    accuracy = rate(sum(right.values()), len(first))
    p = float(binomtest(sum(right.values()), len(first)).pvalue)
    found = {
        "reader": name,
        "n_left": len(key["trials"]) - len(answers),
        "accuracy": accuracy,
        "p": p,
        "verdict": _verdict(accuracy, p),
        "sensitivity": rate(right[SYNTHETIC], n[SYNTHETIC]),
        "specificity": rate(right[REAL], n[REAL]),
        **{"auroc": None, "d_prime": None, "criterion": None},
        "consistency": _consistency(answers),
        "halves": _halves(key, first),
        "class_accuracy": _classes(key, first),
        "median_s": float(np.median([a["ms"] for a in first]) / 1000),
    }
    if all(n.values()):
        alarms = n[REAL] - right[REAL]
        d, c = d_prime(right[SYNTHETIC], n[SYNTHETIC], alarms, n[REAL])
        signal, noise = (np.array([_signed(a) for a in side], float) for side in sides.values())
        found |= {"auroc": auroc(signal, noise), "d_prime": d, "criterion": c}
    return found


def _verdict(accuracy: Row | None, p: float) -> str:
    assert accuracy is not None, "a file without answers is refused"
    low, high = accuracy["interval"]
    if p >= LEVEL:
        return f"not told from guessing; an accuracy up to {high:.0%} is not excluded"
    if accuracy["value"] > 0.5:
        return f"tells them apart: right in {low:.0%} at least"
    return f"takes one for the other: right in {high:.0%} at most, less than by guessing"


def _consistency(answers: Sequence[Row]) -> Row | None:
    """Return how often images that came twice got the same answer."""
    first = _first(answers)
    again = [a for a in answers if first[a["image"]] is not a]
    return rate(sum(a["answer"] == first[a["image"]]["answer"] for a in again), len(again))


def _halves(key: Row, first: Sequence[Row]) -> Row | None:
    """Return accuracy and speed before and after the middle of what was answered."""
    middle = len(first) // 2
    if middle == 0:
        return None
    parts = first[:middle], first[middle:]
    right = [sum(_right(key, a) for a in part) for part in parts]
    table = [[k, len(part) - k] for k, part in zip(right, parts, strict=True)]
    return {
        "accuracy": [rate(k, len(part)) for k, part in zip(right, parts, strict=True)],
        "p": float(fisher_exact(table).pvalue),
        "median_s": [float(np.median([a["ms"] for a in part]) / 1000) for part in parts],
    }


def _classes(key: Row, first: Sequence[Row]) -> Row | None:
    """Return how often the class was right, of images whose class is one that was asked for."""
    classes = key["classes"]
    known = [a for a in first if key["images"][a["image"]]["class"] in classes]
    return rate(sum(a["class"] == key["images"][a["image"]]["class"] for a in known), len(known))


def _together(key: Row, first: dict[str, dict[str, Row]]) -> Row:
    """Return the mean accuracy of these readers, with an interval over images."""
    means = [np.mean([_right(key, a) for a in answers.values()]) for answers in first.values()]
    names = sorted(set[str]().union(*first.values()))
    seen = np.array([[name in answers for name in names] for answers in first.values()])
    right = np.array(
        [
            [name in answers and _right(key, answers[name]) for name in names]
            for answers in first.values()
        ]
    )
    rng = np.random.default_rng(0)
    weights = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), RESAMPLES)
    with np.errstate(invalid="ignore"):  # a reader of few images may have none of a draw
        drawn = np.nanmean((weights @ right.T) / (weights @ seen.T), axis=1)
    return {"accuracy": {"value": float(np.mean(means)), "interval": _middle(drawn)}}


def _agreement(first: dict[str, dict[str, Row]]) -> Row:
    """Return Cohen's kappa of each pair of readers, and Fleiss' of all on what all answered."""
    pairs = []
    for (a, one), (b, other) in combinations(first.items(), 2):
        both = sorted(set(one) & set(other))
        answers = [[side[name]["answer"] for name in both] for side in (one, other)]
        same = rate(sum(x == y for x, y in zip(*answers, strict=True)), len(both))
        pairs.append({"readers": [a, b], "same": same, "kappa": _cohen(*answers)})
    all_saw = sorted(set.intersection(*(set(answers) for answers in first.values())))
    counts = [
        [
            sum(answers[name]["answer"] == word for answers in first.values())
            for word in (REAL, SYNTHETIC)
        ]
        for name in all_saw
    ]
    fleiss = fleiss_kappa(np.array(counts)) if counts else None
    return {"fleiss_kappa": fleiss, "n_images": len(all_saw), "pairs": pairs}


def _cohen(a: list[str], b: list[str]) -> float | None:
    if len({*a, *b}) < 2:
        return None  # not defined where both gave one answer only
    return float(cohen_kappa_score(a, b))


def _images(key: Row, first: dict[str, dict[str, Row]]) -> list[Row]:
    """Return a row an image that anybody answered, the most mistaken first."""
    rows = []
    for name, image in key["images"].items():
        answers = [side[name] for side in first.values() if name in side]
        if answers:
            right = sum(_right(key, a) for a in answers)
            rows.append(
                {
                    **{"image": name, **image, "n_readers": len(answers), "n_right": right},
                    "mean_score": float(np.mean([_signed(a) for a in answers])),
                    "median_s": float(np.median([a["ms"] for a in answers]) / 1000),
                    "notes": [a["note"] for a in answers if a["note"]],
                }
            )

    def surely_right(row: Row) -> float:
        return float(row["mean_score"] if row["truth"] == SYNTHETIC else -row["mean_score"])

    return sorted(rows, key=lambda row: (row["n_right"] / row["n_readers"], surely_right(row)))


def _middle(drawn: NDArray[np.float64]) -> list[float]:
    return [float(x) for x in np.nanquantile(drawn, [LEVEL / 2, 1 - LEVEL / 2])]
