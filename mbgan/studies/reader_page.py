"""A blinded study of real and generated images: the page for its readers, and its key."""

import base64
import hashlib
import io
import logging
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from mbgan.data.datamodule import MagnificationDataModule
from mbgan.data.decode import resize, size_and_format
from mbgan.data.folder import UNKNOWN, ImageFile, Naming
from mbgan.gan import generate
from mbgan.latents import fixed_latents, seed_of
from mbgan.networks import Generator
from mbgan.studies.page import csp_hash, environment, writable
from mbgan.studies.reader_answers import REAL, SYNTHETIC, VERSION, study_of
from mbgan.studies.reader_statistics import check_size
from mbgan.studies.scoring import read_folders

log = logging.getLogger(__name__)

CONFIDENCE = ("guessing", "unsure", "fairly sure", "certain")


@dataclass(frozen=True)
class Side:
    """Images that are all real, or all generated.

    Attributes:
        images: [N, 3, S, S], uint8.
        rows: what the key is to say of each: its source, and its class.
    """

    images: NDArray[np.uint8]
    rows: list[dict[str, Any]]


@dataclass(frozen=True)
class Design:
    """How a study asks.

    Attributes:
        n: different images, half of them real.
        repeats: images that are shown once more.
        classes: to choose from; none: not asked.
        encoding: jpeg or png.
        quality: of jpeg.
        seed: of choice, order and names.

    Raises:
        ValueError: if a number is out of range.
    """

    n: int
    repeats: int
    classes: Sequence[str]
    encoding: str
    quality: int
    seed: str

    def __post_init__(self) -> None:
        check_size(self.n)
        if not 0 <= self.repeats <= self.n // 3:
            raise ValueError(
                f"repeats must be from 0 to a third of n ({self.n // 3}), got {self.repeats}"
            )
        if self.encoding not in ("jpeg", "png"):
            raise ValueError(f"encoding must be jpeg or png, got {self.encoding}")
        if not 1 <= self.quality <= 100:
            raise ValueError(f"quality must be from 1 to 100, got {self.quality}")
        if len(self.classes) == 1 or len(set(self.classes)) < len(self.classes):
            raise ValueError(
                f"classes must be at least 2, each once, or none, got {', '.join(self.classes)}"
            )

    def rng(self, name: str) -> random.Random:
        """Return the random numbers of one part of the study; parts share none."""
        return random.Random(f"{self.seed}/{name}")  # noqa: S311 - none that readers see

    def bytes(self, name: str, n: int) -> bytes:
        """Return n random bytes that readers may see.

        `rng` will not do for them: from a few thousand of its bytes all others can be computed.
        """
        return hashlib.shake_256(f"{self.seed}/{name}".encode()).digest(n)


def sides_of_run(
    generator: Generator,
    origin: dict[str, Any],
    datamodule: MagnificationDataModule,
    image_size: int | None,
    design: Design,
) -> tuple[Side, Side]:
    """Return some of a run's held-out images, and as many of its generator, of the same conditions.

    Raises:
        ValueError: if too few images are held out.
    """
    files = datamodule.test_files
    chosen = _choose(files, "held-out real images", design, REAL)
    rows = [_row(files[i], files[i].name) for i in chosen]
    seed = seed_of(design.seed, "reader study")
    conditions = torch.from_numpy(datamodule.test.conditions[chosen])
    z = fixed_latents(range(len(chosen)), generator.z_dim, seed)
    images = generate(generator, z, conditions).cpu().numpy()
    size = image_size or generator.image_size
    _warn_of_grid([files[i] for i in chosen], size)
    names = [generator.conditions[c] if generator.conditions else UNKNOWN for c in conditions]
    checkpoint = {key: origin[key] for key in ("run", "checkpoint", "checkpoint_sha256")}
    made = [
        {"source": f"image {i} of seed {seed}", "class": name, "patient": None, **checkpoint}
        for i, name in enumerate(names)
    ]
    return Side(_scaled(datamodule.test[chosen], size), rows), Side(_scaled(images, size), made)


def sides_of_folders(
    folders: dict[str, str],
    magnification: str | None,
    image_size: int | None,
    naming: Naming,
    cache_dir: str,
    design: Design,
) -> tuple[Side, Side]:
    """Return some images of the folders real and fake, scaled alike; see `score_folders`.

    Raises:
        ValueError: if either has too few.
    """
    _, _, found = read_folders(folders, magnification, image_size, naming, cache_dir)
    sides = []
    for key, truth in (("real", REAL), ("fake", SYNTHETIC)):
        files = found[key].files
        chosen = _choose(files, f"images in {key}", design, truth)
        rows = [_row(files[i], str(files[i].path)) for i in chosen]
        sides.append(Side(np.array(found[key].images[chosen]), rows))
        if truth == REAL:
            _warn_of_grid([files[i] for i in chosen], found[key].images.shape[-1])
    for row in sides[1].rows:
        row["patient"] = None  # whatever the folders of generated images are called
    return sides[0], sides[1]


