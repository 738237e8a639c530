"""The curves, and the table of the README: python figures.py."""

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

HERE = Path(__file__).parent


def curves() -> None:
    """Draw KID against CPU minutes, one line a preset; training goes at an even pace."""
    runs = pd.read_csv(HERE / "runs.csv").set_index("name")
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for name, curve in pd.read_csv(HERE / "curves.csv").groupby("name", sort=False):
        if runs.loc[name, "group"] != "presets":
            continue
        minutes = 10 * curve["images_seen"] / runs.loc[name, "images"]
        axes.plot(minutes, 1000 * curve["kid/efficientnet_lite2"], marker="o", ms=3, label=name)
    axes.set(
        xlabel="CPU minutes of training",
        ylabel="KID x 1000, EfficientNet-Lite2 (n = 200 each)",
        yscale="log",
    )
    axes.grid(alpha=0.3, which="both")
    axes.legend(frameon=False, ncols=2)
    figure.savefig(HERE / "figures/curves.png", dpi=150)


def table() -> None:
    """Print the presets, best by EfficientNet-Lite2 first, as Markdown."""
    group = pd.read_csv(HERE / "runs.csv").set_index("name")["group"]
    rows = pd.read_csv(HERE / "results.csv")
    rows = rows[rows["name"].map(group) == "presets"].sort_values("kid_lite2")
    print("| `model=` | images seen | KID x 1000, Lite2 | KID x 1000, Lite0 | precision | recall |")
    print("|---|---|---|---|---|---|")
    for row in rows.itertuples():
        own = " (its own)" if row.name == "projected" else ""
        print(
            f"| `{row.name}` | {row.images_seen:,} | {row.kid_lite2:.0f} ± {row.error_lite2:.0f} "
            f"| {row.kid_lite0:.0f} ± {row.error_lite0:.0f}{own} "
            f"| {row.precision:.2f} | {row.recall:.2f} |"
        )


if __name__ == "__main__":
    curves()
    table()
