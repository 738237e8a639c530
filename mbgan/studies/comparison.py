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
from mbgan.studies.run_table import RunRecord, Section, sections, why_apart

Row = dict[str, Any]


def compare(runs: Sequence[RunRecord]) -> Row:
    """Return what a report tells of runs: each section's ranking, each run, and what differs.

    Runs are ranked by KID, and only with those of the same data, split, magnification, image size,
    extractor and weights of it.
    """
    parts = sections(runs)
    known = [
        part for part, members in parts.items() if any(run.rows or run.scores for run in members)
    ]
    return {
        "sections": [section(part, parts[part], known) for part in known],
        "runs": [about(run) for run in sorted(runs, key=lambda run: natural(run.name))],
        "differences": differences(runs),
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
    best = probability_of_best(measured) if len(measured) > 1 else {}
    entry = next((e for run in runs if (e := run.entry("kid"))), {})
    floor = entry.get("floor", {})
    smallest = smallest_kid_difference(floor, part.n_real)
    pairs = [pair_row(pair, smallest) for pair in compare_pairs(measured)]
    rows = [group_row(name, group) for name, group in members.items()]
    for row in rows:
        worse = sum(row["name"] == pair["loser"] for pair in pairs)
        better = sum(row["name"] == pair["winner"] for pair in pairs)
        row["places"] = (1 + worse, len(measured) - better) if row["kid"] else None
        row["p_best"] = best.get(row["name"])
    rows.sort(key=lambda row: (row["kid"] is None, row["kid"].mean if row["kid"] else 0))
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
    """Return a comparison, which group it finds better, if any, and what it says in words."""
    winner, loser = (pair.a, pair.b) if pair.difference < 0 else (pair.b, pair.a)
    told = False
    if pair.p_holm is None:
        word = pair.reason
    elif pair.p_holm >= LEVEL:
        word = "not told apart"
    elif smallest is not None and abs(pair.difference) < smallest:
        word = "differ, by less than these images can tell"
    else:
        word, told = f"{winner} is better", True
    ends = {"winner": winner, "loser": loser} if told else {"winner": None, "loser": None}
    return {**vars(pair), **ends, "word": word}


def verdict(groups: list[Row], pairs: list[Row]) -> str:
    """Return in a sentence or two what a ranking says; ties are called ties."""
    ranked = [row for row in groups if row["places"]]
    if not ranked:
        return "No run here can be ranked; the table of all runs says why."
    first = ranked[0]["name"]
    if len(ranked) == 1:
        return f"Only {first} can be ranked: there is nothing to compare it with."
    chance = f"best with probability {ranked[0]['p_best']:.2f}"
    if not any(pair["p"] is not None for pair in pairs):
        seeds = max(row["kid"].n_seeds for row in ranked)
        each = "one seed each" if seeds == 1 else "too few seeds in common"
        return (
            f"Not decided: {first} has the lowest KID ({chance}), but no difference can be tested "
            f"({each}). Other seeds may rank otherwise; train each with 3 or more."
        )
    tied = [row["name"] for row in ranked if row["places"][0] == 1]
    if tied == [first] and ranked[0]["places"][1] == 1:
        return f"{first} is better than every other ({chance})."
    if len(tied) == len(ranked):
        return f"A tie: no test tells any from first place. {first} has the lowest KID ({chance})."
    return f"A tie for first place: {'; '.join(tied)}. {first} has the lowest KID ({chance})."


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
