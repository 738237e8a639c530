"""What a person reads of a reader study: a table for the terminal, two for spreadsheets, a page."""

import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mbgan.documents import check_kinds, parse_json
from mbgan.runs import write_text
from mbgan.studies.page import count, environment, writable
from mbgan.studies.reader_answers import REAL, SYNTHETIC
from mbgan.studies.reader_statistics import LEVEL, check_size, images_needed, power_of, rate

SHOWN = 24  # images of each kind on the page
NOTES = (
    "Sensitivity is the share of generated images called synthetic, specificity that of real ones "
    "called real. AUROC takes confidence into account; d\u2032 is log-linear corrected (Hautus "
    "1995), and c above 0 leans to \u201creal\u201d. Who guesses has an accuracy and AUROC of 0.5 "
    "and d\u2032 of 0.",
    "Not told from guessing does not mean that the images are alike: see what accuracy is not "
    "excluded.",
    "Answer files that were changed after download are refused. A reader who makes a new seal with "
    "the page's own code, answers twice under two codes or asks a colleague is not noticed.",
)


def plan(accuracy: float, power: float, n: int) -> list[str]:
    """Return what n images can tell of one reader, and how many would be enough, as sentences.

    Raises:
        ValueError: if a number is out of range.
    """
    check_size(n)
    needed = images_needed(accuracy, power)
    half = rate(n // 2, n)
    assert half is not None, "a design has images"
    low, high = half["interval"]
    return [
        f"a reader who is right in {accuracy:.0%} of images is told from guessing with a power of "
        f"{power:.0%} by {needed} images or more, half of them real (exact binomial test, 0.05, "
        f"two-sided); {n} have a power of {power_of(n, accuracy):.0%}; several images of one "
        "patient count for less",
        f"a reader who is right in half of {n} images leaves an accuracy of {low:.0%} to "
        f"{high:.0%} open",
    ]


def table(result: dict[str, Any]) -> str:
    """Return the content of scores.json as text for the terminal."""
    out = Console(file=io.StringIO(), width=max(132, shutil.get_terminal_size((120, 40)).columns))
    lines = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in (
        "reader",
        "right",
        "accuracy",
        "sensitivity",
        "specificity",
        "AUROC",
        "d'",
        "same again",
    ):
        lines.add_column(
            name, justify="left" if name == "reader" else "right", no_wrap=name != "reader"
        )
    for row in result["readers"]:
        k, n = row["accuracy"]["k"], row["accuracy"]["n"]
        d = "-" if row["d_prime"] is None else f"{row['d_prime']:.2f}"
        cells = [
            interval(row[name]) for name in ("accuracy", "sensitivity", "specificity", "auroc")
        ]
        again = row["consistency"]
        same = f"{again['k']} of {again['n']}" if again else "-"
        lines.add_row(Text(row["reader"]), f"{k} of {n}", *cells, d, same)
    out.print(lines)
    for line in [*sentences(result), units(result)]:
        out.print(line, markup=False, highlight=False, soft_wrap=True)
    assert isinstance(out.file, io.StringIO)
    return "\n".join(line.rstrip() for line in out.file.getvalue().splitlines())


def sentences(result: dict[str, Any]) -> list[str]:
    """Return what was found, in words."""
    found = []
    for row in result["readers"]:
        left = f" ({count(row['n_left'], 'image')} left unanswered)" if row["n_left"] else ""
        found.append(f"{row['reader']}: {row['verdict']}{left}")
        if row["halves"] and row["halves"]["p"] < LEVEL:
            before, after = (part["value"] for part in row["halves"]["accuracy"])
            p = row["halves"]["p"]
            found.append(
                f"{row['reader']}: {before:.0%} right in the first half, {after:.0%} in the "
                f"second (p = {p:.2g})"
            )
    if result["mean_accuracy"]:
        n = count(len(result["readers"]), "reader")
        found.append(f"Mean accuracy of these {n}: {interval(result['mean_accuracy'])}")
        fleiss, pairs = result["agreement"]["fleiss_kappa"], result["agreement"]["pairs"]
        n = count(result["agreement"]["n_images"], "image")
        known = [f"{a['readers'][0]} and {a['readers'][1]} {number(a['kappa'])}" for a in pairs]
        found.append(
            f"Agreement of readers beyond chance: Fleiss' kappa {number(fleiss)} on {n}; "
            f"Cohen's: {', '.join(known)}"
        )
    return found


def units(result: dict[str, Any]) -> str:
    """Return what intervals count, as a sentence."""
    known, patients = result["n_patient_known"], result["n_patients"]
    exact = "of shares exact (Clopper-Pearson), of AUROC after Newcombe"
    if not known:
        return (
            f"95 % intervals: {exact}. Patients of the real images are unknown: images count as "
            "independent, which is too narrow if patients gave several"
        )
    if known == patients:
        return f"95 % intervals: {exact}; each real image is of another patient"
    return (
        f"95 % intervals count patients, not images: {known} real images are of {patients} "
        "patients (Korn and Graubard 1998). The exact ones, which count images, are in scores.json"
    )


def interval(found: dict[str, Any] | None) -> str:
    """Return a number with its interval; - for none."""
    if found is None:
        return "-"
    low, high = found.get("patient_interval") or found["interval"]
    return f"{found['value']:.2f} ({low:.2f} to {high:.2f})"


def number(x: float | None) -> str:
    """Return a number with two digits; - for none."""
    return "-" if x is None else f"{round(x, 2) + 0:.2f}".replace("-", "\u2212")


def write(result: dict[str, Any], out: Path, page: Path) -> None:
    """Write scores.json, readers.csv, images.csv and report.html into a folder.

    Args:
        result: what was found.
        out: folder, made if it is missing.
        page: the study's page, whose images the report shows; without it, it shows none.
    """
    write_text(out / "scores.json", json.dumps(result, indent=2) + "\n")
    readers = pd.json_normalize(result["readers"], sep="_")
    write_text(out / "readers.csv", split_intervals(readers).to_csv(index=False))
    images = pd.DataFrame(result["images"])
    images["notes"] = images["notes"].map(" | ".join)
    write_text(out / "images.csv", images.to_csv(index=False))
    missed = {
        truth: [
            row
            for row in result["images"]
            if row["truth"] == truth and row["n_right"] < row["n_readers"]
        ]
        for truth in (SYNTHETIC, REAL)
    }
    text = (
        environment()
        .get_template("reader_report.html.j2")
        .render(
            result=result,
            sentences=sentences(result),
            interval=interval,
            number_of=number,
            missed=missed,
            shown=SHOWN,
            pictures=pictures(page, result["study"]),
            notes=(units(result) + ".", *NOTES),
        )
    )
    write_text(out / "report.html", writable(text))


def split_intervals(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table with a column for each end of an interval, in place of a list."""
    columns = dict[str, Any]()
    for name in [name for name in table if not name.startswith("halves_")]:
        if not name.endswith("_interval"):
            columns[name] = table[name]
            continue
        for end, i in (("low", 0), ("high", 1)):
            column = [x[i] if isinstance(x, list) else None for x in table[name]]
            columns[name.removesuffix("interval") + end] = column
    return pd.DataFrame(columns)


def pictures(page: Path, study: str) -> dict[str, str]:
    """Return a study's images as data URIs, by their names; none if its page is not there."""
    if not page.is_file():
        return {}
    found = re.search(
        r'<script type="application/json" id="study">(.*?)</script>',
        page.read_text(encoding="utf-8"),
        re.S,
    )
    content = parse_json(found[1], str(page)) if found else {}
    check_kinds([content], {"*": dict, "*.images": dict, "*.images.*": str}, page)
    return dict(content["images"]) if content.get("study") == study else {}
