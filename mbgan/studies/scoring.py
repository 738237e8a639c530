"""Fakes against held-out images: every score, and each condition by itself."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mbgan.data import manifest
from mbgan.data.cache import ImageSet, load_images
from mbgan.data.datamodule import MagnificationDataModule
from mbgan.data.decode import UnreadableImage, size_and_format
from mbgan.data.folder import UNKNOWN, ImageFile, Naming, patients_of, scan
from mbgan.gan import generate
from mbgan.latents import fixed_latents
from mbgan.metrics.memorization import poses
from mbgan.metrics.suite import Sample, Suite, Training, verdict
from mbgan.networks import Generator
from mbgan.studies.feature_cache import extract_once

VERSION = 3  # of the content of scores.json, see scores.schema.json


@dataclass(frozen=True)
class Side:
    """Images of one side.

    Attributes:
        images: [N, 3, S, S], uint8.
        conditions: number [N] of each image's condition; -1 for another one.
        patients: [N]; None if that of any is unknown.
    """

    images: Tensor
    conditions: Tensor
    patients: list[str] | None = None


@dataclass(frozen=True)
class Scored:
    """What was found, and the images that it was found of.

    Attributes:
        result: the content of scores.json.
        real: held-out images.
        fake: fakes.
        train: training images, if they are known.
    """

    result: dict[str, Any]
    real: Sample
    fake: Sample
    train: Training | None


def score_generator(
    generator: Generator,
    origin: dict[str, Any],
    datamodule: MagnificationDataModule,
    suite: Suite,
    seed: int,
) -> Scored:
    """Score as many images of a generator as are held out, of the same conditions.

    Args:
        generator: in eval mode.
        origin: where it came from.
        datamodule: its data.
        suite: which scores.
        seed: of the latents.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator.to(device)
    suite.extractor.to(device)
    x_real, conditions = suite.pick(datamodule.test)
    patients = patients_of([datamodule.test_files[i] for i in suite.rows(len(datamodule.test))])
    z = fixed_latents(range(len(x_real)), generator.z_dim, seed)
    real = Side(x_real, conditions, patients)
    fake = Side(generate(generator, z, conditions), conditions)
    train = torch.from_numpy(datamodule.train[:])
    head = {
        **origin,
        "data_sha256": datamodule.sha256,
        "magnification": datamodule.magnification,
        "seed": seed,
    }
    return _score(head, suite, real, fake, train, generator.conditions, datamodule.cache_dir)


def score_folders(
    folders: dict[str, str],
    magnification: str | None,
    image_size: int | None,
    naming: Naming,
    suite: Suite,
    cache_dir: str | Path,
) -> Scored:
    """Score a folder of images made by anybody's generator against a folder of real ones.

    A prepared folder as the real one stands for its test side, and its train side for the
    training images. Classes that both have are scored by themselves as well.

    Args:
        folders: real and fake; and train, what the generator learned from, if it is known.
        magnification: of the images; None if the real ones have but one.
        image_size: side in pixels to which all are scaled; None for the fakes' own.
        naming: how paths tell magnification, class and patient.
        suite: which scores.
        cache_dir: where decoded images and features of real ones are kept.

    Raises:
        FileNotFoundError: if a folder is missing, or holds no such images.
        ValueError: if both are one folder, magnifications would be pooled, or fakes differ in size.
    """
    roots, one, found = read_folders(folders, magnification, image_size, naming, cache_dir)
    known = {key: [f.label for f in side.files] for key, side in found.items()}
    names = sorted((set(known["real"]) & set(known["fake"])) - {UNKNOWN})
    names = names if len(set(known["real"]) | set(known["fake"])) > 1 else []
    number = {name: i for i, name in enumerate(names)}
    sides = {
        key: Side(
            torch.from_numpy(np.array(side.images)),
            torch.tensor([number.get(label, -1) for label in known[key]]),
            patients_of(side.files),
        )
        for key, side in found.items()
    }
    head = {
        **{key: str(root) for key, root in roots.items()},
        "data_sha256": found["real"].sha256,
        "fake_sha256": found["fake"].sha256,
        "magnification": one,
    }
    real, train = _at_most(sides["real"], suite), sides.get("train")
    x_train = train.images if train else None
    return _score(head, suite, real, sides["fake"], x_train, tuple(names), cache_dir)


