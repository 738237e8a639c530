"""The table of a prepared folder: a row an image, with all that is known of it."""

import hashlib
from pathlib import Path, PureWindowsPath
from typing import Any

import pandas as pd
from pandas.api.types import is_bool_dtype, is_numeric_dtype

from mbgan.data.folder import UNKNOWN, ImageFile
from mbgan.data.verdicts import AFTER
from mbgan.files import whole

FILE = "manifest.parquet"
TEXTS = (
    *("name", "tile", "image", "sha256", "pixels_sha256", "phash", "mode", "format"),
    *("magnification", "class", "group", "split", "verdict", "reasons", "unnormalized"),
)
COLUMNS = (*TEXTS, "patient", "width", "height", "cluster", "conflict", "um_per_pixel", *AFTER)


def write(table: pd.DataFrame, folder: Path, name: str = FILE) -> None:
    """Write the manifest into a prepared folder, whole or not at all."""
    with whole(folder / name) as draft:
        table.to_parquet(draft, index=False)


def read(folder: Path, name: str = FILE) -> pd.DataFrame:
    """Return the manifest of a prepared folder; patients are None where unknown.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is damaged, lacks a column, or names a file outside the folder.
    """
    path = folder / name
    if not path.is_file():
        raise FileNotFoundError(
            f"data.root must be a folder that mbgan.prepare made, got {folder} without {FILE}; "
            f"make one: python -m mbgan.prepare data.root={folder} out=DIR"
        )
    try:
        table = pd.read_parquet(path)
    except Exception as error:  # pyarrow raises its own, OSError, and what its parser meets
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise ValueError(f"{path} is damaged ({reason}); run mbgan.prepare again") from None
    if missing := [column for column in COLUMNS if column not in table.columns]:
        raise ValueError(
            f"{path} must have the columns of this version of mbgan, got none called "
            f"{', '.join(missing)}; run mbgan.prepare again"
        )
    for column in TEXTS:
        if not all(isinstance(value, str) for value in table[column]):
            raise ValueError(f"{path} must hold text in every {column!r}; run mbgan.prepare again")
    for image in table["image"]:
        parts = PureWindowsPath(image)  # which takes / and \ alike
        if parts.anchor or ".." in parts.parts:
            raise ValueError(f"{path} must name images below its folder, got {image!r}")
    numbers = {"cluster": is_numeric_dtype, "conflict": is_bool_dtype, "patient": _is_text_or_none}
    for column, fits in numbers.items():
        if not fits(table[column]):
            raise ValueError(
                f"{path} must not hold {table[column].dtype} in {column!r}; run mbgan.prepare again"
            )
    known = table["patient"].notna()  # parquet gives NaN for None
    table["patient"] = table["patient"].astype(object).where(known, None)
    return table


def _is_text_or_none(column: "pd.Series[Any]") -> bool:
    return all(isinstance(value, str) for value in column[column.notna()])


def sha256(table: pd.DataFrame) -> str:
    """Return a hash over what a training sees of the images: pixels, class, patient and split."""
    kept = table[table["verdict"] != "drop"].sort_values(["name", "tile"])
    columns = ["name", "tile", "image", "magnification", "class", "conflict", "patient", "split"]
    return hashlib.sha256(kept[columns].to_csv(index=False).encode()).hexdigest()


def image_files(table: pd.DataFrame, folder: Path) -> list[ImageFile]:
    """Return the prepared images of the rows that have one.

    Images of duplicate clusters with two classes have the class "unknown": nobody knows it.
    """
    return [
        ImageFile(
            folder / row["image"],
            row["name"] + (f"#{row['tile']}" if row["tile"] else ""),
            row["magnification"],
            UNKNOWN if row["conflict"] else row["class"],
            row["patient"],
        )
        for row in table[table["image"] != ""].to_dict("records")
    ]
