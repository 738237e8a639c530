"""curves.png from curves.csv and results.csv: python figures.py."""

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

HERE = Path(__file__).parent


def main() -> None:
    """Draw KID against CPU minutes, one line a preset; training goes at an even pace."""
    runs = pd.read_csv(HERE / "runs.csv").set_index("name")
    curves = pd.read_csv(HERE / "curves.csv")
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for name, curve in curves.groupby("name", sort=False):
        if runs.loc[name, "group"] != "presets":
            continue
        minutes = 10 * curve["images_seen"] / runs.loc[name, "images"]
        axes.plot(minutes, 1000 * curve["kid/efficientnet_lite0"], marker="o", ms=3, label=name)
    axes.set(
        xlabel="CPU minutes of training",
        ylabel="KID x 1000, EfficientNet-Lite0 (n = 200 each)",
        yscale="log",
    )
    axes.grid(alpha=0.3, which="both")
    axes.legend(frameon=False, ncols=2)
    figure.savefig(HERE / "figures/curves.png", dpi=150)


if __name__ == "__main__":
    main()
