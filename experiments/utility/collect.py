"""Write results.csv of the studies in OUT: python collect.py OUT.

A row a study, classifier, arm and score: mean and standard deviation over folds, and the paired
difference to real images with its interval.
"""

import json
import sys
from pathlib import Path

import pandas as pd


def main(out: str) -> None:
    """Read each study's utility.json."""
    rows = []
    for name in ("oral", "phantom"):
        path = Path(out) / name / "utility.json"
        if not path.is_file():
            continue
        study = json.loads(path.read_text())
        keys = ("train_share", "classifier", "score")
        against = {
            (*(row[key] for key in keys), row["a"]): row
            for row in study["comparisons"]
            if row["b"] == "real"
        }
        for row in study["means"]:
            if row["score"] not in study["names"]:
                continue
            found = against.get((*(row[key] for key in keys), row["title"]), {})
            rows.append(
                {"study": name}
                | {key: row[key] for key in ("classifier", "title", "score", "mean", "sd")}
                | {key: found.get(key) for key in ("difference", "low", "high", "p_holm", "word")}
                | {"n_folds": row["n_folds"]}
            )
    table = pd.DataFrame(rows).round(4)
    table.to_csv(Path(__file__).parent / "results.csv", index=False)


if __name__ == "__main__":
    main(sys.argv[1])