def read_folders(
    folders: dict[str, str],
    magnification: str | None,
    image_size: int | None,
    naming: Naming,
    cache_dir: str | Path,
) -> tuple[dict[str, Path], str | None, dict[str, ImageSet]]:
    """Return each side's folder, the magnification they share, and each side's images in one size.

    Arguments and errors are those of `score_folders`.
    """
    roots = {key: Path(root).expanduser().absolute() for key, root in folders.items()}
    if roots["real"] == roots["fake"]:
        raise ValueError(f"real and fake must be different folders, got {roots['real']} for both")
    if "train" not in roots and (roots["real"] / manifest.FILE).is_file():
        roots["train"] = roots["real"]
    files = {key: _find(key, root, naming) for key, root in roots.items()}
    one = _one_magnification(files, magnification and magnification.strip().lower())
    kept = {
        key: [f for f in side if one in (None, f.magnification) or f.magnification is None]
        for key, side in files.items()
    }
    for key, side in kept.items():
        if len(side) < 2:
            raise FileNotFoundError(
                f"{key} must be a folder of at least 2 images at {one or 'one magnification'}, "
                f"got {len(side)} in {roots[key]}"
            )
    size = image_size or _common_size(kept["fake"])
    found = {key: load_images(side, size, cache_dir) for key, side in kept.items()}
    return roots, one, found


def _score(
    head: dict[str, Any],
    suite: Suite,
    real: Side,
    fake: Side,
    x_train: Tensor | None,
    names: Sequence[str],
    cache_dir: str | Path,
) -> Scored:
    extractor, train = suite.extractor, None
    if x_train is not None:
        seen = [extract_once(extractor, pose, cache_dir) for pose in poses(x_train)]
        train = Training(x_train, torch.stack([pose.features for pose in seen]))
    x_real = Sample(real.images, extract_once(extractor, real.images, cache_dir))
    x_fake = Sample(fake.images, extractor.extract(fake.images))  # not kept: ever new ones
    result = {
        "version": VERSION,
        **head,
        "image_size": real.images.shape[-1],
        "extractor": suite.extractor.name,
        "extractor_sha256": suite.extractor.sha256,
        **_section(suite, x_real, x_fake, train, real.patients),
        "by_condition": {},
    }
    for i, name in enumerate(names):
        rows, fakes = real.conditions == i, fake.conditions == i
        places = rows.nonzero().flatten().tolist()
        patients = real.patients and [real.patients[place] for place in places]
        part = _section(suite, x_real.part(rows), x_fake.part(fakes), train, patients)
        result["by_condition"][name] = part
    return Scored(result, x_real, x_fake, train)


def _section(
    suite: Suite,
    real: Sample,
    fake: Sample,
    train: Training | None,
    patients: list[str] | None,
) -> dict[str, Any]:
    """Return n and all scores, or the reason why there are none."""
    n = {"n_real": len(real.images), "n_fake": len(fake.images)}
    if min(n.values()) < 2:
        of = ", ".join(f"{key}={value}" for key, value in n.items())
        return n | {"scores": {}, "reason": f"scores need 2 images on each side, got {of}"}
    found = n | {"scores": suite.full(real, fake, train, patients)}
    return found if train is None else found | {"memorization": verdict(real, fake, train)}


def _at_most(side: Side, suite: Suite) -> Side:
    rows = suite.rows(len(side.images))
    patients = side.patients and [side.patients[i] for i in rows]
    return Side(side.images[rows], side.conditions[rows], patients)


def _find(argument: str, root: Path, naming: Naming) -> list[ImageFile]:
    if not root.is_dir():
        raise FileNotFoundError(f"{argument} must be a folder of images, got {root}")
    if not (root / manifest.FILE).is_file():
        return scan(root, naming).files
    table = manifest.read(root)
    side = "train" if argument == "train" else "test"
    return manifest.image_files(table[(table["image"] != "") & (table["split"] == side)], root)


def _one_magnification(files: dict[str, list[ImageFile]], wanted: str | None) -> str | None:
    """Return the magnification that all images have, as far as their paths tell."""
    there = Counter(f.magnification for side in files.values() for f in side if f.magnification)
    if wanted is not None or len(there) < 2:
        return wanted or next(iter(there), None)
    raise ValueError(
        f"images of several magnifications are never scored together, got "
        f"{', '.join(f'{name} ({n})' for name, n in there.items())}; set magnification={min(there)}"
    )


def _common_size(files: list[ImageFile]) -> int:
    sizes = Counter[tuple[int, int]]()
    for file in files:
        try:
            sizes[size_and_format(file.path)[0]] += 1
        except UnreadableImage:
            continue  # `load_images` reports it
    if not sizes:
        raise ValueError(f"fake must hold readable images, got {len(files)} that are not")
    (width, height), _ = sizes.most_common(1)[0]
    if len(sizes) > 1 or width != height:
        there = ", ".join(f"{w} x {h} ({n})" for (w, h), n in sizes.most_common(4))
        raise ValueError(
            f"fake images must be squares of one size, got {there}; "
            f"image_size={min(width, height)} scales all of them, real ones too"
        )
    return width
