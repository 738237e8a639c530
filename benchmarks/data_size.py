"""A training on 150 to 150,000 images: do its step and its memory stay the same?

The images are noise in an array on disk, as mbgan.data.cache leaves decoded ones; the names of
their files are held in memory, as those of a real folder are. Neither decoding nor walking a folder
is in it.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure import Measures, Plan, ratios, record, run
from benchmarks.workers import Worker, alternate, folder_of, python
from mbgan.data.cache import ImageSet
from mbgan.data.datamodule import FolderDataModule
from mbgan.data.folder import ImageFile
from mbgan.data.splits import split

SIDE = 32  # px
COUNTS = (150, 1_500, 15_000, 150_000)


class NoiseDataModule(FolderDataModule):
    """Images of an array in a file, data.root, in place of a folder's."""

    def read(self) -> tuple[ImageSet, dict[str, NDArray[np.int64]]]:
        """Return the images and their split, as for a folder."""
        images = np.lib.format.open_memmap(self.root, mode="r")
        names = [f"{self.magnification}/noise/{i:07d}.png" for i in range(len(images))]
        folder = self.root.parent
        files = [ImageFile(folder / n, n, self.magnification, "noise", None) for n in names]
        train, held_out = split(files, self.share, self.split_seed, self.n_train)
        found = ImageSet(images, files, [], "noise")
        return found, {"train": train, "val": held_out, "test": held_out}


def draw(path: Path, n: int) -> Path:
    """Write n images of noise; return the file."""
    rng = np.random.default_rng(0)
    images = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(n, 3, SIDE, SIDE))
    for start in range(0, n, 10_000):
        part = images[start : start + 10_000]
        part[:] = rng.integers(0, 256, part.shape, dtype=np.uint8)
    images.flush()
    return path


def measure(plan: Plan) -> Measures:
    """Train on each number of images in turn."""
    counts = COUNTS[:2] if plan.quick else COUNTS
    words = ["model=wgan_gp_small", f"image_size={SIDE}", "batch_size=16", "data=folder"]
    words.append("data._target_=benchmarks.data_size.NoiseDataModule")  # not __main__, as here
    turns = 2 if plan.quick else 20
    workers = {}
    for n in counts:
        root = draw(plan.scratch / f"{n}.npy", n)
        folder = folder_of(plan.scratch, str(n))
        command = python("benchmarks.ours", folder, "steps", turns, *words, f"data.root={root}")
        workers[f"{n:,}"] = Worker(command)
    speeds, memory = alternate(workers, plan.rounds)
    few, *_, many = workers
    for name, values in speeds.items():
        yield f"data/speed {name}", record("images/s", values)
        used = memory[name]
        yield f"data/memory {name}", record("MiB", [used["own"]], of_files=used["files"])
    yield f"data/step's time {many} against {few}", ratios(speeds[few], speeds[many])
    growth = memory[many]["own"] / memory[few]["own"]
    yield f"data/memory {many} against {few}", record("x", [growth])


if __name__ == "__main__":
    run(measure)
