"""Images, split into those that train and those that score, with what tells them apart."""

import hashlib
import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from joblib import cpu_count
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from mbgan.data import manifest
from mbgan.data.cache import ImageSet, load_images
from mbgan.data.decode import UnreadableImage, size_and_format
from mbgan.data.folder import UNKNOWN, ImageFile, find_images
from mbgan.data.splits import check, merge_groups, split, subset
from mbgan.data.stream import BatchStream
from mbgan.images import Rows
from mbgan.runs import leave_signals

log = logging.getLogger(__name__)

SIDES = ("train", "val", "test")  # what trains, what picks the best checkpoint, what scores it
FEW = 20  # training images of which a generator learns hardly more than themselves
CONDITIONS = ("none", "class", "magnification", "both")


class MagnificationDataModule(L.LightningDataModule):
    """Images of a magnification, decoded once, split, and served in batches.

    Attributes:
        conditions: names of what tells images apart, "oscc", "400x" or "400x/oscc"; their places
            are the numbers in the batches. None where condition is "none".

    Args:
        root: folder of images.
        magnification: "10x", "400x" or the name that a folder gives it; several with "+" between
            them, "10x+100x", where the condition tells them apart.
        image_size: side in pixels to which images are scaled.
        batch_size: images of a batch over all devices; at most the training side is used.
        cache_dir: where decoded images are kept.
        n_train: use exactly this many training images; None for all.
        d4: turn and mirror training images at random.
        transforms: of albumentations, by name, applied in turn to each training image.
        num_workers: processes that prepare batches; 0 is fastest, as images are in memory.
        condition: what tells images apart: one of CONDITIONS.
        seed: of the order of the images and of the transforms.

    Raises:
        ValueError: if a number is out of range.
    """

    def __init__(
        self,
        root: str | Path,
        magnification: str,
        image_size: int,
        batch_size: int,
        cache_dir: str | Path,
        n_train: int | None = None,
        d4: bool = True,
        transforms: Mapping[str, Any] | None = None,
        num_workers: int = 0,
        condition: str = "none",
        seed: int = 0,
    ) -> None:
        super().__init__()
        if condition not in CONDITIONS:
            raise ValueError(
                f"model.condition must be one of {', '.join(CONDITIONS)}, got {condition!r}"
            )
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if num_workers < 0:
            raise ValueError(f"data.num_workers must be at least 0, got {num_workers}")
        self.root, self.magnification = Path(root).expanduser(), str(magnification)
        self.image_size, self.batch_size = image_size, batch_size
        self.cache_dir, self.n_train = cache_dir, n_train
        self.d4, self.transforms = d4, tuple((transforms or {}).values())
        if num_workers > (cores := cpu_count()):
            log.warning("data.num_workers=%d is more than the cores: using %d", num_workers, cores)
        self.num_workers, self.seed = min(num_workers, cores), seed
        self.condition = condition
        self.magnifications = self.magnification.split("+")
        if len(self.magnifications) > 1 and condition not in ("magnification", "both"):
            raise ValueError(
                f"several magnifications ({self.magnification}) need model.condition=magnification "
                f"or both, got {condition}; a mixture of scales is no image of any"
            )

    @property
    def shares(self) -> list[int]:
        """Return how many training images there are of each condition; all, without any."""
        return np.bincount(self.train.conditions).tolist()

    def setup(self, stage: str | None = None) -> None:
        """Find, decode and split the images; a second call does nothing.

        Raises:
            FileNotFoundError: if there are no images of the magnification.
            ValueError: if they are too few to split, or the condition tells none apart.
        """
        if hasattr(self, "train"):
            return
        found, sides = self.read()
        self.sha256 = found.sha256
        names = [name_of(file, self.condition) for file in found.files]
        self.conditions = sorted({names[i] for i in sides["train"]} - {""})
        if self.condition != "none" and len(self.conditions) < 2:
            raise ValueError(
                f"model.condition={self.condition} needs at least 2 to tell apart among the "
                f"training images, got {', '.join(self.conditions)}; use model.condition=none"
            )
        if strange := sorted(set(names) - {"", *self.conditions}):
            log.warning("left out, as none of them trains: %s", ", ".join(strange))
            trained = np.array([name not in strange for name in names])
            sides = {side: rows[trained[rows]] for side, rows in sides.items()}
        number = {name: i for i, name in enumerate(self.conditions)}
        numbers = np.array([number.get(name, 0) for name in names])
        self.train, self.held_out, self.test = (
            Rows(found.images, sides[side], numbers) for side in SIDES
        )
        self.train_files, self.held_out_files, self.test_files = (
            [found.files[i] for i in sides[side]] for side in SIDES
        )
        patients = {f.patient for f in found.files if f.patient}
        log.info(
            "%d images at %s from %s (%s): %d to train on, %s, %s%s",
            *(len(found.files), self.magnification, self.root, counts(found.files)),
            len(self.train),
            f"{len(self.held_out)} held out"
            if np.array_equal(sides["test"], sides["val"])
            else f"{len(self.held_out)} to pick the best, {len(self.test)} to score it",
            f"split by {len(patients)} patients" if patients else "patients unknown",
            f"; told apart: {', '.join(self.conditions)}" if self.conditions else "",
        )

        if len(self.train) < FEW:
            log.warning(
                "%d training images: expect copies of them, and little besides; begin with the "
                "weights of a run on other tissue (init_from=RUN)",
                len(self.train),
            )

    def read(self) -> tuple[ImageSet, dict[str, NDArray[np.int64]]]:
        """Return the images, and the indices of each of SIDES."""
        raise NotImplementedError

    def with_class(self, files: list[ImageFile]) -> list[ImageFile]:
        """Return the files whose class is known, if classes are to be told apart; else all.

        Raises:
            ValueError: if no class is known.
        """
        if self.condition not in ("class", "both"):
            return files
        known = [file for file in files if file.label != UNKNOWN]
        if not known:
            raise ValueError(
                f"model.condition={self.condition} needs images whose class is known, got none in "
                f"{self.root}; put each class into a folder of its own, or use model.condition=none"
            )
        if len(known) < len(files):
            log.info("%d images of no known class are left out", len(files) - len(known))
        return known

    def train_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        """Return the batches that follow those the run has drawn already.

        Raises:
            ValueError: if the batch cannot be shared equally by the devices.
        """
        assert self.trainer is not None, "a Lightning trainer calls this"
        rank, world_size = self.trainer.global_rank, self.trainer.world_size
        if self.batch_size % world_size:
            raise ValueError(
                f"batch_size must be a multiple of the number of devices ({world_size}), "
                f"got {self.batch_size}; try {max(1, self.batch_size // world_size) * world_size}"
            )
        batch_size = self.batch_size
        if batch_size > len(self.train):
            batch_size = max(1, len(self.train) // world_size) * world_size
            log.warning(
                "batch_size=%d is more than the %d training images: using %d",
                *(self.batch_size, len(self.train), batch_size),
            )
        start: int = self.trainer.lightning_module.images_drawn  # type: ignore[assignment]
        stream = self.stream(batch_size, start, rank, world_size)
        on_gpu = self.trainer.strategy.root_device.type == "cuda"
        return DataLoader(
            stream,
            batch_size=None,
            num_workers=self.num_workers,
            worker_init_fn=leave_signals,
            pin_memory=on_gpu,
        )

    def stream(
        self, batch_size: int = 1, start: int = 0, rank: int = 0, world_size: int = 1
    ) -> BatchStream:
        """Return the endless stream of training batches; see `BatchStream`."""
        return BatchStream(
            self.train, batch_size, self.seed, start, self.d4, rank, world_size, self.transforms
        )


class FolderDataModule(MagnificationDataModule):
    """Images of one magnification in a folder as it is, nested in any way.

    Args:
        held_out: share of the images kept from training, for the scores.
        patient_pattern: regular expression with one group that finds the patient in a path.
        split_seed: of the split; apart from the run's seed, so that runs share their images.
        settings: of `MagnificationDataModule`.

    Raises:
        ValueError: if a number is out of range.
    """

    def __init__(
        self, held_out: float, patient_pattern: str | None, split_seed: int, **settings: Any
    ) -> None:
        super().__init__(**settings)
        if not 0 < held_out < 1:
            raise ValueError(f"data.held_out must be a share between 0 and 1, got {held_out}")
        self.share, self.patient_pattern, self.split_seed = held_out, patient_pattern, split_seed

    def read(self) -> tuple[ImageSet, dict[str, NDArray[np.int64]]]:
        """Return the images and their split; what is held out also scores."""
        if (self.root / manifest.FILE).is_file():
            raise ValueError(
                f"data.root {self.root} was prepared by mbgan.prepare; use it with data=prepared, "
                "so that its verdicts and its split hold"
            )
        files = [
            file
            for magnification in self.magnifications
            for file in find_images(self.root, magnification, self.patient_pattern)
        ]
        files = self.with_class(files)
        found = load_images(files, self.image_size, self.cache_dir)
        train, held_out = split(found.files, self.share, self.split_seed, self.n_train)
        return found, {"train": train, "val": held_out, "test": held_out}


class PreparedDataModule(MagnificationDataModule):
    """Images of one magnification in a folder that mbgan.prepare made, with its split."""

    def read(self) -> tuple[ImageSet, dict[str, NDArray[np.int64]]]:
        """Return the images and the split of the manifest; without "val", "test" takes its place.

        Raises:
            FileNotFoundError: if the folder was not prepared, or has no such images.
            ValueError: if a group is on two sides, a side has too few images, or images were
                prepared smaller.
        """
        table = manifest.read(self.root)
        # Not the manifest's own groups: who corrects a patient in it may join two sides.
        check(merge_groups(table["patient"], table["cluster"], table["name"]), table["split"])
        rows = table[(table["image"] != "") & table["magnification"].isin(self.magnifications)]
        if missing := set(self.magnifications) - set(rows["magnification"]):
            there = table["magnification"][table["image"] != ""].value_counts()
            raise FileNotFoundError(
                f"no images of magnification {min(missing)!r} in {self.root}; there are "
                f"{', '.join(f'{name} ({n})' for name, n in there.items()) or 'no images at all'}"
            )
        files = self.with_class(manifest.image_files(rows, self.root))
        try:
            (prepared, _), _ = size_and_format(files[0].path)
        except UnreadableImage as error:
            path = files[0].path
            raise ValueError(f"{path} is damaged ({error}); run mbgan.prepare again") from None
        if self.image_size > prepared:
            raise ValueError(
                f"image_size must be at most {prepared}, the size of the images in {self.root}, "
                f"got {self.image_size}; prepare them larger: mbgan.prepare image_size=..."
            )
        found = load_images(files, self.image_size, self.cache_dir)
        if found.skipped:
            name, reason = found.skipped[0]
            path = next(file.path for file in files if file.name == name)
            raise ValueError(f"{path} is damaged ({reason}); delete it and run mbgan.prepare again")
        names = (file.name for file in manifest.image_files(rows, self.root))
        by_name = dict(zip(names, rows["split"], strict=True))
        side_of = np.array([by_name[file.name] for file in found.files])
        sides = {side: np.flatnonzero(side_of == side) for side in SIDES}
        if self.n_train is not None:
            part = [found.files[i] for i in sides["train"]]
            chosen = subset([f.label for f in part], [f.name for f in part], self.n_train, seed=0)
            sides["train"] = sides["train"][chosen]
        if not len(sides["val"]):
            sides["val"] = sides["test"]
        if not len(sides["train"]) or min(len(sides["val"]), len(sides["test"])) < 2:
            raise ValueError(
                "a run needs at least 1 image to train on, and 2 each to pick the best and to "
                f"score it, got {', '.join(f'{side} {len(sides[side])}' for side in SIDES)} of "
                f"magnification {self.magnification!r} in {self.root}; change split.val and "
                "split.test of mbgan.prepare, or add images of other patients"
            )
        digest = f"{manifest.sha256(rows)} {found.sha256}"  # of the split, and of the pixels
        sha256 = hashlib.sha256(digest.encode()).hexdigest()
        return replace(found, sha256=sha256), sides


def name_of(file: ImageFile, condition: str) -> str:
    """Return what an image is called where a condition tells images apart; "" for none."""
    names = {"none": "", "class": file.label, "magnification": str(file.magnification)}
    return names[condition] if condition != "both" else f"{file.magnification}/{file.label}"


def counts(files: list[ImageFile]) -> str:
    """Return how many images each class has, as text: "normal 201, oscc 495"."""
    return ", ".join(f"{k} {v}" for k, v in sorted(Counter(f.label for f in files).items()))
