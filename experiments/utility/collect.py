"""Write results.csv, differences.csv and figures/ of the studies in OUT: python collect.py OUT.

results.csv has a row a study, classifier, arm and score, with mean and standard deviation over
folds; differences.csv one a pair of arms, with the paired difference and its interval.
"""

import json
import shutil
import sys
from pathlib import Path

import pandas as pd

COLUMNS = {
    "means": ["study", "classifier", "title", "score", "mean", "sd", "n_folds"],
    "comparisons": [
        *("study", "classifier", "score", "a", "b", "difference", "low", "high", "p", "p_holm"),
        *("word", "n_pairs"),
    ],
}


def main(out: str) -> None:
    """Read each study's utility.json, and take over its charts of differences."""
    here, parts = Path(__file__).parent, {"means": [], "comparisons": []}
    (here / "figures").mkdir(exist_ok=True)
    for study in ("oral", "phantom"):
        path = Path(out) / study / "utility.json"
        if not path.is_file():
            continue
        found = json.loads(path.read_text())
        for score in ("balanced_accuracy", "recall"):
            chart = path.parent / "figures" / f"difference_{score}.png"
            shutil.copy(chart, here / "figures" / f"{study}_{score}.png")
        for key, rows in parts.items():
            rows += [row | {"study": study} for row in found[key] if row["score"] in found["names"]]
    for key, name in (("means", "results.csv"), ("comparisons", "differences.csv")):
        table = pd.DataFrame(parts[key], columns=COLUMNS[key]).round(4)
        table.to_csv(here / name, index=False)


if __name__ == "__main__":
    main(sys.argv[1])
