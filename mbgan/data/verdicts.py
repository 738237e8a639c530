"""What was seen of all images becomes the manifest: verdicts, duplicate clusters, splits."""

from base64 import b64decode
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd

from mbgan.data.duplicates import Fingerprint, find_duplicates
from mbgan.data.folder import ImageFile
from mbgan.data.quality import MEASURES, Check, judge
from mbgan.data.splits import assign, merge_groups

Verdict = Literal["keep", "warn", "drop"]
STAINS = [f"{stain}_{channel}" for stain in "he" for channel in "rgb"]
COLORS = [f"{name}_density" for name in STAINS]  # optical, of the strongest stains
BEFORE, AFTER = ([f"{name}_{when}" for name in STAINS] for when in ("before", "after"))


@dataclass(frozen=True)
class DuplicateRules:
    """What becomes of duplicates; they never straddle a split in any case.

    Args:
        exact: all but the first image of the same pixels, in any of the eight poses.
        near: images that differ by compression, size, pose or a few pixels at the edges; to drop
            them leaves the first.
        conflict: images whose duplicates have another class or magnification.
        threshold: smallest correlation of near duplicates, in (0, 1].

    Raises:
        ValueError: if a verdict is none, or threshold is out of range.
    """

    exact: Verdict = "drop"
    near: Verdict = "warn"
    conflict: Verdict = "warn"
    threshold: float = 0.8

    def __post_init__(self) -> None:
        for name in ("exact", "near", "conflict"):
            if getattr(self, name) not in get_args(Verdict):
                raise ValueError(
                    f"duplicates.{name} must be keep, warn or drop, got {getattr(self, name)!r}"
                )
        if not 0 < self.threshold <= 1:
            raise ValueError(f"duplicates.threshold must be in (0, 1], got {self.threshold}")


def decide(
    seen: Iterable[tuple[ImageFile, dict[str, Any]]],
    checks: Mapping[str, Check],
    rules: DuplicateRules,
    shares: Mapping[str, float],
    seed: int,
) -> pd.DataFrame:
    """Return the manifest, but for what rendering adds, sorted by name.

    Args:
        seen: of each file the rows that `mbgan.data.inspection.inspect` returned.
        checks: of quality, by name.
        rules: for duplicates.
        shares: of the images, for "val" and "test".
        seed: of the split.

    Raises:
        ValueError: if nothing is kept, or too few groups of images are to split.
    """
    rows, prints = [], list[Fingerprint | None]()
    for file, row in sorted(seen, key=lambda pair: (pair[0].name, pair[1].get("tile", ""))):
        rows.append(_row(file, row))
        prints.append(_mark(row.get("fingerprint")))
    table = pd.DataFrame(rows)
    reasons = [list[tuple[str, Verdict]]() for _ in rows]
    for i, row in enumerate(rows):
        if row["unreadable"]:
            reasons[i].append((f"unreadable ({row['unreadable']})", "drop"))
        if not row["magnification"]:
            reasons[i].append(("no_magnification (its path tells none)", "drop"))
    for i, found in enumerate(judge(table, checks)):
        reasons[i] += found
        if any(finding.verdict == "drop" for finding in found):
            prints[i] = None  # shows nothing: empty tiles, all alike, would join all fields
    _mark_duplicates(table, prints, rules, reasons)
    table["verdict"] = [_worst(found) for found in reasons]
    table["reasons"] = ["; ".join(text for text, _ in found) for found in reasons]
    siblings = table.groupby("name", sort=False).ngroup()  # tiles of one field
    table["group"] = merge_groups(table["patient"].tolist(), table["cluster"].tolist(), siblings)
    kept = table["verdict"] != "drop"
    if not kept.any():
        why = Counter(text.split(" (")[0] for found in reasons for text, _ in found)
        raise ValueError(
            f"at least 1 image must be kept, got none of {len(rows)}: "
            f"{', '.join(f'{check} ({n})' for check, n in why.most_common())}; change checks, or "
            "set naming.magnification=100x where paths tell none"
        )
    table["split"] = ""
    part = table[kept]
    table.loc[kept, "split"] = assign(
        part["class"].tolist(),
        part["magnification"].tolist(),
        part["group"].tolist(),
        (part["name"] + part["tile"]).tolist(),
        shares,
        seed,
    )
    return table.drop(columns="unreadable")


