"""Draw phantoms with a rare class: python draw.py DIR.

Several drawn data sets of 11 patients each, put together as different patients: 3 classes of the
phantom's five, of which one keeps 8 images, each of another patient.
"""

import shutil
import sys
import tempfile
from pathlib import Path

from mbgan.data.phantom import phantom_dir

SEEDS, COUNT = range(100, 108), 55  # drawn data sets, and images of each: 5 a patient
USUAL, RARE, N_RARE = ("classic", "normal"), "large_cell", 8


def main(root: str) -> None:
    """Write DIR/100x/CLASS/patientNNN_NNNN.jpg."""
    out, rare = Path(root), 0
    for seed in SEEDS:
        with tempfile.TemporaryDirectory() as cache:
            drawn = phantom_dir(cache, seed, {"100x": COUNT})
            for path in sorted(drawn.glob("100x/*/*.jpg")):
                label, (patient, number) = path.parent.name, path.stem.split("_")
                first = number == "0000"
                if label not in USUAL and not (label == RARE and first and rare < N_RARE):
                    continue
                rare += label == RARE
                name = f"patient{seed}{patient.removeprefix('patient')}_{number}.jpg"
                (out / "100x" / label).mkdir(parents=True, exist_ok=True)
                shutil.copy(path, out / "100x" / label / name)


if __name__ == "__main__":
    main(sys.argv[1])
