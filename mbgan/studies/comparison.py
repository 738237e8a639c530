"""What can be said of several runs, as data: rankings, differences, costs, what is missing."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from mbgan.studies import score_sheet
from mbgan.studies.card_summary import natural
from mbgan.studies.ranking import (
    LEVEL,
    Comparison,
    compare_pairs,
    estimate,
    probability_of_best,
    smallest_kid_difference,
)
from mbgan.studies.run_table import RunRecord, Section, name_groups, sections, why_apart

Row = dict[str, Any]


def compare(runs: Sequence[RunRecord]) -> Row:
    """Return what a report tells of runs: each section's ranking, each run, and what differs.

    Runs are ranked by KID, and only with those of the same data, split, magnification, image size,
    extractor and weights of it.
    """
    name_groups(runs)
    parts = sections(runs)
    known = [
        part for part, members in parts.items() if any(run.rows or run.scores for run in members)
    ]
    return {
        "sections": [section(part, parts[part], known) for part in known],
        "runs": [about(run) for run in sorted(runs, key=lambda run: natural(run.name))],
        "differences": differences(runs),
        "by": "kid",
    }


def section(part: Section, runs: list[RunRecord], others: list[Section]) -> Row:
    """Return the ranking of runs that may be ranked together."""
    members: dict[str, list[RunRecord]] = {}
    for run in sorted(runs, key=lambda run: natural(run.group)):
        members.setdefault(run.group, []).append(run)
    measured = {}
    for name, group in members.items():
        found = [run.measurement("kid") for run in group if not run.unranked]
        if present := [m for m in found if m is not None]:
            measured[name] = present
    best = probability_of_best(measured)
    rows = [group_row(name, group) | {"p_best": best.get(name)} for name, group in members.items()]
    rows.sort(key=lambda row: (row["kid"] is None, row["kid"].mean if row["kid"] else 0))
    for place, row in enumerate(rows):
        row["rank"] = place + 1 if row["kid"] is not None else None
    entry = next((e for run in runs if (e := run.entry("kid"))), {})
    floor = entry.get("floor", {})
    smallest = smallest_kid_difference(floor, part.n_real)
    pairs = [pair_row(pair, smallest) for pair in compare_pairs(measured)]
    return {
        "title": part.title,
        "part": part,
        "groups": rows,
        "runs": runs,
        "pairs": pairs,
        "floor": floor if "range" in floor else None,
        "smallest": smallest,
        "verdict": verdict(rows, pairs),
        "apart": sorted(
            {word for other in others if other != part for word in why_apart(part, other)}
        ),
    }


def group_row(name: str, group: list[RunRecord]) -> Row:
    """Return what is known of runs that differ by their seed."""
    ranked = [run for run in group if not run.unranked]
    keys = dict.fromkeys(key for run in group for key in (run.scores or {}).get("scores", {}))
    scores = {}
    for key in keys:
        found = [run.measurement(key.removesuffix(f"/{run.extractor}")) for run in ranked or group]
        if present := [m for m in found if m is not None]:
            scores[key.split("/")[0]] = estimate(present)
    copies = {
        word
        for run in group
        if run.scores and (word := run.scores.get("memorization", {}).get("verdict"))
    }
    return {
        "name": name,
        "runs": group,
        "kid": scores.get("kid") if ranked else None,
        "scores": scores,
        "n_ranked": len(ranked),
        "unranked": [f"{run.name}: {run.unranked}" for run in group if run.unranked],
        "copies": next((w for w in ("copying", "suspicious", "fine") if w in copies), None),
        "images_seen": mean(run.images_seen for run in group),
        "minutes": mean(run.minutes for run in group),
        "parameters": mean(run.parameters for run in group),
        "peak_memory": mean(run.peak_memory for run in group),
    }


def pair_row(pair: Comparison, smallest: float | None) -> Row:
    """Return a comparison and what it says in words."""
    if pair.p_holm is None:
        word = pair.reason
    elif pair.p_holm >= LEVEL:
        word = "not told apart"
    elif smallest is not None and abs(pair.difference) < smallest:
        word = "differ, by less than these images can tell"
    else:
        word = f"{pair.a if pair.difference < 0 else pair.b} is better"
    return {**vars(pair), "word": word, "told": word.endswith("is better")}


def verdict(groups: list[Row], pairs: list[Row]) -> str:
    """Return in a sentence or two what a ranking says."""
    ranked = [row for row in groups if row["rank"]]
    if not ranked:
        return "No run here can be ranked; the table says why."
    first = ranked[0]["name"]
    if len(ranked) == 1:
        return f"Only {first} can be ranked: there is nothing to compare it with."
    sure = f"{first} has the lowest KID, and is best with probability {ranked[0]['p_best']:.2f}."
    beside = [pair for pair in pairs if first in (pair["a"], pair["b"])]
    beaten = [pair for pair in beside if pair["told"] and pair["word"].startswith(f"{first} is")]
    if not any(pair["p"] is not None for pair in pairs):
        seeds = max(row["kid"].n_seeds for row in ranked)
        each = "one seed each" if seeds == 1 else "too few seeds in common"
        return f"{sure} No difference is tested ({each}): other seeds may rank otherwise."
    if len(beaten) == len(beside):
        return f"{sure} It is told apart from every other."
    if not beaten:
        return f"{sure} It is told apart from none of the others."
    return f"{sure} It is told apart from {len(beaten)} of the {len(beside)} others."


def about(run: RunRecord) -> Row:
    """Return a run's line in the table of all runs."""
    last = next(
        (row[k] for row in run.rows[::-1] for k in row if k == f"kid/{run.extractor}"), None
    )
    kid = run.measurement("kid")
    return {
        "name": run.name,
        "group": run.group,
        "section": run.section.title if run.extractor != "unknown" else "",
        "status": run.status,
        "seed": run.seed,
        "kid": kid,
        "last_kid": last,
        "images_seen": run.images_seen,
        "minutes": run.minutes,
        "notes": [run.unranked] * bool(run.scores and run.unranked) + run.problems,
    }


