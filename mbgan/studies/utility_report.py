"""The report of the utility study: a terminal table, utility.csv, utility.json, figures, a page."""

import io
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.table import Table

from mbgan.files import whole
from mbgan.runs import write_text
from mbgan.studies.card_figures import to_svg
from mbgan.studies.comparison_figures import CHART, COLORS, INCHES, MARKERS
from mbgan.studies.page import environment, writable
from mbgan.studies.utility_folds import Material
from mbgan.studies.utility_scores import (
    HEADLINE,
    LOWER_IS_BETTER,
    NAMES,
    Row,
    comparisons,
    means,
)


def write(
    results: Sequence[Mapping[str, Any]], settings: Mapping[str, Any], images: Material, out: Path
) -> Row:
    """Write utility.csv, utility.json, figures/ and utility.html; return the content of the second.

    Args:
        results: of the folds, as they were saved.
        settings: of the study.
        images: of the study.
        out: its folder.
    """
    table = pd.DataFrame([row for result in results for row in result["rows"]])
    found = comparisons(table)
    n_fit = table[table["title"] == "real"].groupby("train_share")["n_images"].mean()
    all_of_it = table[table["train_share"] == table["train_share"].max()]
    content = {
        "images": images.summary,
        "counts": images.counts,
        "rarest": images.rarest,
        "n_groups": len(set(images.groups)),
        "data_sha256": images.sha256,
        "n_folds": len(results),
        "test_share": float((all_of_it["n_test"] / all_of_it["n_train"]).mean()),
        "n_fit": {f"{share:g}": n for share, n in n_fit.items()},
        "settings": settings,
        "folds": [{k: v for k, v in result.items() if k != "rows"} for result in results],
        "means": means(table).replace({np.nan: None}).to_dict("records"),
        "comparisons": found,
    }
    rare = {f"{key}/{images.rarest}": f"{key} of {images.rarest}" for key in ("recall", "F1")}
    content["names"] = NAMES | {key.lower(): name for key, name in rare.items()}
    figures = []
    for name, (title, caption, figure) in charts(content).items():
        with mpl.rc_context(CHART | {"svg.hashsalt": name}):
            (out / "figures").mkdir(exist_ok=True)
            with whole(out / "figures" / f"{name}.png") as draft:
                figure.savefig(draft, dpi=160, format="png")
            svg = to_svg(figure, name)
        figures.append({"title": title, "caption": caption, "svg": svg})
    write_text(out / "utility.csv", writable(table.to_csv(index=False)))
    write_text(out / "utility.json", json.dumps(content, indent=1) + "\n")
    page = environment().get_template("utility.html.j2")
    shown = {"tables": tables(content), "pairs": pairs(content), "said": said}
    text = page.render(study=content, figures=figures, **shown)
    write_text(out / "utility.html", writable(text))
    return content


def tables(content: Row) -> list[Row]:
    """Return a table a classifier and size of training side, largest first: a row an arm."""
    by_key: dict[tuple[float, str], Row] = {}
    for row in content["means"]:
        key = row["train_share"], row["classifier"]
        part = by_key.setdefault(key, {"share": key[0], "classifier": key[1], "rows": {}})
        if row["score"] in content["names"]:
            part["rows"].setdefault(row["title"], {})[row["score"]] = row
    return sorted(by_key.values(), key=lambda part: -part["share"])


def pairs(content: Row) -> dict[str, dict[str, dict[str, Row]]]:
    """Return the comparisons that answer the question: by score, pair of arms and classifier.

    Those of the headline score and of the rarest class, all images training.
    """
    most = max((row["train_share"] for row in content["comparisons"]), default=1)
    found: dict[str, dict[str, dict[str, Row]]] = {}
    for score in (HEADLINE, f"recall/{content['rarest']}"):
        for row in content["comparisons"]:
            if (row["score"], row["train_share"]) == (score, most):
                pair = found.setdefault(score, {}).setdefault(f"{row['a']} less {row['b']}", {})
                pair[row["classifier"]] = row
    return found


def table(content: Row) -> str:
    """Return means over folds, and what they say, as text for the terminal."""
    out = Console(file=io.StringIO(), width=max(150, shutil.get_terminal_size((150, 40)).columns))
    out.print(f"\n{content['images']}; {content['n_folds']} folds", markup=False, highlight=False)
    names = content["names"]
    for part in tables(content):
        lines = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        share = "" if part["share"] == 1 else f", {part['share']:.0%} of the images"
        lines.add_column(part["classifier"].replace("_", " ") + share, no_wrap=True)
        for name in names.values():
            lines.add_column(name, justify="right", min_width=max(map(len, name.split())))
        for title, scores in part["rows"].items():
            lines.add_row(title, *(f"{scores[key]['mean']:.3f}" for key in names))
        out.print(lines)
    for score, rows in pairs(content).items():
        lines = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        lines.add_column(f"difference in {names[score]}")
        for name in next(iter(rows.values())):
            lines.add_column(name.replace("_", " "))
        for pair, by in rows.items():
            lines.add_row(pair, *map(said, by.values()))
        out.print(lines)
    assert isinstance(out.file, io.StringIO)
    return "\n".join(line.rstrip() for line in out.file.getvalue().splitlines())


