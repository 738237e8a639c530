"""Charts of a comparison: scores by model, curves, quality against cost, and sample panels."""

import textwrap
from collections.abc import Callable, Sequence
from functools import partial
from itertools import cycle
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from mbgan.studies.card_figures import STYLE

Row = dict[str, Any]
COLORS = (  # readable on white and on black
    *("#8a6fc0", "#d0679b", "#3f9b8f", "#c98f35", "#5b8bd0", "#b3574a", "#7d9b3f", "#8c8c96"),
)
MARKERS = "osD^vPX"
NAMES = {"kid": "KID", "fid": "FID", "inception_score": "Inception score"}
FLOOR = "#9a93a8"
INCHES = 5.2  # width: its letters are readable on a phone
CHART: Any = STYLE | {"text.parse_math": False}  # names may hold a $


def looks(sections: Sequence[Row]) -> dict[str, tuple[str, str]]:
    """Return a color and a marker for each group, the same in all charts."""
    names = dict.fromkeys(row["name"] for part in sections for row in part["groups"])
    marks = [(c, m) for m in MARKERS for c in COLORS]
    return dict(zip(names, cycle(marks), strict=False))


def charts(sections: Sequence[Row]) -> dict[str, Figure]:
    """Return the charts for which there are numbers, by name."""
    marks, found = looks(sections), dict[str, Figure]()
    with mpl.rc_context(CHART):
        for score in NAMES:
            shown = [p for p in sections if any(score in row["scores"] for row in p["groups"])]
            if shown:
                heights = [0.62 + 0.46 * len(scored(part, score)) for part in shown]
                found[score] = stacked(shown, heights, partial(by_group, score=score, marks=marks))
        if shown := [part for part in sections if any(run.rows for run in part["runs"])]:
            found["curves"] = stacked(shown, 2.6, partial(curves, marks=marks))
        if shown := [p for p in sections if any(dots(row, p) for row in p["groups"])]:
            found["cost"] = stacked(shown, 2.6, partial(cost, marks=marks))
    return found


def stacked(
    sections: Sequence[Row], heights: float | list[float], draw: Callable[[Axes, Row], None]
) -> Figure:
    """Return a figure with an axes a section, one below the other, each on its own scale."""
    tall = heights if isinstance(heights, list) else [heights] * len(sections)
    figure = Figure(figsize=(INCHES, sum(tall) + 0.5 * len(tall)), layout="constrained")
    grid = figure.subplots(len(sections), squeeze=False, gridspec_kw={"height_ratios": tall})
    for axes, part in zip(grid.flat, sections, strict=True):
        axes.set_title(textwrap.fill(part["title"], 64), fontsize=9, loc="left", pad=10)
        draw(axes, part)
    return figure


def scored(part: Row, score: str) -> list[Row]:
    """Return the groups of a section that have a score."""
    return [row for row in part["groups"] if score in row["scores"]]


def by_group(axes: Axes, part: Row, score: str, marks: dict[str, tuple[str, str]]) -> None:
    """Draw a line a group: a dot a seed, its 95 % interval, and the floor as a band."""
    rows = scored(part, score)
    entries = [e for run in part["runs"] if (e := run.entry(score))]
    floor = next((e["floor"] for e in entries if "range" in e.get("floor", {})), None)
    if floor:
        axes.axvspan(*floor["range"], color=FLOOR, alpha=0.35, linewidth=0)
    for place, row in enumerate(rows):
        color, marker = marks[row["name"]]
        for run in row["runs"]:
            entry = run.entry(score)
            if not entry:
                continue
            fill = "none" if run.unranked else "full"
            axes.plot(entry["value"], -place, marker, color=color, fillstyle=fill, markersize=6)
            if "of_fakes" in entry.get("floor", {}):
                axes.plot(entry["floor"]["of_fakes"], -place, "|", color=color, markersize=9)
        found = row["scores"][score]
        axes.plot([found.low, found.high], [-place] * 2, color=color, linewidth=1.5)
        flag = "" if row["places"] else "  (not ranked)"
        axes.annotate(
            textwrap.shorten(row["name"], 60, placeholder="…") + flag,
            (0, -place),
            xycoords=("axes fraction", "data"),
            xytext=(0, 6),
            textcoords="offset points",
            fontsize=8,
        )
    axes.set_ylim(-len(rows) + 0.6, 0.75)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.margins(x=0.06)
    axes.set_xlabel(f"{NAMES[score]} by {part['part'].extractor}", fontsize=8)


