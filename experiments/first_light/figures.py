"""Draw results.csv, held-out KID over the run, and keep a part of the last samples.

python figures.py SAMPLES, the folder samples/ of the run.
"""

import csv
import json
import sys
from pathlib import Path

import matplotlib.pyplot as plt
from PIL import Image

HERE = Path(__file__).parent


def main() -> None:
    """Write figures/curve.png and figures/samples.png."""
    *_, last = sorted(Path(sys.argv[1]).glob("0*.png"))
    with Image.open(last) as sheet:  # 8 x 8 images; five rows stay under 500 kB
        sheet.crop((0, 0, sheet.width, sheet.height * 5 // 8)).save(HERE / "figures/samples.png")
    rows = list(csv.DictReader((HERE / "results.csv").open()))
    scores = json.loads((HERE / "scores.json").read_text())
    key = f"kid/{scores['extractor']}"
    images = [int(row["images_seen"]) for row in rows]
    kid = [1e3 * float(row[key]) for row in rows]
    floor = scores["scores"][key]["floor"]

    figure, axes = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
    axes.plot(images, kid, "o-", color="tab:purple", label="averaged generator")
    axes.axhline(kid[0] / 2, ls="--", color="gray", label="half of the untrained generator")
    axes.axhspan(*(1e3 * v for v in floor["range"]), color="tab:green", alpha=0.4)
    axes.axhline(1e3 * floor["mean"], color="tab:green", label="real against real")
    axes.set(
        xlabel="images seen by the critic",
        ylabel=f"KID x 1000 ({scores['extractor']})",
        title=f"Held-out KID, n = {rows[0]['n_real']} on each side, one seed",
        ylim=(min(0, *kid) - 20, None),
    )
    axes.legend(frameon=False)
    figure.savefig(HERE / "figures" / "curve.png", dpi=120)


if __name__ == "__main__":
    main()
