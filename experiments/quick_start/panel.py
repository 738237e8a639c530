"""Lay drawn images above generated ones, at both magnifications.

python panel.py RUNS, the folder that holds the runs 10x/ and 100x/.
"""

import sys
from pathlib import Path

from PIL import Image

COLUMNS, SIDE, GAP, ZOOM = 8, 64, 2, 2
STEP = SIDE + GAP  # of the sheets that a run leaves in samples/


def main() -> None:
    """Write figures/panel.png: 10x drawn, 10x generated, 100x drawn, 100x generated."""
    panel = Image.new("RGB", (COLUMNS * STEP - GAP, 4 * STEP + GAP), "white")
    top = 0
    for magnification in ("10x", "100x"):
        samples = Path(sys.argv[1], magnification, "samples")
        *_, generated = sorted(samples.glob("0*.png"))
        for sheet in (samples / "real.png", generated):
            with Image.open(sheet) as images:
                for i in range(COLUMNS):
                    # Spread over the sheet, which runs through the patients.
                    row, column = divmod(i * 9, 8)
                    box = (column * STEP, row * STEP, column * STEP + SIDE, row * STEP + SIDE)
                    panel.paste(images.crop(box), (i * STEP, top))
            top += STEP
        top += 2 * GAP
    panel = panel.resize((panel.width * ZOOM, panel.height * ZOOM), Image.Resampling.NEAREST)
    panel.save(Path(__file__).parent / "figures" / "panel.png", optimize=True)


if __name__ == "__main__":
    main()
