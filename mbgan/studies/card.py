"""The data card: one page that tells a lab what images they have, and its content as data."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from mbgan.runs import write_text
from mbgan.studies.card_figures import data_uri, size_figure, stain_figures
from mbgan.studies.card_summary import Facts, natural, split_reasons, summarize

SHOWN = 24  # pictures in a contact sheet, clusters in a list, sample sheets
IN_CLUSTER = 4  # pictures of one cluster
SAMPLES = 6  # pictures of one class at one magnification
LINES = 200  # rows of a table, names in a list

Row = dict[str, Any]  # of the manifest, by column
Thumbnail = Callable[[str, str], Image.Image | None]  # of name and tile


def write_card(folder: Path, manifest: pd.DataFrame, facts: Facts, thumbnail: Thumbnail) -> None:
    """Write card.html and card.json into a prepared folder.

    The page needs no network and no other file, holds no script, and stays under 10 MB however
    many images there are: what it leaves out it counts, and the manifest has it.

    Args:
        folder: the prepared folder.
        manifest: a row an image, or a tile of one; their order does not matter.
        facts: what else is known.
        thumbnail: returns the original of a name and tile, RGB, of any size; None if unreadable.

    Raises:
        ValueError: if a reason in the manifest begins with no check of facts.
    """
    manifest = manifest.sort_values(["name", "tile"], ignore_index=True)
    known = manifest["patient"].notna()
    manifest["patient"] = manifest["patient"].astype(object).where(known, None)
    card = summarize(manifest, facts)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": "{:,}".format,
        "score": score,
        "count": count,
        "duration": duration,
        "setting": setting,
        "dotted": lambda settings: list(dotted(settings)),
    }
    pictures = Pictures(thumbnail)
    page = environment.get_template("card.html.j2").render(
        card=card,
        sheets=check_sheets(manifest, facts, pictures),
        conflicts=cluster_sheets(manifest, card, True, pictures),
        duplicates=cluster_sheets(manifest, card, False, pictures),
        samples=sample_sheets(manifest, pictures),
        groups=sum(row["kept"] > 0 for row in card["counts"]),
        unplaced=unplaced(manifest),
        stain_figures=stain_figures(manifest),
        size_figure=size_figure(card["sizes"]),
        limits={"lines": LINES, "shown": SHOWN},
    )
    write_text(folder / "card.json", json.dumps(card, indent=2, allow_nan=False) + "\n")
    # A folder whose name is no UTF-8 reaches Python as lone surrogates, which no page can hold.
    write_text(folder / "card.html", page.encode("utf-8", "backslashreplace").decode())


class Pictures:
    """Thumbnails of rows, each loaded once; call it with a row and words on it for a picture.

    Args:
        thumbnail: loads an original.
    """

    def __init__(self, thumbnail: Thumbnail) -> None:
        self.thumbnail = thumbnail
        self.loaded: dict[tuple[str, str], str | None] = {}

    def __call__(self, row: Row, note: str = "") -> Row:
        """Return the row with src, a data URI or None, and the note."""
        key = row["name"], row["tile"]
        if key not in self.loaded:
            image = self.thumbnail(*key)
            self.loaded[key] = None if image is None else data_uri(image)
        return row | {"src": self.loaded[key], "note": note}


def check_sheets(manifest: pd.DataFrame, facts: Facts, pictures: Pictures) -> dict[str, list[Row]]:
    """Return for each check up to SHOWN pictures of what it marked, what was dropped first."""
    marked: dict[str, list[tuple[int, str]]] = {name: [] for name in facts["checks"]}
    for i, text in enumerate(manifest["reasons"]):
        for name, reason in split_reasons(text, facts["checks"]).items():
            marked[name].append((i, reason))
    verdicts = manifest["verdict"]
    sheets = {}
    for name, found in marked.items():
        order = [found[k] for k in np.random.default_rng(0).permutation(len(found))]
        order.sort(key=lambda item: verdicts[item[0]] != "drop")
        sheets[name] = [
            pictures(manifest.loc[i].to_dict(), reason) for i, reason in sorted(order[:SHOWN])
        ]
    return sheets


def cluster_sheets(
    manifest: pd.DataFrame, card: Row, conflict: bool, pictures: Pictures
) -> list[Row]:
    """Return up to SHOWN clusters, those with a conflict of labels or those without."""
    wanted = (group for group in card["duplicates"]["list"] if group["conflict"] == conflict)
    sheets = []
    for group in islice(wanted, SHOWN):
        rows = manifest[manifest["cluster"] == group["cluster"]].head(IN_CLUSTER)
        sheets.append(group | {"pictures": [pictures(row) for row in rows.to_dict("records")]})
    return sheets


def sample_sheets(manifest: pd.DataFrame, pictures: Pictures) -> list[Row]:
    """Return pictures of kept images picked at random, for each class at each magnification."""
    kept = manifest[manifest["verdict"] != "drop"]
    groups = sorted(kept.groupby(["magnification", "class"]), key=lambda g: [*map(natural, g[0])])
    return [
        {
            "magnification": magnification,
            "class": label,
            "pictures": [
                pictures(row)
                for row in rows.sample(min(SAMPLES, len(rows)), random_state=0).to_dict("records")
            ],
        }
        for (magnification, label), rows in groups[:SHOWN]
    ]


def unplaced(manifest: pd.DataFrame) -> list[str]:
    """Return the first names of which the path tells no magnification or no class."""
    lost = (manifest["magnification"] == "") | (manifest["class"] == "unknown")
    return manifest["name"][lost].drop_duplicates().head(LINES).tolist()


def count(n: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun: 1 image, 1,224 images.

    >>> count(1, "image"), count(1224, "image"), count(0, "class", "classes")
    ('1 image', '1,224 images', '0 classes')
    """
    return f"{n:,} {noun if n == 1 else plural or noun + 's'}"


def score(value: float) -> str:
    """Return a measured number with three digits.

    >>> score(-0.00214), score(2140.3)
    ('\u22120.00214', '2,140')
    """
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return text.replace("-", "\u2212")


def duration(hours: float) -> str:
    """Return a time in the unit that people would use.

    >>> duration(0.01), duration(0.5), duration(7.25), duration(100)
    ('under 1 minute', '30 minutes', '7.2 hours', '4.2 days')
    """
    if hours < 1 / 60:
        return "under 1 minute"
    if hours < 1.5:
        return count(round(hours * 60), "minute")
    return f"{hours:.1f} hours" if hours < 72 else f"{hours / 24:.1f} days"


def setting(value: Any) -> str:
    """Return a setting's value as people read it."""
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(setting, value)) or "none"
    return str(value)


def dotted(settings: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Yield the dotted name and the value of each setting, however deep.

    >>> list(dotted({"seed": 0, "split": {"val": 0.25}}))
    [('seed', 0), ('split.val', 0.25)]
    """
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from dotted(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
