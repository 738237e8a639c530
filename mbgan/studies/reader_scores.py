"""What the answers of a reader study say: how well real and generated images were told apart."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

import numpy as np
from scipy.stats import fisher_exact

from mbgan.studies.reader_answers import REAL, SYNTHETIC
from mbgan.studies.reader_statistics import (
    Row,
    auroc,
    cohen_kappa,
    d_prime,
    effective,
    fleiss_kappa,
    rate,
)


def score_readers(key: Row, readers: Sequence[Row]) -> Row:
    """Return the scores of each reader, of all together, and of each image.

    Only the first answer to an image counts; the second tells whether a reader agrees with himself.

    Args:
        key: of the study.
        readers: the checked answers of each.
    """
    first = {r["reader"]: _first(r["answers"]) for r in readers}
    known = [row["patient"] for row in key["images"].values() if row.get("patient")]
    return {
        "version": 1,
        "study": key["study"],
        "n_images": len(key["images"]),
        "n_patients": len(set(known)) or None,
        "n_patient_known": len(known),  # real images; the others count as of a patient each
        "readers": [_reader(key, r["reader"], r["answers"]) for r in readers],
        "mean_accuracy": _together(key, first) if len(readers) > 1 else None,
        "agreement": _agreement(first) if len(readers) > 1 else None,
        "images": _images(key, first),
    }


def _first(answers: Sequence[Row]) -> dict[str, Row]:
    found = dict[str, Row]()
    for answer in answers:
        found.setdefault(answer["image"], answer)
    return found


def _right(key: Row, answer: Row) -> bool:
    return bool(answer["answer"] == key["images"][answer["image"]]["truth"])


def _signed(answer: Row) -> int:
    return int(answer["confidence"]) * (1 if answer["answer"] == SYNTHETIC else -1)


def _patients(key: Row, images: Iterable[str]) -> list[str]:
    """Return the patient of each image; a name of its own for a generated one, or if unknown."""
    return [key["images"][name].get("patient") or f"image {name}" for name in images]


def _sizes(key: Row, values: Mapping[str, float]) -> dict[str, tuple[int, float]]:
    """Return how many images each side has, and to how many independent ones that comes."""
    found = dict[str, tuple[int, float]]()
    for truth in (SYNTHETIC, REAL):
        names = [name for name in values if key["images"][name]["truth"] == truth]
        told = np.array([values[name] for name in names], float)
        found[truth] = len(names), effective(told, _patients(key, names)) if names else 0.0
    return found


def _by_patient(share: Row | None, *sizes: tuple[int, float]) -> Row | None:
    """Return a share, with the interval that as many independent images would give it."""
    if share is None or all(n == e for n, e in sizes):
        return share and share | {"patient_interval": None}
    # Each side's part of the variance falls with its own number.
    n = share["n"] * sum(n for n, _ in sizes) / sum(n**2 / e for n, e in sizes if n)
    found = rate(share["value"] * n, n)
    return share | {"patient_interval": found and found["interval"]}


def _reader(key: Row, name: str, answers: Sequence[Row]) -> Row:
    first = list(_first(answers).values())
    sides = {
        truth: [a for a in first if key["images"][a["image"]]["truth"] == truth]
        for truth in (SYNTHETIC, REAL)
    }
    right = {truth: sum(_right(key, a) for a in side) for truth, side in sides.items()}
    sizes = _sizes(key, {a["image"]: _right(key, a) for a in first})
    n = {truth: len(side) for truth, side in sides.items()}
    accuracy = _by_patient(rate(sum(right.values()), len(first)), *sizes.values())
    found = {
        "reader": name,
        "n_left": len(key["trials"]) - len(answers),
        "accuracy": accuracy,
        "verdict": _verdict(accuracy),
        "sensitivity": rate(right[SYNTHETIC], n[SYNTHETIC]),
        "specificity": _by_patient(rate(right[REAL], n[REAL]), sizes[REAL]),
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
        patients = _patients(key, (a["image"] for a in sides[REAL]))
        found |= {"auroc": auroc(signal, noise, patients), "d_prime": d, "criterion": c}
    return found


def _verdict(accuracy: Row | None) -> str:
    assert accuracy is not None, "a file without answers is refused"
    low, high = accuracy["patient_interval"] or accuracy["interval"]
    if low > 0.5:
        return f"tells them apart: right in {low:.0%} at least"
    if high < 0.5:
        return f"takes one for the other: right in {high:.0%} at most, less than by guessing"
    return f"not told from guessing; an accuracy up to {high:.0%} is not excluded"


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
    """Return the mean accuracy of these readers; other images of the same kind would move it so."""
    right = [{name: _right(key, a) for name, a in answers.items()} for answers in first.values()]
    value = float(np.mean([np.mean(list(reader.values())) for reader in right]))
    names = sorted(set[str]().union(*right))
    mean = {n: float(np.mean([reader[n] for reader in right if n in reader])) for n in names}
    sizes = _sizes(key, mean)
    # Several readers, unless they all agree, tell more of an image than one does.
    spread = float(np.var(list(mean.values())))
    n = len(names) * (min(float(len(right)), value * (1 - value) / spread) if spread else 1.0)
    found = _by_patient(rate(value * n, n), *sizes.values())
    assert found is not None, "a file without answers is refused"
    return {name: found[name] for name in ("value", "interval", "patient_interval")}


def _agreement(first: dict[str, dict[str, Row]]) -> Row:
    """Return Cohen's kappa of each pair of readers, and Fleiss' of all on what all answered."""
    pairs = []
    for (a, one), (b, other) in combinations(first.items(), 2):
        both = sorted(set(one) & set(other))
        answers = [[side[name]["answer"] for name in both] for side in (one, other)]
        same = rate(sum(x == y for x, y in zip(*answers, strict=True)), len(both))
        pairs.append({"readers": [a, b], "same": same, "kappa": cohen_kappa(*answers)})
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
