"""Draw tissue in six slides' stain and light, normalize it, and compare it with the truth.

python sheet.py writes figures/*.png and results.csv beside itself.
"""

import csv
import io
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from mbgan.data.phantom import MACENKO, RUIFROK, transmit
from mbgan.data.phantom_cells import SIDE, Field
from mbgan.data.phantom_stain import stain
from mbgan.data.phantom_tissue import Habit, lay_out
from mbgan.data.stain import Identity, Macenko, Normalizer, Reinhard, stain_vectors

HERE = Path(__file__).parent
HABIT = Habit(shrinkage=0.4, fibrillarity=0.5, eosin=1.0, hematoxylin=1.0, thickness=1.0)
BETWEEN = (MACENKO + RUIFROK) / 2
SLIDES = {  # vectors, light in R, G, B, amounts of hematoxylin and of eosin
    "target's own": (MACENKO, (240, 240, 240), (1.0, 1.0)),
    "other dyes": (RUIFROK, (240, 240, 240), (1.0, 1.0)),
    "strong blue": (BETWEEN, (240, 240, 240), (1.6, 0.8)),
    "yellow light": (BETWEEN, (236, 228, 190), (1.0, 1.0)),
    "dark lamp": (BETWEEN, (150, 160, 165), (1.0, 1.0)),
    "pale": (MACENKO, (243, 240, 245), (0.55, 0.55)),
}
LABELS = {"10x": "classic", "100x": "desmoplastic"}


def tissue(magnification: str, seed: int) -> tuple[Field, Field]:
    """Return the amounts of hematoxylin and of eosin [SIDE, SIDE] of one field of view."""
    rng = np.random.default_rng(seed)
    hematoxylin, eosin, _ = stain(*lay_out(rng, magnification, LABELS[magnification], HABIT))
    return hematoxylin, eosin


def photograph(amounts: tuple[Field, Field], slide: str) -> NDArray[np.uint8]:
    """Return the picture [256, 256, 3] of some tissue on one of SLIDES, with a sensor's grain."""
    vectors, light, strength = SLIDES[slide]
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    hematoxylin, eosin = (np.float32(s) * a for s, a in zip(strength, amounts, strict=True))
    fine = transmit(hematoxylin, eosin, vectors, np.asarray(light, float))
    picture = fine.reshape(SIDE // 2, 2, SIDE // 2, 2, 3).mean((1, 3))
    picture = picture + np.random.default_rng(0).normal(0, 1.0, picture.shape)
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def compare(magnification: str, sheet: Figure, plane: Axes) -> list[list[str]]:
    """Fill a sheet and a scatter of one magnification; return rows of the table."""
    target = photograph(tissue(magnification, seed=1), "target's own")
    amounts = tissue(magnification, seed=2)
    truth = photograph(amounts, "target's own")
    wanted = stain_vectors(target)
    normalizers: dict[str, Normalizer] = {
        "before": Identity(),
        "Reinhard": Reinhard(),
        "Macenko": Macenko(),
    }
    cells = sheet.subplots(
        len(SLIDES), 4, gridspec_kw={"wspace": 0.03, "hspace": 0.03, "left": 0.06, "right": 1}
    )
    rows = []
    for column, (name, normalize) in enumerate(normalizers.items()):
        normalize.fit(target)
        found = []
        for row, slide in enumerate(SLIDES):
            picture = normalize(photograph(amounts, slide))
            show(cells[row, column], picture)
            show(cells[row, 3], truth)
            cells[row, 0].set_ylabel(slide)
            found.append(stain_vectors(picture))
            angles = np.degrees(np.arccos(np.clip((found[-1] * wanted).sum(1), -1, 1)))
            error = np.abs(picture.astype(float) - truth).mean()
            rows.append([magnification, slide, name, *(f"{x:.1f}" for x in (*angles, error))])
        cells[0, column].set_title(name)
        for dye, color in enumerate(("#4b3f99", "#d6478f")):
            red, _, blue = np.array(found)[:, dye].T
            fill = "none" if name == "before" else color
            label = f"{name}, {('hematoxylin', 'eosin')[dye]}"
            plane.plot(red, blue, "o^s"[column], c=color, mfc=fill, alpha=0.75, label=label)
    cells[0, 3].set_title("truth")
    plane.plot(wanted[:, 0], wanted[:, 2], "k+", ms=16, label="target")
    plane.set(title=magnification, xlabel="red of the unit vector", ylabel="blue")
    return rows


def show(axes: Axes, picture: NDArray[np.uint8]) -> None:
    """Put the middle of a picture on bare axes."""
    axes.imshow(picture[72:200, 72:200])
    axes.set(xticks=[], yticks=[])


def main() -> None:
    """Write the figures and the table."""
    (HERE / "figures").mkdir(exist_ok=True)
    scatter = Figure(figsize=(9, 4.8), dpi=90, layout="constrained")
    planes = scatter.subplots(1, 2)
    rows = [["magnification", "slide", "picture", "h_degrees", "e_degrees", "level_error"]]
    for magnification, plane in zip(LABELS, planes, strict=True):
        sheet = Figure(figsize=(4.9, 8.4), dpi=90)
        rows += compare(magnification, sheet, plane)
        drawn = io.BytesIO()
        sheet.savefig(drawn, bbox_inches="tight")
        # 256 colors are 1.7 levels off on average, in a third of the bytes.
        small = Image.open(drawn).convert("RGB").quantize(256, dither=Image.Dither.NONE)
        small.save(HERE / "figures" / f"sheet_{magnification}.png", optimize=True)
    lines, names = planes[0].get_legend_handles_labels()
    scatter.legend(lines, names, loc="outside lower center", ncols=4, frameon=False)
    scatter.savefig(HERE / "figures" / "vectors.png")
    with (HERE / "results.csv").open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


if __name__ == "__main__":
    main()
