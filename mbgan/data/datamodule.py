"""Images of one magnification, split into a training and a held-out side."""

import logging
from collections import Counter
from pathlib import Path

import lightning as L
from torch import Tensor
from torch.utils.data import DataLoader

from mbgan.data.cache import load_images
from mbgan.data.folder import ImageFile, find_images
from mbgan.data.splits import split
from mbgan.data.stream import BatchStream

log = logging.getLogger(__name__)


class MagnificationDataModule(L.LightningDataModule):
    """Finds the images of one magnification, decodes them once, splits them, serves batches.

    Args:
        root: folder of images, nested in any way.
        magnification: "10x", "400x" or any folder name below root.
        image_size: side in pixels to which images are scaled.
        batch_size: images of a batch over all devices; at most the training side is used.
        held_out: share of the images kept from training, for the scores.
        n_train: use exactly this many training images; None for all.
        patient_pattern: regular expression with one group that finds the patient in a path.
        split_seed: of the split; apart from the run's seed, so that runs share their images.
        d4: turn and mirror training images at random.
        cache_dir: where decoded images are kept.
        num_workers: processes that prepare batches; 0 is fastest, as images are in memory.
        seed: of the order of the images.

    Raises:
        ValueError: if a number is out of range.
    """

    def __init__(
        self,
        root: str | Path,
        magnification: str,
        image_size: int,
        batch_size: int,
        held_out: float,
        cache_dir: str | Path,
        n_train: int | None = None,
        patient_pattern: str | None = None,
        split_seed: int = 0,
        d4: bool = True,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if not 0 < held_out < 1:
            raise ValueError(f"data.held_out must be a share between 0 and 1, got {held_out}")
        if num_workers < 0:
            raise ValueError(f"data.num_workers must be at least 0, got {num_workers}")
        self.root, self.magnification = Path(root).expanduser(), str(magnification)
        self.image_size, self.batch_size = image_size, batch_size
        self.share, self.n_train, self.split_seed = held_out, n_train, split_seed
        self.patient_pattern, self.cache_dir = patient_pattern, cache_dir
        self.d4, self.num_workers, self.seed = d4, num_workers, seed

    def setup(self, stage: str | None = None) -> None:
        """Find, decode and split the images; a second call does nothing.

        Raises:
            FileNotFoundError: if there are no images of the magnification.
            ValueError: if they are too few to split.
        """
        if hasattr(self, "train"):
            return
        files = find_images(self.root, self.magnification, self.patient_pattern)
        found = load_images(files, self.image_size, self.cache_dir)
        train, held_out = split(found.files, self.share, self.split_seed, self.n_train)
        self.train, self.held_out = found.images[train], found.images[held_out]
        self.sha256 = found.sha256
        self.train_files = [found.files[i] for i in train]
        self.held_out_files = [found.files[i] for i in held_out]
        patients = {f.patient for f in found.files if f.patient}
        log.info(
            "%d images at %s from %s (%s): %d to train on, %d held out, %s",
            *(len(found.files), self.magnification, self.root, counts(found.files)),
            *(len(train), len(held_out)),
            f"split by {len(patients)} patients" if patients else "patients unknown",
        )

    def train_dataloader(self) -> DataLoader[Tensor]:
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
        stream = BatchStream(self.train, batch_size, self.seed, start, self.d4, rank, world_size)
        on_gpu = self.trainer.strategy.root_device.type == "cuda"
        return DataLoader(stream, batch_size=None, num_workers=self.num_workers, pin_memory=on_gpu)


def counts(files: list[ImageFile]) -> str:
    """Return how many images each class has, as text: "normal 201, oscc 495"."""
    return ", ".join(f"{k} {v}" for k, v in sorted(Counter(f.label for f in files).items()))