def _row(file: ImageFile, row: Mapping[str, Any]) -> dict[str, Any]:
    measures, marks = row.get("measures", {}), row.get("fingerprint", {})
    return {
        "name": file.name,
        "tile": row.get("tile", ""),
        "image": "",
        "magnification": str(file.magnification or ""),  # who types 40 means a name
        "class": str(file.label),
        "patient": file.patient,
        "unreadable": row["unreadable"],
        "sha256": row.get("sha256", ""),
        "pixels_sha256": marks.get("pixels_sha256", ""),
        "phash": marks.get("phash", ""),
        "width": row.get("width", 0),
        "height": row.get("height", 0),
        "mode": row.get("mode", ""),
        "format": row.get("format", ""),
        "um_per_pixel": row.get("um_per_pixel") or np.nan,
        **{name: measures.get(name, np.nan) for name in MEASURES},
        **dict(zip(COLORS, row.get("stain") or [np.nan] * 6, strict=True)),
        **dict(zip(BEFORE, unit_vectors(row.get("stain")), strict=True)),
        **dict.fromkeys(AFTER, np.nan),
        "unnormalized": "",
    }


def _mark(fields: Mapping[str, str] | None) -> Fingerprint | None:
    if fields is None:
        return None
    structure = b64decode(fields["structure"])
    return Fingerprint(fields["pixels_sha256"], fields["phash"], structure)


def unit_vectors(colors: Sequence[float] | None) -> list[float]:
    """Return the two vectors of 6 densities at length 1, or NaNs for None."""
    if colors is None:
        return [np.nan] * 6
    vectors = np.reshape(colors, (2, 3))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).ravel().tolist()


def _mark_duplicates(
    table: pd.DataFrame,
    prints: Sequence[Fingerprint | None],
    rules: DuplicateRules,
    reasons: list[list[tuple[str, Verdict]]],
) -> None:
    """Add cluster and conflict to the table, and to the reasons what the rules say."""
    there = [i for i, mark in enumerate(prints) if mark is not None]
    found = find_duplicates([m for m in prints if m is not None], rules.threshold)
    table["cluster"] = -1
    table.loc[there, "cluster"] = found.clusters
    # What a path does not tell contradicts nothing: nunique counts no NaN.
    told = table.loc[there].replace({"class": "unknown", "magnification": ""}, np.nan)
    several = told.groupby("cluster")[["class", "magnification"]].nunique()
    torn = several.index[(several > 1).any(axis=1)]
    table["conflict"] = table["cluster"].isin(torn)
    names = (table["name"] + np.where(table["tile"] != "", "#" + table["tile"], "")).tolist()
    # Of the same pixels the first that nothing else speaks against is kept.
    lost = [any(verdict == "drop" for _, verdict in found) for found in reasons]
    first = dict[str, int]()
    for i in sorted(there, key=lambda i: (lost[i], i)):
        original = first.setdefault(table.at[i, "pixels_sha256"], i)
        if original != i:
            reasons[i].append((f"duplicate (of {names[original]})", rules.exact))
    for pair in found.pairs:
        if pair.kind == "near":
            a, b = sorted((there[i] for i in pair[:2]), key=lambda i: (lost[i], i))
            reasons[b].append((f"near_duplicate (of {names[a]})", rules.near))
            if rules.near != "drop":  # else one of them stays
                reasons[a].append((f"near_duplicate (of {names[b]})", rules.near))
    for i in np.flatnonzero(table["conflict"]).tolist():
        others = table[(table["cluster"] == table.at[i, "cluster"]) & (table.index != i)]
        differ = others[
            (others["class"] != table.at[i, "class"])
            | (others["magnification"] != table.at[i, "magnification"])
        ]
        if len(differ):
            other = differ.iloc[0]
            what = f"{other['name']} is {other['magnification']} {other['class']}"
            reasons[i].append((f"label_conflict ({what})", rules.conflict))


def _worst(found: Sequence[tuple[str, Verdict]]) -> Verdict:
    verdicts = {verdict for _, verdict in found}
    return "drop" if "drop" in verdicts else "warn" if "warn" in verdicts else "keep"
