"""Figures of the data card: inline SVG in the page's own colors, and thumbnails as data URIs."""

import base64
import io
import re
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from PIL import Image

from mbgan.studies.card_summary import STAIN_WHEN, STAINS, stain_vectors

THUMBNAIL = 128  # px; about 5 kB each, 10 kB for noise: the page stays under 10 MB
MAX_DOTS = 200  # of one kind in a scatter
DENSITY = 0.55  # optical, of the dots: that of a well stained nucleus
INK = "#010203"  # stands for the color of the page's text, which is dark or light
ACCENT = "#8a6fc0"  # hematoxylin's purple, on white and on black
STYLE: Any = {  # Any: matplotlib's stubs want each name to be a literal
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor"), INK),
    **dict.fromkeys(("xtick.color", "ytick.color"), INK),
    "svg.fonttype": "none",  # text stays text
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
}


def data_uri(image: Image.Image, side: int = THUMBNAIL, quality: int = 70) -> str:
    """Return an RGB image as a small JPEG, ready for src=; its sides' ratio is kept.

    Args:
        image: of any size and mode.
        side: of the JPEG at most, px.
        quality: of the JPEG.
    """
    image = image.convert("RGB")
    image.thumbnail((side, side))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def stain_figures(manifest: pd.DataFrame) -> dict[str, str]:
    """Return "before" and "after" as SVG; only those for which the manifest has stain vectors.

    A dot is an image, in the color of its stain. The axes leave out density (the HSD model, van
    der Laak et al. 2000, Cytometry 39:275).
    """
    vectors = {
        when: {stain: stain_vectors(manifest, stain, when) for stain in STAINS}
        for when in STAIN_WHEN
        if len(stain_vectors(manifest, STAINS[0], when))
    }
    if not vectors:
        return {}
    dots = np.concatenate([chromaticity(v) for pair in vectors.values() for v in pair.values()])
    low, high = np.percentile(dots, (0.5, 99.5), axis=0)  # the same in both; but for far outliers
    margin = 0.15 * (high - low) + 0.05
    (left, bottom), (right, top) = low - margin, high + margin
    figures = {}
    for when, pair in vectors.items():
        with mpl.rc_context(STYLE):
            figure = Figure(figsize=(4.6, 3.7), layout="constrained")
            axes = figure.add_subplot(
                xlabel="\u2190 redder \u00b7 bluer \u2192",
                ylabel="\u2190 more yellow \u00b7 more magenta \u2192",
                xlim=(left, right),
                ylim=(bottom, top),
                xticks=[],
                yticks=[],
            )
            for (stain, all_of_it), marker in zip(pair.items(), "o^", strict=True):
                some = np.random.default_rng(0).permutation(all_of_it)[:MAX_DOTS]  # [N, 3]
                colors = 10 ** (-DENSITY * some.clip(0))
                x, y = chromaticity(some).T
                axes.scatter(x, y, s=26, c=colors, marker=marker, alpha=0.75, linewidths=0)
                axes.scatter([], [], s=26, c=[colors.mean(0)], marker=marker, label=stain)
            axes.legend(frameon=False, loc="best", handletextpad=0.2)
            figures[when] = to_svg(figure, f"stain-{when}")
    return figures


def chromaticity(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the hue-saturation-density chromaticities [N, 2] of density vectors [N, 3]."""
    red, green, blue = vectors.T
    density = vectors.mean(1)
    return np.stack([red / density - 1, (green - blue) / (3**0.5 * density)], axis=1)


def size_figure(sizes: list[dict[str, int]]) -> str:
    """Return the sizes of the originals as SVG: a bar for each, or dots where they are many."""
    with mpl.rc_context(STYLE):
        if len(sizes) <= 10:
            figure = Figure(figsize=(4.6, 0.6 + 0.3 * len(sizes)), layout="constrained")
            axes = figure.add_subplot(xlabel="files")
            labels = [f"{size['width']} \u00d7 {size['height']}" for size in sizes]
            bars = axes.barh(labels, [size["files"] for size in sizes], color=ACCENT, height=0.6)
            axes.bar_label(bars, fmt="{:,.0f}", padding=3)
            axes.invert_yaxis()
            axes.margins(x=0.15)
            axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        else:
            figure = Figure(figsize=(4.6, 3.7), layout="constrained")
            axes = figure.add_subplot(xlabel="width in pixels", ylabel="height in pixels")
            shown = sizes[: 3 * MAX_DOTS]
            axes.scatter(
                [size["width"] for size in shown],
                [size["height"] for size in shown],
                s=[8 + 2 * size["files"] ** 0.5 for size in shown],
                c=ACCENT,
                alpha=0.5,
            )
        return to_svg(figure, "sizes")


def to_svg(figure: Figure, name: str) -> str:
    """Return a figure as an SVG element for a page: it scales, and its ink is the page's.

    Args:
        figure: drawn in INK.
        name: of the figure, so that identifiers of two figures on a page never meet.
    """
    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg ") :].replace(INK, "currentColor")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg)  # the view box keeps the proportions
    return re.sub(r' id="[a-zA-Z.]+(2d)?_\d+"', "", svg)  # figure_1 is in every figure