def curves(axes: Axes, part: Row, marks: dict[str, tuple[str, str]]) -> None:
    """Draw the KID of each run over the images its critic has seen."""
    key, named = f"kid/{part['part'].extractor}", set[str]()
    if part["floor"]:
        axes.axhspan(*part["floor"]["range"], color=FLOOR, alpha=0.35, linewidth=0)
    for run in part["runs"]:
        rows = [row for row in run.rows if row.get(key) is not None]
        if not rows:
            continue
        label = "_" if run.group in named else textwrap.shorten(run.group, 60, placeholder="…")
        named.add(run.group)
        color, marker = marks[run.group]
        x, y = [row["images_seen"] for row in rows], [row[key] for row in rows]
        style = "-" if run.status == "done" else ":"
        axes.plot(x, y, style, marker=marker, color=color, markersize=3, linewidth=1.2, label=label)
    axes.set_xlabel("images seen by the critic", fontsize=8)
    axes.set_ylabel(f"KID by {part['part'].extractor}", fontsize=8)
    axes.xaxis.set_major_formatter(mpl.ticker.EngFormatter(sep=""))
    from_zero(axes)
    legend(axes)


def dots(row: Row, part: Row) -> list[tuple[float, float]]:
    """Return minutes and KID of the runs of a group that have both."""
    found = [(run.minutes, run.measurement("kid")) for run in row["runs"]]
    return [(minutes, kid.value) for minutes, kid in found if minutes is not None and kid]


def cost(axes: Axes, part: Row, marks: dict[str, tuple[str, str]]) -> None:
    """Draw the KID of each run over the time that it took, larger for more weights."""
    for row in part["groups"]:
        if points := dots(row, part):
            color, marker = marks[row["name"]]
            size = 12 + 12 * ((row["parameters"] or 0) / 1e6) ** 0.5
            x, y = zip(*points, strict=True)
            axes.scatter(
                x,
                y,
                s=size,
                color=color,
                marker=marker,
                label=textwrap.shorten(row["name"], 60, placeholder="…"),
            )
    axes.set_xlabel("minutes of training", fontsize=8)
    axes.set_ylabel(f"KID by {part['part'].extractor}", fontsize=8)
    axes.margins(0.1)
    axes.set_xlim(left=0)
    from_zero(axes)
    legend(axes)


def from_zero(axes: Axes) -> None:
    """Let the KID's axis include 0, so that heights compare; a little below it is chance."""
    axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))


def legend(axes: Axes) -> None:
    """Write the groups' names below a chart."""
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(-0.02, -0.22))


def panel(rows: Sequence[tuple[str, Image.Image, int]]) -> Figure:
    """Return a sheet of rows: a name, and the first row of its grid of samples.

    Args:
        rows: name, grid of samples, and the height of an image of it, px.
    """
    with mpl.rc_context(CHART | {"text.color": "black"}):
        figure = Figure(figsize=(8, 1.25 * len(rows)), layout="constrained")
        for axes, (name, grid, side) in zip(
            figure.subplots(len(rows), squeeze=False).flat, rows, strict=True
        ):
            axes.imshow(np.asarray(grid.crop((0, 0, grid.width, side))), interpolation="nearest")
            axes.set_title(
                textwrap.shorten(name, 100, placeholder="…"), fontsize=8, loc="left", pad=2
            )
            axes.axis("off")
    return figure
