"""What a prepared folder holds, as data: the content of card.json."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

import numpy as np
import pandas as pd
from numpy.typing import NDArray

SPLITS = ("train", "val", "test")
COUNTED = ("found", "kept", "warned", "dropped", *SPLITS)


class CheckRule(TypedDict):
    """A check that the images went through."""

    rule: str  # in words, with threshold: "sharpness under 0.25 of the median"
    verdict: Literal["keep", "warn", "drop"]  # of an image that fails it


class Speed(TypedDict):
    """How fast the configured run trains on one kind of device, measured."""

    device: str  # "NVIDIA H200"
    gpu: bool
    images_per_s: float
    steps_timed: int  # training steps behind images_per_s
    batch_size: int
    flops_per_image: float  # of convolutions and matrix products
    memory_bytes: int  # at most: of a GPU, or of the process on a CPU
    watts: float | None  # that the device draws; None where it cannot be measured


class Forecast(TypedDict):
    """What the images of one magnification suffice for."""

    n_train: int
    n_held_out: int
    extractor: str
    extractor_sha256: str
    n_each: int  # real images on each side of a real-vs-real comparison
    comparisons: int  # random comparisons behind the floor
    unit: str  # what is never on both sides of one: "patient", "duplicate cluster"
    kid_floor: float  # mean KID of real against real
    kid_floor_range: tuple[float, float]  # holds 95 % of them
    smallest_difference: float  # of KID, that n_held_out images can tell apart
    total_images: int  # length of the configured run
    speeds: Sequence[Speed]


class Facts(TypedDict):
    """What a card tells beyond the manifest; every key is needed."""

    root: str  # folder of the originals
    settings: Mapping[str, Any]  # that made the prepared folder
    data_sha256: str  # of manifest and settings
    versions: Mapping[str, str]  # package -> version
    license: str | None  # of the images; None if unknown
    checks: Mapping[str, CheckRule]  # all of them, in the order to be shown
    ignored: Mapping[str, int]  # extension -> files left aside as no images
    unreadable_folders: Sequence[str]
    forecast: Mapping[str, Forecast | str]  # by magnification; a str says why there is none


def summarize(manifest: pd.DataFrame, facts: Facts) -> dict[str, Any]:
    """Return the content of card.json: plain lists, dicts, text and numbers, None for NaN.

    "kept" counts the images with a warning too; "warned" says how many these are.

    Args:
        manifest: a row an image, or a tile of one.
        facts: what else is known.

    Raises:
        ValueError: if a reason in the manifest begins with no check of facts.
    """
    patients = manifest["patient"].dropna()
    duplicates = clusters(manifest)
    conflicts = [cluster for cluster in duplicates if cluster["conflict"]]
    summary = {
        "schema": "mbgan-card/1",
        **{key: facts[key] for key in ("root", "data_sha256", "license", "settings", "versions")},
        "images": marks(manifest).sum().to_dict()
        | {"files": manifest["name"].nunique(), "tiles": int((manifest["tile"] != "").sum())},
        "magnifications": names(manifest["magnification"], but=""),
        "classes": names(manifest["class"], but="unknown"),
        "patients": {"number": patients.nunique(), "images": len(patients)},
        "counts": table(manifest, ["magnification", "class"]),
        "by_patient": table(manifest, ["patient", "magnification", "class"]),
        "checks": checks(manifest, facts["checks"]),
        "duplicates": {
            "clusters": len(duplicates),
            "images": sum(len(cluster["images"]) for cluster in duplicates),
            "exact": sum(cluster["kind"] == "exact" for cluster in duplicates),
            "near": sum(cluster["kind"] == "near" for cluster in duplicates),
            "conflicts": len(conflicts),
            "conflict_images": sum(len(cluster["images"]) for cluster in conflicts),
            "list": duplicates,
        },
        "unplaced": {
            "magnification": int((manifest["magnification"] == "").sum()),
            "class": int((manifest["class"] == "unknown").sum()),
        },
        "ignored": facts["ignored"],
        "unreadable_folders": facts["unreadable_folders"],
        "stain": {
            stain: {when: spread(stain_vectors(manifest, stain, when)) for when in STAIN_WHEN}
            for stain in STAINS
        },
        "sizes": sizes(manifest),
        "um_per_pixel": [
            {"magnification": magnification, "images": len(rows)}
            | {key: getattr(rows, key)() for key in ("min", "median", "max")}
            for magnification, rows in manifest.dropna(subset="um_per_pixel").groupby(
                "magnification"
            )["um_per_pixel"]
        ],
        "forecast": {
            magnification: forecast if isinstance(forecast, str) else with_hours(forecast)
            for magnification, forecast in facts["forecast"].items()
        },
    }
    return plain(summary)


def marks(manifest: pd.DataFrame) -> pd.DataFrame:
    """Return for each row 0 or 1 in the columns COUNTED, whose sums are what a card counts."""
    verdict = manifest["verdict"]
    columns = {"found": verdict.notna(), "kept": verdict != "drop"}
    columns |= {"warned": verdict == "warn", "dropped": verdict == "drop"}
    columns |= {split: manifest["split"] == split for split in SPLITS}
    return pd.DataFrame(columns).astype(int)


def table(manifest: pd.DataFrame, by: list[str]) -> list[dict[str, Any]]:
    """Return for each combination that occurs of the columns by its counts, and its patients."""
    rows = manifest[by].assign(patients=manifest["patient"]).join(marks(manifest))
    groups = rows.groupby(by)
    counts = groups[[*COUNTED]].sum().assign(patients=groups["patients"].nunique())
    return sorted(
        counts.reset_index().to_dict("records"),
        key=lambda row: [natural(row[column]) for column in by],
    )


def names(column: pd.Series, but: str) -> list[str]:
    """Return the different values of a column in natural order, without the one for unknown."""
    return sorted(set(column) - {but}, key=natural)


def natural(text: str) -> list[str | int]:
    """Return a key by which 10x comes before 100x, patient 9 before 10, and nothing last."""
    parts = re.split(r"(\d+)", text)
    return [text == "", *(int(part) if i % 2 else part for i, part in enumerate(parts))]


def checks(manifest: pd.DataFrame, rules: Mapping[str, CheckRule]) -> list[dict[str, Any]]:
    """Return for each check its rule, and how many images it marked; some fail several."""
    marked = {name: {"keep": 0, "warn": 0, "drop": 0} for name in rules}
    for text, verdict in zip(manifest["reasons"], manifest["verdict"], strict=True):
        for name in split_reasons(text, rules):
            marked[name][verdict] += 1
    return [
        {"name": name, "rule": rule["rule"], "verdict": rule["verdict"]}
        | {"images": sum(marked[name].values()), "dropped": marked[name]["drop"]}
        for name, rule in rules.items()
    ]


def split_reasons(text: str, rules: Mapping[str, CheckRule]) -> dict[str, str]:
    """Return what each check had to say in reasons joined with "; ".

    A file's name in a reason may itself hold "; ": a new reason begins only with a check.

    >>> split_reasons("dark (a; b.png); blank; dark (c)", dict.fromkeys(["dark", "blank"]))
    {'dark': 'a; b.png; c', 'blank': ''}

    Raises:
        ValueError: if the text begins with no check.
    """
    reasons: list[str] = []
    for part in text.split("; ") if text else ():
        if part.split(" (")[0] in rules:
            reasons.append(part)
        elif reasons:
            reasons[-1] += f"; {part}"
        else:
            raise ValueError(
                f"a reason must begin with a check ({', '.join(rules)}), got {text!r}; "
                "list the check in the facts of the card"
            )
    found: dict[str, list[str]] = {}
    for reason in reasons:
        name, _, detail = reason.partition(" (")
        found.setdefault(name, []).append(detail.removesuffix(")"))
    return {name: "; ".join(details) for name, details in found.items()}


def clusters(manifest: pd.DataFrame) -> list[dict[str, Any]]:
    """Return all clusters of two images and more; conflicts of labels first, then the largest."""
    rows = manifest[(manifest["cluster"] >= 0) & manifest["cluster"].duplicated(keep=False)]
    tile = rows["tile"].where(rows["tile"] == "", "#" + rows["tile"])
    groups = rows.assign(images=rows["name"] + tile).groupby("cluster")
    found = pd.DataFrame(
        {
            "kind": np.where(groups["pixels_sha256"].nunique() == 1, "exact", "near"),
            "conflict": groups["conflict"].any(),
            "images": groups["images"].agg(sorted),
        }
    )
    return sorted(
        found.reset_index().to_dict("records"),
        key=lambda cluster: (not cluster["conflict"], -len(cluster["images"]), cluster["images"]),
    )


STAINS, STAIN_WHEN = ("hematoxylin", "eosin"), ("before", "after")


def stain_vectors(manifest: pd.DataFrame, stain: str, when: str) -> NDArray[np.float64]:
    """Return the unit optical-density vectors [N, 3] of the rows that have one."""
    columns = [f"{stain[0]}_{channel}_{when}" for channel in "rgb"]
    return manifest[columns].dropna().to_numpy(float)


def spread(vectors: NDArray[np.float64]) -> dict[str, Any]:
    """Return the mean direction of vectors [N, 3] and their median angle to it, in degrees."""
    if not len(vectors):
        return {"images": 0, "mean": None, "degrees": None}
    mean = vectors.mean(0)
    mean /= np.linalg.norm(mean)
    angles = np.degrees(np.arccos(np.clip(vectors @ mean, -1, 1)))  # [N]
    return {"images": len(vectors), "mean": mean.tolist(), "degrees": float(np.median(angles))}


def sizes(manifest: pd.DataFrame) -> list[dict[str, int]]:
    """Return each size of a readable original in pixels, with its number of files."""
    files = manifest[manifest["width"] > 0].drop_duplicates("name")
    counts = files.value_counts(["width", "height"]).reset_index(name="files")
    return counts.sort_values(["files", "width", "height"], ascending=False).to_dict("records")


def with_hours(forecast: Forecast) -> dict[str, Any]:
    """Return a forecast with the hours that the configured run takes on each device."""
    speeds = [
        {**speed, "hours": forecast["total_images"] / speed["images_per_s"] / 3600}
        for speed in forecast["speeds"]
    ]
    return {**forecast, "speeds": speeds}


def plain(value: Any) -> Any:
    """Return a value as JSON knows it: str for paths, None for NaN and infinities."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, (bool, int, float, str, type(None))) else str(value)
