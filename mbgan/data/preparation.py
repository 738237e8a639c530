"""A prepared folder is made in three passes: inspect, decide, render; only what changed is done."""

import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from mbgan.data import manifest
from mbgan.data.decode import read_image, resize
from mbgan.data.fields import Fields
from mbgan.data.folder import ImageFile, Scan
from mbgan.data.inspection import Journal, inspect, on_all_cores
from mbgan.data.quality import Check
from mbgan.data.rendering import cut, image_name, render
from mbgan.data.stain import Identity, Normalizer, NoStain, medoid
from mbgan.data.verdicts import AFTER, COLORS, DuplicateRules, decide, unit_vectors
from mbgan.files import remove_drafts

log = logging.getLogger(__name__)

DRAFT = (
    "interrupted.parquet"  # the manifest of a preparation that was stopped while it wrote images
)


@dataclass(frozen=True)
class Preparation:
    """How a folder of images is prepared.

    Args:
        out: the prepared folder, new or an earlier one.
        image_size: side of the prepared images in pixels.
        fields: how large fields become images.
        checks: of quality, by name.
        duplicates: what becomes of duplicates.
        normalizer: of the stain.
        target: image whose stain the others get; None for the medoid of each magnification.
        shares: of the images, for "val" and "test".
        seed: of the split.
        workers: processes; None for one a core.

    Raises:
        ValueError: if a number is out of range.
        FileNotFoundError: if there is no target.
    """

    out: Path
    image_size: int
    fields: Fields
    checks: Mapping[str, Check]
    duplicates: DuplicateRules
    normalizer: Normalizer
    target: Path | None
    shares: Mapping[str, float]
    seed: int
    workers: int | None

    def __post_init__(self) -> None:
        if self.image_size < 8:
            raise ValueError(f"image_size must be at least 8, got {self.image_size}")
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"workers must be null or at least 1, got {self.workers}")
        val, test = self.shares["val"], self.shares["test"]
        if not (val >= 0 and test > 0 and val + test < 1):
            raise ValueError(
                "split.val must be at least 0, split.test above 0 and their sum below 1, "
                f"got {val} and {test}"
            )
        if self.target is not None and not self.target.is_file():
            raise FileNotFoundError(f"stain.target must be an image, got {self.target}")

    def run(self, scan: Scan) -> pd.DataFrame:
        """Prepare what a folder holds, and return the manifest."""
        self.out.mkdir(parents=True, exist_ok=True)
        for folder in (self.out, *(self.out / "images").glob("*/*")):
            remove_drafts(folder)
        seen = self.inspect(scan.files)
        table = decide(seen, self.checks, self.duplicates, self.shares, self.seed)
        try:
            self.render(table, {file.name: file.path for file in scan.files})
        except BaseException:  # also an interrupt: what was written need not be written again
            manifest.write(table, self.out, DRAFT)
            raise
        manifest.write(table, self.out)
        (self.out / DRAFT).unlink(missing_ok=True)
        self._remove_others(set(table["image"]))
        return table

    def inspect(self, files: list[ImageFile]) -> Iterator[tuple[ImageFile, dict[str, Any]]]:
        """Look at every file that was not seen before, and return what was seen of all."""
        journal = Journal(self.out / "journal.sqlite", f"{self.fields} {self.image_size}")
        todo = journal.missing(files)
        jobs = [(file.path, self.fields, self.image_size) for file in todo]
        results = ((todo[i], rows) for i, rows in self._on_all_cores("inspecting", inspect, jobs))
        for _ in journal.record(results):
            pass
        return journal.read(files)

    def render(self, table: pd.DataFrame, paths: Mapping[str, Path]) -> None:
        """Write the images that are kept; note in the table where they lie, and their stain.

        An image that an earlier preparation made stays as it is.

        Args:
            table: the manifest.
            paths: of the files, by name.
        """
        known = self._rendered_before()
        jobs, indices = [], list[list[int]]()
        for magnification, part in table[table["verdict"] != "drop"].groupby("magnification"):
            normalizer, stain = self._normalizer(part, paths)
            log.info("%s: %d images are kept, stain: %s", magnification, len(part), stain)
            for name, tiles in part.groupby("name", sort=False):
                missing = dict[int, tuple[str, Path]]()
                for i, row in zip(tiles.index, tiles.to_dict("records"), strict=True):
                    image = image_name(row, f"{self.image_size} {stain}")
                    if image in known and (self.out / image).is_file():
                        table.loc[i, list(known[image])] = list(known[image].values())
                        table.at[i, "image"] = image
                    else:
                        missing[i] = (row["tile"], self.out / image)
                if missing:
                    sha256, parts = tiles["sha256"].iloc[0], list(missing.values())
                    jobs.append((paths[name], sha256, parts, self.image_size, normalizer))
                    indices.append(list(missing))
        for job, results in self._on_all_cores("writing", render, jobs):
            for i, (_, path), (colors, reason) in zip(
                indices[job], jobs[job][2], results, strict=True
            ):
                table.loc[i, AFTER] = unit_vectors(colors)
                table.at[i, "unnormalized"] = reason
                # Last: after an interrupt this table says which files' measures are known.
                table.at[i, "image"] = path.relative_to(self.out).as_posix()
        for i in table.index[table["unnormalized"] != ""]:
            reason = f"unnormalized ({table.at[i, 'unnormalized']})"
            table.at[i, "reasons"] = "; ".join(filter(None, (table.at[i, "reasons"], reason)))
            table.at[i, "verdict"] = "warn"

    def _rendered_before(self) -> dict[str, dict[str, Any]]:
        known = dict[str, dict[str, Any]]()
        for name in (manifest.FILE, DRAFT):
            try:
                before = manifest.read(self.out, name)
            except FileNotFoundError:
                continue
            except ValueError as error:  # of another version, or damaged: this is the way out
                log.warning("writing all images anew: %s", error)
                continue
            before = before[before["image"] != ""].set_index("image")
            known |= before[[*AFTER, "unnormalized"]].to_dict("index")
        return known

    def _normalizer(self, part: pd.DataFrame, paths: Mapping[str, Path]) -> tuple[Normalizer, str]:
        """Return what normalizes the images of one magnification, and its description."""
        if isinstance(self.normalizer, Identity):
            return self.normalizer, "as it is"
        if self.target is not None:
            target, box, name = read_image(self.target), "", self.target.name
        else:
            row = part.iloc[medoid(part[COLORS].to_numpy().reshape(-1, 2, 3))]
            target, box, name = read_image(paths[row["name"]]), row["tile"], row["name"]
        normalizer = deepcopy(self.normalizer)
        try:
            normalizer.fit(np.asarray(resize(cut(target.rgb, box), self.image_size)))
        except NoStain as error:
            raise ValueError(f"stain.target must have two stains, got {name} ({error})") from None
        kind = type(normalizer).__name__.lower()
        return normalizer, f"{kind} to {name} {box}({target.sha256[:12]})"

    def _remove_others(self, images: set[str]) -> None:
        others = [
            path
            for path in (self.out / "images").rglob("*.png")
            if path.relative_to(self.out).as_posix() not in images
        ]
        for path in others:
            path.unlink()
        if others:  # decoded ones are of no use to anybody
            shutil.rmtree(self.out / "cache", ignore_errors=True)

    def _on_all_cores(
        self, what: str, function: Callable[..., Any], jobs: list[tuple[Any, ...]]
    ) -> Iterator[tuple[int, Any]]:
        workers = min(self.workers or os.cpu_count() or 1, len(jobs) // 8 or 1)
        results = on_all_cores(function, jobs, workers)
        return iter(tqdm(results, what, len(jobs), unit=" files", disable=None))
