"""What classifiers of several arms are worth, and whether arms differ: scores and paired tests."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import balanced_accuracy_score, f1_score, recall_score, roc_auc_score

from mbgan.studies.ranking import LEVEL, holm, resampled_pair

Row = dict[str, Any]
BINS = 10  # of confidence, for the calibration error
LOWER_IS_BETTER = ("ece", "brier")
HEADLINE = "balanced_accuracy"
NAMES = {
    "balanced_accuracy": "balanced accuracy",
    "auroc": "AUROC",
    "f1": "macro F1",
    "ece": "calibration error",
    "brier": "Brier score",
}


def score(p: NDArray[np.float64], y: NDArray[np.int64], classes: Sequence[str]) -> dict[str, float]:
    """Return the scores of predicted shares; of each class, too, as recall/NAME and so on.

    Args:
        p: predicted share of each class [N, K]; rows sum to 1.
        y: true class [N], every one of 0 .. K - 1 among them.
        classes: names [K].
    """
    guess, one_hot = p.argmax(1), np.eye(len(classes))[y]
    recall = recall_score(y, guess, labels=range(len(classes)), average=None, zero_division=0)
    f1 = f1_score(y, guess, labels=range(len(classes)), average=None, zero_division=0)
    auroc = [float(roc_auc_score(one_hot[:, k], p[:, k])) for k in range(len(classes))]
    found = {
        "balanced_accuracy": float(balanced_accuracy_score(y, guess)),
        "auroc": float(np.mean(auroc)),
        "f1": float(np.mean(f1)),
        "ece": calibration_error(p, y),
        "brier": float(((p - one_hot) ** 2).sum(1).mean()),
    }
    for k, name in enumerate(classes):
        found |= {
            f"recall/{name}": float(recall[k]),
            f"auroc/{name}": auroc[k],
            f"f1/{name}": float(f1[k]),
        }
    return found


def calibration_error(p: NDArray[np.float64], y: NDArray[np.int64]) -> float:
    """Return the expected calibration error of p [N, K] (Guo et al. 2017, eq. 3), BINS bins.

    >>> calibration_error(np.array([[0.75, 0.25]] * 4), np.array([0, 0, 0, 1]))
    0.0
    """
    confidence, right = p.max(1), p.argmax(1) == y
    place = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = [abs(float((right[place == b] - confidence[place == b]).sum())) for b in set(place)]
    return float(np.sum(gaps) / len(y))


def loss(p: NDArray[np.float64], y: NDArray[np.int64]) -> float:
    """Return the cross-entropy of p [N, K] where every class weighs the same: what tunes."""
    surprise = -np.log(np.clip(p[np.arange(len(y)), y], 1e-12, 1))
    return float(np.mean([surprise[y == k].mean() for k in np.unique(y)]))


def means(table: pd.DataFrame) -> pd.DataFrame:
    """Return mean and standard deviation over folds of each arm's scores, arms in their order.

    Args:
        table: utility.csv, a row a fold, arm, classifier and score.
    """
    keys = ["train_share", "classifier", "arm", "ratio", "title", "score"]
    found = table.groupby(keys, sort=False)["value"].agg(["mean", "std", "count"])
    return found.reset_index().rename(columns={"std": "sd", "count": "n_folds"})


def comparisons(table: pd.DataFrame) -> list[Row]:
    """Return the paired differences of arms at equal folds, higher better unless the score's not.

    Each arm against real, and synthetic against classical beside the real ones at each ratio. P
    is corrected for all pairs of one score (Holm 1979).
    """
    found = []
    for (share, classifier, name), part in table.groupby(
        ["train_share", "classifier", "score"], sort=False
    ):
        values = part.pivot_table(index=["repeat", "fold"], columns="title", values="value")
        titles = list(dict.fromkeys(part["title"]))
        pairs = [(title, "real") for title in titles if title != "real"]
        pairs += [
            (title, title.replace("synthetic", "classical"))
            for title in titles
            if title.startswith("real + synthetic")
        ]
        test_share = float((part["n_test"] / part["n_train"]).mean())
        rows = []
        for a, b in pairs:
            both = (values[a] - values[b]).dropna()
            if len(both) < 2:
                continue
            pair = replace(resampled_pair(both.tolist(), test_share), a=a, b=b)
            head = {"train_share": share, "classifier": classifier, "score": name}
            rows.append(head | asdict(pair) | {"folds": both.tolist()})
        tested = [row for row in rows if row["p"] is not None]
        for row, p in zip(tested, holm([row["p"] for row in tested]), strict=True):
            row["p_holm"] = p
        found += [row | {"word": word(row)} for row in rows]
    return found


def word(row: Row) -> str:
    """Return what a paired difference says."""
    if row["p_holm"] is None:
        return "no difference" if row["difference"] == 0 else str(row["reason"])
    if row["p_holm"] >= LEVEL:  # its interval, which is not corrected, may still leave out 0
        return "not told apart" + (" once corrected" if row["p"] < LEVEL else "")
    better = (row["difference"] > 0) != (row["score"] in LOWER_IS_BETTER)
    return "better" if better else "worse"