def said(row: Row) -> str:
    """Return a paired difference in words."""
    reach = "" if row["low"] is None else f" ({row['low']:+.3f} to {row['high']:+.3f})"
    return f"{row['difference']:+.3f}{reach}: {row['word']}".replace("-", "\u2212")


def charts(content: Row) -> dict[str, tuple[str, str, Figure]]:
    """Return the charts for which there are numbers: title, caption and figure by name."""
    found = {}
    with mpl.rc_context(CHART):
        for name in (HEADLINE, f"recall/{content['rarest']}", "ece"):
            if any(row["score"] == name for row in content["comparisons"]):
                title = f"Differences in {content['names'][name]}"
                worse = "left" if name not in LOWER_IS_BETTER else "right"
                caption = (
                    "A dot is a fold, both arms tested on the same images; the line the 95\u00a0% "
                    f"interval of the mean by the corrected resampled t test. {worse.title()} of 0 "
                    "is worse."
                )
                key = name.split("/")[0]
                found[f"difference_{key}"] = title, caption, differences(content, name)
        if len({row["train_share"] for row in content["means"]}) > 1:
            caption = "Mean over folds. Each size has generators of its own, trained on as few."
            found["learning_curve"] = "Learning curves", caption, curves(content)
    return found


def differences(content: Row, score: str) -> Figure:
    """Return a line a pair of arms, for each classifier, all images training."""
    rows = [row for row in content["comparisons"] if row["score"] == score]
    most = max(row["train_share"] for row in rows)
    rows = [row for row in rows if row["train_share"] == most]
    classifiers = list(dict.fromkeys(row["classifier"] for row in rows))
    per = len(rows) // len(classifiers)
    size = (INCHES, (0.42 * per + 0.8) * len(classifiers))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(len(classifiers), squeeze=False, sharex=True).flat
    for axes, classifier in zip(panels, classifiers, strict=True):
        axes.set_title(classifier.replace("_", " "), fontsize=9, loc="left")
        axes.axvline(0, color="#9a93a8", linewidth=0.8)
        shown = [row for row in rows if row["classifier"] == classifier]
        for place, row in enumerate(shown):
            color = COLORS[0] if row["b"] == "real" else COLORS[2]
            below = -place - np.linspace(0.12, 0.32, len(row["folds"]))  # none hides another
            axes.plot(row["folds"], below, "o", color=color, alpha=0.5, ms=3, mew=0)
            if row["low"] is not None:
                axes.plot([row["low"], row["high"]], [-place] * 2, color=color, linewidth=1.6)
            axes.plot(row["difference"], -place, "D", color=color, markersize=4.5)
            axes.annotate(
                f"{row['a']} less {row['b']}",
                (0, -place),
                xycoords=("axes fraction", "data"),
                xytext=(0, 6),
                textcoords="offset points",
                fontsize=7.5,
            )
        axes.set_ylim(-len(shown) + 0.5, 0.8)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
    axes.set_xlabel(f"difference in {content['names'][score]}", fontsize=8)
    return figure


def curves(content: Row) -> Figure:
    """Return the headline score of each arm over the number of real images that fit."""
    rows = [row for row in content["means"] if row["score"] == HEADLINE]
    classifiers = list(dict.fromkeys(row["classifier"] for row in rows))
    figure = Figure(figsize=(INCHES, 2.6 * len(classifiers)), layout="constrained")
    panels = figure.subplots(len(classifiers), squeeze=False, sharex=True).flat
    for axes, classifier in zip(panels, classifiers, strict=True):
        axes.set_title(classifier.replace("_", " "), fontsize=9, loc="left")
        part = [row for row in rows if row["classifier"] == classifier]
        for i, title in enumerate(dict.fromkeys(row["title"] for row in part)):
            points = sorted(
                (content["n_fit"][f"{row['train_share']:g}"], row["mean"])
                for row in part
                if row["title"] == title
            )
            mark, color = MARKERS[i % len(MARKERS)], COLORS[i % len(COLORS)]
            x, y = zip(*points, strict=True)
            axes.plot(x, y, marker=mark, color=color, markersize=4, linewidth=1.2, label=title)
        axes.set_ylabel(NAMES[HEADLINE], fontsize=8)
    axes.set_xlabel("real images that fit (mean over folds)", fontsize=8)
    axes.legend(frameon=False, fontsize=7.5)
    return figure
