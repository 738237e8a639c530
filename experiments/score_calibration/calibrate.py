"""How often does KID's interval cover 0, and are its p-values uniform, where the truth is 0?

python calibrate.py DIR writes calibration.csv: random disjoint parts of real images, compared.
"""

import csv
import sys
from pathlib import Path

import numpy as np
import torch
from scipy.stats import kstest

from mbgan.assembly import quiet_libraries
from mbgan.data.cache import load_images
from mbgan.data.folder import find_images
from mbgan.metrics.features import EfficientNetLite0, EfficientNetLite2
from mbgan.metrics.kernel import Kernels, interval, permutation_p

HERE, CACHE = Path(__file__).parent, Path("~/.cache/mbgan").expanduser()
SPLITS, SEED = 1000, 0


def main(root: str) -> None:
    """Split, score, count."""
    quiet_libraries()
    rows = []
    for magnification in ("100x", "400x"):
        files = find_images(root, magnification)
        images = torch.from_numpy(load_images(files, 64, CACHE).images.copy())
        for extractor in (EfficientNetLite0(), EfficientNetLite2()):
            x = extractor.extract(images).features
            for n in (75, 150):
                if 2 * n <= len(x):
                    rows.append({"magnification": magnification, "extractor": extractor.name})
                    rows[-1] |= calibrate(x, n)
                    print(rows[-1], flush=True)
    with (HERE / "calibration.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def calibrate(x: torch.Tensor, n: int) -> dict[str, float]:
    """Return the share of intervals that cover 0, and what a test of uniform p-values says."""
    rng, covered, p = np.random.default_rng(SEED), [], []
    for _ in range(SPLITS):
        order = torch.from_numpy(rng.permutation(len(x)))
        kernels = Kernels.of(x[order[:n]], x[order[n : 2 * n]])
        low, high = interval(kernels)
        covered.append(low <= 0 <= high)
        p.append(permutation_p(kernels))
    return {
        "images": len(x),
        "n_each": n,
        "splits": SPLITS,
        "covered": round(float(np.mean(covered)), 3),
        "p_below_5_percent": round(float(np.mean(np.array(p) < 0.05)), 3),
        "uniform_p": round(float(kstest(p, "uniform").pvalue), 3),
    }


if __name__ == "__main__":
    main(sys.argv[1])