def _scaled(images: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    if images.shape[-1] == size:
        return images
    pictures = (Image.fromarray(image.transpose(1, 2, 0)) for image in images)
    return np.stack([np.asarray(resize(x, size)).transpose(2, 0, 1) for x in pictures])


def _warn_of_grid(files: Sequence[ImageFile], size: int) -> None:
    """Say how to be rid of the JPEG grid that real images keep if they are shown pixel by pixel."""
    for file in files:
        if size_and_format(file.path) == ((size, size), "JPEG"):
            log.warning(
                "real images still have the 8 x 8 grid of their JPEG files, which a program "
                "sees if hardly an eye; scale all images: image_size=%d",
                size * 9 // 10,
            )
            return


def _row(file: ImageFile, source: str) -> dict[str, Any]:
    return {"source": source, "class": file.label, "patient": file.patient}


def _choose(files: Sequence[ImageFile], what: str, design: Design, name: str) -> list[int]:
    """Return half of a study's images at random, of as many patients as there are."""
    half = design.n // 2
    if len(files) < half:
        raise ValueError(f"n must be at most {2 * len(files)}, twice the {what}, got {design.n}")
    rng, seen, rounds = design.rng(name), Counter[str](), list[tuple[int, int]]()
    for i in rng.sample(range(len(files)), len(files)):
        patient = files[i].patient or str(files[i].path)
        rounds.append((seen[patient], i))
        seen[patient] += 1
    return [i for _, i in sorted(rounds, key=lambda place: place[0])[:half]]


def build(real: Side, fake: Side, design: Design) -> tuple[str, dict[str, Any]]:
    """Return the page for readers, and the key that tells what they saw.

    The page names images by random numbers and lists them by these. All went through the same
    encoder without metadata, and are filled up to the same number of bytes.

    Args:
        real: half of the images.
        fake: the other half, of the same size.
        design: how to ask.
    """
    rows, content = dict[str, dict[str, Any]](), dict[str, bytes]()
    for truth, side in ((REAL, real), (SYNTHETIC, fake)):
        for i, (image, row) in enumerate(zip(side.images, side.rows, strict=True)):
            name = design.bytes(f"name/{truth}/{i}", 8).hex()
            rows[name] = {"truth": truth, **row}
            content[name] = encode(image, design.encoding, design.quality)
    longest = max(map(len, content.values()))
    # Decoders stop at the end of the image; random, as zeros would be seen in the page's source.
    filled = {
        name: data + design.bytes(f"end/{name}", longest - len(data))
        for name, data in sorted(content.items())
    }
    trials = order(sorted(rows), design.repeats, design.rng("order"))
    key: dict[str, Any] = {
        "version": VERSION,
        "warning": "tells which images are real: keep it from the readers",
        "seed": design.seed,
        "secret": design.bytes(
            "secret", 16
        ).hex(),  # or the page's hash of the key could be searched
        "classes": list(design.classes),
        "encoding": design.encoding + (f" {design.quality}" if design.encoding == "jpeg" else ""),
        "image_size": int(real.images.shape[-1]),
        "confidence": list(CONFIDENCE),
        "trials": trials,
        "images": dict(sorted(rows.items())),
    }
    key["study"] = study_of(key)
    shown = {
        **{name: key[name] for name in ("study", "version", "classes", "trials")},
        "images": {
            name: f"data:image/{design.encoding};base64,{base64.b64encode(data).decode()}"
            for name, data in filled.items()
        },
    }
    script = files("mbgan.studies").joinpath("reader.js").read_text(encoding="utf-8")
    template = environment().get_template("reader.html.j2")
    page = template.render(
        study=shown,
        confidence=CONFIDENCE,
        minutes=max(1, round(len(trials) * 8 / 60)),  # about 8 s an image
        script=script,
        script_hash=csp_hash(script),
    )
    return writable(page), key


def encode(image: NDArray[np.uint8], encoding: str, quality: int) -> bytes:
    """Return an image [3, S, S], uint8, as a file without metadata."""
    buffer = io.BytesIO()
    settings = {"quality": quality, "subsampling": 0} if encoding == "jpeg" else {}
    Image.fromarray(image.transpose(1, 2, 0)).save(buffer, encoding, **settings)
    return buffer.getvalue()


def order(names: Sequence[str], repeats: int, rng: random.Random) -> list[str]:
    """Return the names in random order; some of the first third once more in the second half.

    So a sixth of the images at least lies between the two.
    """
    names = rng.sample(names, len(names))
    half = len(names) // 2
    again = names[half:] + rng.sample(names[: len(names) // 3], repeats)
    return names[:half] + rng.sample(again, len(again))
