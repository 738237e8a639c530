"""KID over images of both steps, with intervals over seeds: python collect.py RUNS."""

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd
from scipy import stats

HERE = Path(__file__).parent
KID = "kid/efficientnet_lite2"
NAMES = {"fast": "fast (the default)", "plain": "plain, float32"}


def main(runs: str) -> None:
    """Write results.csv, a row a step and an evaluation, and figures/curves.png."""
    rows = []
    for path in sorted(Path(runs).glob("*/metrics.jsonl")):
        step, seed = path.parent.name.split("-")
        wall_s = json.loads((path.parent / "run.json").read_text())["wall_s"]
        for row in map(json.loads, path.read_text().splitlines()):
            rows.append(
                {"step": step, "seed": int(seed), "images_seen": row["images_seen"]}
                | {"kid": row[KID], "n_real": row["n_real"], "n_fake": row["n_fake"]}
                | {"wall_s": wall_s}
            )
    table = pd.DataFrame(rows)
    table.to_csv(HERE / "runs.csv", index=False, float_format="%.5g")
    groups = table[table["images_seen"] > 0].groupby(["step", "images_seen"])["kid"]
    summary = groups.agg(["count", "mean", "std", "min", "max"])
    t = stats.t.ppf(0.975, summary["count"] - 1)
    half = t * summary["std"] / summary["count"] ** 0.5
    summary["low"], summary["high"] = summary["mean"] - half, summary["mean"] + half
    plain = summary.loc["plain"]
    for step in summary.index.levels[0]:
        ours = summary.loc[step]
        inside = ours["mean"].between(plain["low"], plain["high"]) & plain["mean"].between(
            ours["low"], ours["high"]
        )
        summary.loc[step, "each_in_the_others_interval"] = inside.to_numpy()
    summary.reset_index().to_csv(HERE / "results.csv", index=False, float_format="%.4g")
    print(summary.to_string())
    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    for color, (step, name) in zip(("C0", "C1"), NAMES.items(), strict=True):
        ours = summary.loc[step]
        axes.fill_between(ours.index, ours["min"], ours["max"], color=color, alpha=0.2, lw=0)
        axes.plot(ours.index, ours["mean"], color=color, label=name)
    axes.set(xlabel="images seen", ylabel="KID (EfficientNet-Lite2)", ylim=(0, None))
    axes.legend(frameon=False, title="mean and range of three seeds")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(HERE / "figures" / "curves.png", dpi=110)


if __name__ == "__main__":
    main(sys.argv[1])
