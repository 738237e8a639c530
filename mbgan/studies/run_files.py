"""The files of run folders as a comparison reads them: of the right kinds, or with a reason."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mbgan.documents import check_kinds, read_object
from mbgan.runs import Run
from mbgan.studies import score_sheet
from mbgan.studies.page import dotted
from mbgan.studies.scoring import VERSION

Settings = dict[str, Any]  # of a config, by dotted name
LoadConfig = Callable[[Path], Settings]
Number = int | float
SETTINGS = {  # what a comparison reads of a config, by dotted name
    **dict.fromkeys(("seed", "image_size", "data.split_seed"), int | None),
    **dict.fromkeys(("full_metrics.max_images", "data.held_out"), Number | None),
}
RECORD = {  # of run.json
    **dict.fromkeys(("status", "data.sha256", "data.magnification"), str),
    **dict.fromkeys(("data", "parameters"), dict | None),
    **dict.fromkeys(("images_seen", "best_images_seen", "peak_memory_bytes"), int | None),
    **{"data.n_held_out": int, "parameters.*": int, "earlier": list | None, "earlier.*": dict},
    **dict.fromkeys(("wall_s", "earlier.*.wall_s"), Number | None),
}
SCORES = {  # of scores.json, of all images and of each condition
    f"{prefix}{name}": kind
    for prefix in ("", "by_condition.*.")
    for name, kind in {
        **{"scores": dict, "scores.*": dict, "scores.*.value": Number | None, "n_real": int},
        **{"scores.*.interval": list, "scores.*.interval.*": Number, "scores.*.floor": dict},
        **{"scores.*.floor.range": list, "scores.*.floor.range.*": Number, "n_fake": int},
        **dict.fromkeys(("scores.*.floor.mean", "scores.*.p"), Number | None),
        **dict.fromkeys(("scores.*.floor.n_each", "scores.*.floor.splits"), int),
        **{"memorization": dict, "memorization.verdict": str | None},
        **{"memorization.share": Number | None, "images_seen": int | None},
        **dict.fromkeys(("extractor", "checkpoint_sha256", "data_sha256"), str),
        **{"by_condition": dict, "by_condition.*": dict},
    }.items()
}


def read_settings(run: Run, load: LoadConfig) -> Settings:
    """Return the settings of a run's config by their dotted names, those that are set.

    Raises:
        ValueError: if one that is compared is of another kind.
    """
    settings = {k: v for k, v in dotted(load(run.config)) if v not in (None, {}, [])}
    for name, kind in SETTINGS.items():
        check_kinds({"it": settings.get(name)}, {"it": kind | None}, f"{run.config}: {name}")
    return settings


def read_record(run: Run) -> dict[str, Any]:
    """Return run.json.

    Raises:
        ValueError: if a part of it is of another kind.
    """
    record = read_object(run.status)
    check_kinds(record, RECORD, run.status.name)
    return record


def read_rows(run: Run) -> list[dict[str, Any]]:
    """Return the evaluations of a run.

    Raises:
        ValueError: if what they say is no number.
    """
    rows = run.read_metrics()
    check_kinds(rows, {"*.*": Number | str | None}, run.metrics.name)
    for row in rows:
        kids = {key: value for key, value in row.items() if key.startswith("kid/")}
        check_kinds(kids, {"*": Number | None}, run.metrics.name)
    return rows


def read_scores(run: Run) -> dict[str, Any]:
    """Return scores.json of the best checkpoint.

    Raises:
        ValueError: if it is of another version, or has no KID.
    """
    scores = read_object(run.scores(), "scores", "extractor", "run")
    again = f"make it anew: python -m mbgan.evaluate run={run.folder}"
    if scores.get("version") != VERSION:
        was = scores.get("version", "unknown")
        raise ValueError(f"its version must be {VERSION}, got {was}; {again}")
    check_kinds(scores, SCORES, run.scores().name)
    score_sheet.rows(scores)  # has all that a table needs
    if min(scores["n_real"], scores["n_fake"]) < 1:
        raise ValueError(f"it is of no images; {again}")
    kid = scores["scores"].get(f"kid/{scores['extractor']}", {})
    if not isinstance(kid.get("value"), float) or not math.isfinite(kid["value"]):
        raise ValueError(f"it has no KID ({kid.get('reason', 'damaged')}); {again}")
    return scores
