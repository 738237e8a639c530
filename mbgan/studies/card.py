"""The data card: one page that tells a lab what images they have, and its content as data."""

import json
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from mbgan.runs import write_text
from mbgan.studies.card_figures import data_uri, size_figure, stain_figures
from mbgan.studies.card_summary import Facts, natural, split_reasons, summarize
from mbgan.studies.page import environment, writable

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
    pictures = Pictures(thumbnail)
    page = (
        environment()
        .get_template("card.html.j2")
        .render(
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
    )
    write_text(folder / "card.json", json.dumps(card, indent=2, allow_nan=False) + "\n")
    write_text(folder / "card.html", writable(page))


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
