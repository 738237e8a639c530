"""What a person reads of scores: a table for the terminal, one for spreadsheets, three pictures."""

import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor

from mbgan.files import whole
from mbgan.metrics.memorization import Match, nearest_pose, poses
from mbgan.metrics.neighbors import nearest
from mbgan.runs import write_text
from mbgan.studies.scoring import Scored

SHOWN = 12  # images of a row of a picture
FAKE, FLOOR = "#7a4fb5", "#b9b9b9"  # colors: of what was measured, of real against real


def table(result: dict[str, Any]) -> str:
    """Return the content of scores.json as text for the terminal."""
    out = Console(file=io.StringIO(), width=max(118, shutil.get_terminal_size((120, 40)).columns))
    source = result.get("run") or f"{result['fake']} against {result['real']}"
    out.print(f"\n{source}", markup=False, highlight=False, soft_wrap=True)
    if "run" in result:
        out.print(f"checkpoint {result['checkpoint']}, {result['images_seen']} images seen")
    if result.get("critic_extractor") == result["extractor"]:
        out.print("the critic learned by this extractor, so these scores flatter the run")
    of = f"{result['magnification'] or 'unknown magnification'}, {result['image_size']} px"
    seen = f"extractor {result['extractor']} ({result['extractor_sha256'][:12]})"
    for name, part in sections(result):
        head = f"n_real {part['n_real']}, n_fake {part['n_fake']}, {seen}"
        out.print(f"{of}{', ' + name if name else ''}; {head}", soft_wrap=True, markup=False)
        if "reason" in part:
            out.print(part["reason"], markup=False)
            continue
        out.print(_score_table(part["scores"]))
        for note in _notes(part["scores"]):
            out.print(note, markup=False, highlight=False, soft_wrap=True)
        if "memorization" in part:
            out.print(_verdict(part["memorization"]), markup=False)
    assert isinstance(out.file, io.StringIO)
    return "\n".join(line.rstrip() for line in out.file.getvalue().splitlines())