def differences(runs: Sequence[RunRecord]) -> Row:
    """Return for each setting that is not the same in all runs its value in each, by run name."""
    keys = sorted({key for run in runs for key in run.settings} - {"run_dir"})
    varied = [k for k in keys if len({repr(run.settings.get(k)) for run in runs}) > 1]
    return {run.name: {key: run.settings.get(key) for key in varied} for run in runs}


def results(runs: Sequence[RunRecord]) -> pd.DataFrame:
    """Return a tidy table, a row a run and score; of unscored runs their last evaluation."""
    tables = []
    for run in runs:
        head = {
            "run": run.name,
            "group": run.group,
            "model": run.model,
            "magnification": run.magnification,
            "image_size": run.section.image_size,
            "seed": run.seed,
            "status": run.status,
            "extractor": run.extractor,
            "data_sha256": run.section.data_sha256,
            "minutes": run.minutes,
            "parameters": run.parameters,
            "unranked": run.unranked,
        }
        if run.scores is not None:
            table = score_sheet.rows(run.scores).drop(columns=["source", "magnification"])
        else:
            last = run.rows[-1] if run.rows else {}
            found = [{"score": k, "value": v} for k, v in last.items() if k.endswith(run.extractor)]
            some = {key: last.get(key) for key in ("images_seen", "n_real", "n_fake")}
            note = {"note": "; ".join(run.problems)}
            table = pd.DataFrame([some | row | note for row in found or [{}]])
        table = table.dropna(axis=1, how="all")
        tables.append(pd.DataFrame([head] * len(table)).join(table))
    return pd.concat(tables, ignore_index=True)


def mean(values: Any) -> float | None:
    """Return the mean of the numbers among values; None if there are none."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
