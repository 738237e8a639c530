"""How often does KID's interval cover the truth, and are its p-values uniform where that is 0?

python calibrate.py DIR writes calibration.csv: random disjoint parts of real images, compared.
python calibrate.py writes shifted.csv: samples of Gaussians at known distances.
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
SHIFTS, WIDTH, MANY = (0.0, 0.15, 0.3, 0.5, 1.0, 2.0), 30, 8000


def main(root: str | None = None) -> None:
    """Split, score, count."""
    quiet_libraries()
    if root is None:
        write("shifted.csv", [shifted(n, shift) for n in (75, 150) for shift in SHIFTS])
        return
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
    write("calibration.csv", rows)


def write(name: str, rows: list[dict]) -> None:
    """Write rows beside this file."""
    with (HERE / name).open("w", newline="") as file:
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


def shifted(n: int, shift: float) -> dict[str, float]:
    """Return the share of intervals that cover KID of two Gaussians, one shifted along its axis 2.

    Their standard deviations fall as those of networks' features do.
    """
    generator = torch.Generator().manual_seed(SEED)
    scale = torch.arange(1, WIDTH + 1, dtype=torch.float64) ** -0.4

    def sample(count: int, shift: float) -> torch.Tensor:
        x = torch.randn(count, WIDTH, generator=generator, dtype=torch.float64) * scale
        x[:, 1] += shift
        return x

    truth = Kernels.of(sample(MANY, 0), sample(MANY, shift)).kid() if shift else 0.0
    pairs = (Kernels.of(sample(n, 0), sample(n, shift)) for _ in range(SPLITS))
    low, high = np.array([interval(kernels) for kernels in pairs]).T
    row = {"n_each": n, "shift": shift, "kid": round(truth, 5), "pairs": SPLITS}
    row |= {"above": round(float((low > truth).mean()), 3)}
    row |= {"below": round(float((high < truth).mean()), 3)}
    print(row, flush=True)
    return row | {"covered": round(1 - row["above"] - row["below"], 3)}


if __name__ == "__main__":
    main(*sys.argv[1:])