def sections(result: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the scores of all images, under no name, and of each condition."""
    yield "", result
    yield from result["by_condition"].items()


def rows(result: dict[str, Any]) -> pd.DataFrame:
    """Return the content of scores.json as a tidy table: a row a condition and score."""
    head = {
        "source": result.get("run") or result["fake"],
        "checkpoint": result.get("checkpoint", ""),
        "images_seen": result.get("images_seen"),
        "magnification": result["magnification"],
    }
    found = []
    for name, part in sections(result):
        n = {"condition": name, "n_real": part["n_real"], "n_fake": part["n_fake"]}
        for key, entry in part["scores"].items():
            low, high = entry.get("interval", (None, None))
            floor = entry.get("floor", {})
            floor_low, floor_high = floor.get("range", (None, None))
            numbers = {
                **{"score": key, "value": entry["value"], "low": low, "high": high},
                "interval_over": entry.get("interval_over"),
                "p": entry.get("p"),
                **{"floor": floor.get("mean"), "floor_low": floor_low, "floor_high": floor_high},
                **{"floor_n_each": floor.get("n_each"), "of_fakes": floor.get("of_fakes")},
                "note": entry.get("reason") or entry.get("note"),
            }
            found.append(head | n | numbers | {"extractor_sha256": result["extractor_sha256"]})
        if "memorization" in part:
            verdict = part["memorization"]
            note = {"note": verdict["verdict"] or verdict["reason"]}
            found.append(head | n | {"score": "memorization", "value": verdict.get("share")} | note)
    return pd.DataFrame(found)


def write(scored: Scored, folder: Path) -> None:
    """Write scores.csv, scores.png, nearest.png and real_and_generated.png into a folder.

    The last two show real images: keep them as you keep those.
    """
    write_text(folder / "scores.csv", rows(scored.result).to_csv(index=False))
    figures = {"scores": strip(scored.result), "real_and_generated": panel(scored)}
    if scored.train is not None:
        figures["nearest"] = gallery(scored)
    for name, figure in figures.items():
        with whole(folder / f"{name}.png") as draft:
            figure.savefig(draft, dpi=130, format="png")


def strip(result: dict[str, Any]) -> Figure:
    """Return a line a score: value and interval over the band of real against real."""
    scores = {key: entry for key, entry in result["scores"].items() if "interval" in entry}
    tissue = {key: entry for key, entry in scores.items() if key.startswith("histology/")}
    other = {key: entry for key, entry in scores.items() if key not in tissue}
    count = max(len(other), len(tissue))
    columns = 2 if tissue else 1
    figure = Figure(figsize=(5.5 * columns, 0.36 * count + 1.3), layout="constrained")
    left, *right = figure.subfigures(1, columns, squeeze=False).flat
    left.suptitle(f"features of {result['extractor']}, each on its own scale", fontsize=10)
    if other:
        scales = left.subplots(len(other), 1, squeeze=False).flat
        for axes, (key, entry) in zip(scales, other.items(), strict=True):
            _line(axes, 0, entry)
            axes.set_yticks([0], [key.split("/")[0].replace("_", " ")], fontsize=8)
            _bare(axes)
    if tissue:
        right[0].suptitle("tissue: distance in standard deviations of the reals", fontsize=10)
        axes = right[0].subplots()
        for place, entry in enumerate(tissue.values()):
            _line(axes, -place, entry)
        labels = [key.split("/")[1].replace("_", " ") for key in tissue]
        axes.set_yticks(-np.arange(len(tissue)), labels, fontsize=8)
        axes.set_xlim(left=0)
        _bare(axes)
    n = f"n_real {result['n_real']}, n_fake {result['n_fake']}"
    figure.supxlabel(
        f"dot: {n}, line: 95 % interval;{' ' if tissue else chr(10)}"
        "circle: halves of both sides, gray: halves of the reals",
        fontsize=8,
    )
    return figure


def panel(scored: Scored) -> Figure:
    """Return a sheet of real images above fakes, evenly chosen from both."""
    lines = dict[str, tuple[Tensor, Tensor | None]]()
    for name, images in (("real", scored.real.images), ("generated", scored.fake.images)):
        places = np.linspace(0, len(images) - 1, min(2 * SHOWN, len(images))).astype(int)
        chosen = images[places]
        for line, part in enumerate(chosen.split(SHOWN)):
            lines[name + " " * line] = part, None
    return _sheet(lines)


def gallery(scored: Scored) -> Figure:
    """Return the fakes nearest to training images, with those and their nearest held-out ones."""
    assert scored.train is not None
    train, features = scored.train, scored.fake.seen.features
    found = nearest_pose(train.features, features)
    closest = found.distance.argsort()[:SHOWN]
    far, place = nearest(features[closest], scored.real.seen.features)
    return _sheet(
        {
            "generated": (scored.fake.images[closest], None),
            "nearest training": (turned(train.images, found, closest), found.distance[closest]),
            "nearest held-out": (scored.real.images[place], far),
        }
    )


def turned(images: Tensor, found: Match, rows: Tensor) -> Tensor:
    """Return the matches of some images, each in the pose in which it is nearest."""
    return torch.stack([poses(images[found.image[i]])[found.pose[i]] for i in rows])


def _sheet(lines: dict[str, tuple[Tensor, Tensor | None]]) -> Figure:
    """Return rows of images, with their names and the numbers below each image."""
    figure = Figure(figsize=(SHOWN * 1.0 + 0.4, len(lines) * 1.15), layout="constrained")
    grid = figure.subplots(len(lines), SHOWN, squeeze=False)
    for line, (name, (images, numbers)) in zip(grid, lines.items(), strict=True):
        for axes in line:
            axes.axis("off")
        line[0].text(
            -0.08,
            0.5,
            name,
            transform=line[0].transAxes,
            rotation=90,
            size=8,
            ha="right",
            va="center",
        )
        for i, image in enumerate(images):
            line[i].imshow(image.permute(1, 2, 0).numpy(), interpolation="nearest")
            if numbers is not None:
                line[i].set_title(f"{float(numbers[i]):.3g}", fontsize=7, pad=2)
    return figure


def _line(axes: Axes, y: float, entry: dict[str, Any]) -> None:
    floor = entry.get("floor", {})
    if "range" in floor:
        axes.plot(floor["range"], [y, y], color=FLOOR, linewidth=9, solid_capstyle="butt")
    if "of_fakes" in floor:
        axes.plot([floor["of_fakes"]], [y], "o", color=FAKE, markersize=5, fillstyle="none")
    if "interval" in entry:
        axes.plot(entry["interval"], [y, y], color=FAKE, linewidth=1.5)
    axes.plot([entry["value"]], [y], "o", color=FAKE, markersize=5)
    axes.margins(x=0.08)


def _bare(axes: Axes) -> None:
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=7)
    axes.locator_params(axis="x", nbins=5)


def _score_table(scores: dict[str, dict[str, Any]]) -> Table:
    n = {
        entry["floor"]["n_each"]
        for entry in scores.values()
        if "of_fakes" in entry.get("floor", {})
    }
    at = f"at n = {' or '.join(map(str, sorted(n)))}:" if n else "at half of n:"  # as the floor
    lines = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("score", "value", "95 % interval", "p", at, "real against real (range)"):
        lines.add_column(name, justify="right" if name in ("value", at) else "left", no_wrap=True)
    tissue = False
    for key, entry in scores.items():
        room, name = key.split("/") if "/" in key else (key, key)
        if room == "histology" and not tissue:
            tissue = True
            lines.add_section()
            lines.add_row("tissue, in s.d. of the reals")
        lines.add_row("  " + name if tissue else room, *_cells(entry))
    return lines


def _notes(scores: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Yield what is to be said of scores: why they are missing, or what they cannot tell."""
    said: dict[str, list[str]] = {}
    for key, entry in scores.items():
        if note := entry.get("reason") or entry.get("note"):
            said.setdefault(note, []).append(key)
    for note, keys in said.items():
        yield f"{', '.join(keys)}: {note}"


def _cells(entry: dict[str, Any]) -> list[str]:
    if entry["value"] is None:
        return ["-"]
    interval = " .. ".join(_number(x, 3) for x in entry.get("interval", []))
    p, floor = entry.get("p"), entry.get("floor", {})
    same_n = _number(floor["of_fakes"], 3) if "of_fakes" in floor else ""
    beside = " .. ".join(_number(x, 2) for x in floor.get("range", []))
    return [
        _number(entry["value"], 4),
        interval,
        "" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}",
        same_n,
        f"{_number(floor['mean'], 3)} ({beside})" if beside else "",
    ]


def _number(x: float, digits: int) -> str:
    return "0" if abs(x) < 1e-9 else f"{x:.{digits}g}"  # what rounding leaves of 0


def _verdict(found: dict[str, Any]) -> str:
    if found["verdict"] is None:
        return f"copies of training images: unknown; {found['reason']}"
    tests = ", ".join(f"{name} {p:.2g}" for name, p in found["p_values"].items())
    return (
        f"copies of {found['n_train']} training images: {found['verdict']} (share "
        f"{found['share']:.2f}; p of such closeness, copies below {found['level']:.2g}: {tests})"
    )
