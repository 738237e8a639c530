"""Images that a file lists, with what trains on them: a fold of a study."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mbgan.data.cache import ImageSet, load_images
from mbgan.data.datamodule import MagnificationDataModule
from mbgan.data.folder import ImageFile
from mbgan.documents import check_kinds, read_object
from mbgan.runs import write_text

LISTED = dict.fromkeys(("files.*.magnification", "files.*.patient"), str | None)
LISTED |= dict.fromkeys(("train.*", "files.*.name", "files.*.path", "files.*.label"), str)


class ListedDataModule(MagnificationDataModule):
    """Images that a file lists, with what trains and what picks the best: a fold of a study.

    Args:
        listing: the file, as `write_listing` makes it.
        settings: of `MagnificationDataModule`.
    """

    def __init__(self, listing: str | Path, **settings: Any) -> None:
        super().__init__(**settings)
        self.listing = Path(listing)

    def read(self) -> tuple[ImageSet, dict[str, NDArray[np.int64]]]:
        """Return the images and their sides; what picks the best also scores."""
        listed = read_object(self.listing, "files", "train")
        check_kinds(listed, LISTED, self.listing)
        try:
            files = {
                row["name"]: ImageFile(**row | {"path": Path(row["path"])})
                for row in listed["files"]
            }
        except (LookupError, TypeError):  # of a row too much, or too little
            raise ValueError(f"{self.listing} is no list of images; it is damaged") from None
        found = load_images(list(files.values()), self.image_size, self.cache_dir)
        trains = np.isin([file.name for file in found.files], listed["train"])
        held_out = np.flatnonzero(~trains)
        return found, {"train": np.flatnonzero(trains), "val": held_out, "test": held_out}


def write_listing(path: Path, train: Sequence[ImageFile], held_out: Sequence[ImageFile]) -> None:
    """Write the file of a `ListedDataModule`."""
    files = [asdict(file) | {"path": str(file.path)} for file in (*train, *held_out)]
    content = {"train": [file.name for file in train], "files": files}
    write_text(path, json.dumps(content, indent=1) + "\n")
