"""The curves, and the tables of README.md and question.md: python figures.py."""

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

HERE = Path(__file__).parent


def results() -> pd.DataFrame:
    """Return the scored runs with their group, and the run that each repeats with another seed."""
    rows = pd.read_csv(HERE / "results.csv").merge(pd.read_csv(HERE / "runs.csv"), on="name")
    rows["of"] = rows["name"].str.replace(r"_seed\d+$", "", regex=True)
    return rows


def curves() -> None:
    """Draw KID against CPU minutes, one line a preset; training goes at an even pace."""
    runs = pd.read_csv(HERE / "runs.csv").set_index("name")
    figure, axes = plt.subplots(figsize=(8, 4.2), layout="constrained")
    for name, curve in pd.read_csv(HERE / "curves.csv").groupby("name", sort=False):
        if runs.loc[name, "group"] != "presets" or "_seed" in name:
            continue
        minutes = 10 * curve["images_seen"] / runs.loc[name, "images"]
        axes.plot(minutes, 1000 * curve["kid/efficientnet_lite2"], marker="o", ms=3, label=name)
    axes.set(
        xlabel="CPU minutes of training",
        ylabel="KID x 1000, EfficientNet-Lite2 (n = 200 each)",
        yscale="log",
    )
    axes.yaxis.set_major_formatter("{x:.0f}")
    axes.yaxis.set_minor_formatter("{x:.0f}")
    axes.grid(alpha=0.3, which="both")
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(HERE / "figures/curves.png", dpi=150)


def table(rows: pd.DataFrame, head: str) -> str:
    """Return runs as Markdown, best by EfficientNet-Lite2 first; of several seeds, the mean.

    One run stands with its standard error over images, several with their range over seeds.

    Args:
        rows: of `results`.
        head: name of the first column.
    """
    scores = ["KID x 1000, Lite2", "KID x 1000, Lite0", "precision", "recall", "coverage"]
    lines = [" | ".join(["", head, "images seen", *scores, ""]).strip()]
    lines.append("|---" * (len(scores) + 2) + "|")
    groups = [group for _, group in rows.groupby("of")]
    for group in sorted(groups, key=lambda group: group["kid_lite2"].mean()):
        own = " (its own)" if "model=projected" in group["words"].iloc[0] else ""
        cells = [f"`{group['of'].iloc[0]}`", f"{group['images_seen'].iloc[0]:,}"]
        cells += [spread(group, "lite2"), spread(group, "lite0") + own]
        cells += [f"{group[key].mean():.2f}" for key in ("precision", "recall", "coverage")]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def spread(group: pd.DataFrame, extractor: str) -> str:
    """Return the KID of one run and its error, or the mean and range over seeds."""
    kid = group[f"kid_{extractor}"]
    if len(kid) == 1:
        return f"{kid.iloc[0]:.0f} ± {group[f'error_{extractor}'].iloc[0]:.0f}"
    return f"{kid.mean():.0f} ({kid.min():.0f} to {kid.max():.0f}, {len(kid)} seeds)"


def presets() -> str:
    """Return the table of README.md."""
    rows = results()
    return table(rows[rows["group"] == "presets"], "`model=`")


def changes() -> str:
    """Return the table of what each setting does, beside the preset itself."""
    rows = results()
    return table(rows[(rows["of"] == "projected") | (rows["group"] == "tuning")], "changed")


def others() -> str:
    """Return the table of the longer run and the other magnification."""
    rows = results()
    return table(rows[rows["group"].isin(["longer", "other_scale"])], "run")


if __name__ == "__main__":
    curves()
    print(presets(), changes(), others(), sep="\n\n")
