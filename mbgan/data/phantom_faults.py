"""Faults planted in a drawn data set, so that what checks of images must find is known."""

import json
import shutil
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

Picture = NDArray[np.uint8]  # [H, W, 3] or, if gray, [H, W]
Light = NDArray[np.float32]  # [H, W, 3], nominally in 0..255
# Transmission in R, G, B of marker pens, which swallow a color whole.
INKS = np.array([[0.01, 0.60, 0.20], [0.01, 0.10, 0.80], [0.75, 0.01, 0.10]], np.float32)
TEXT = b"<html><head><title>404 Not Found</title></head></html>\n"  # a download gone wrong


class Fault(NamedTuple):
    """One planted fault."""

    name: str  # POSIX path of the file below the root
    fault: str  # a key of SPOILED, ADDED or COPIED, "same_bytes" or "mislabeled"
    source: str  # name of the picture it is a copy of; "" if of none


def _levels(light: NDArray[np.floating]) -> Picture:
    return np.asarray(np.clip(np.rint(light), 0, 255), dtype=np.uint8)


def _grain(light: Light, rng: np.random.Generator) -> Picture:
    """Return the picture with the noise of the sensor, which comes after the lens."""
    noise = rng.standard_normal(light.shape, dtype=np.float32)
    return _levels(light + noise * np.sqrt(np.maximum(light, 0) * 0.012 + 0.6))  # as in `phantom`


def _gaussian_blur(light: Light, rng: np.random.Generator) -> Picture:
    sigma = rng.uniform(2, 4)  # px
    return _grain(ndimage.gaussian_filter(light, (sigma, sigma, 0)), rng)


def _defocus(light: Light, rng: np.random.Generator) -> Picture:
    radius = rng.uniform(4, 7)  # px; an aperture blurs by a disk
    y, x = np.mgrid[-8:9, -8:9]
    disk = np.clip(radius + 0.5 - np.hypot(x, y), 0, 1)
    return _grain(ndimage.convolve(light, disk[..., None] / disk.sum()), rng)


def _motion_blur(light: Light, rng: np.random.Generator) -> Picture:
    length, t = rng.uniform(10, 16), rng.uniform(0, np.pi)  # px, rad
    y, x = np.mgrid[-9:10, -9:10]
    along, across = x * np.cos(t) + y * np.sin(t), y * np.cos(t) - x * np.sin(t)
    line = np.clip((length + 1) / 2 - abs(along), 0, 1) * np.clip(1 - abs(across), 0, 1)
    return _grain(ndimage.convolve(light, line[..., None] / line.sum()), rng)


def _pen(light: Light, rng: np.random.Generator) -> Picture:
    height, width, _ = light.shape
    y, x = np.mgrid[:height, :width]
    t, half = rng.uniform(0, np.pi), rng.uniform(0.08, 0.17) * width  # rad, px
    along = (x - width / 2) * np.cos(t) + (y - height / 2) * np.sin(t)
    across = (y - height / 2) * np.cos(t) - (x - width / 2) * np.sin(t)
    across = across + rng.uniform(-0.2, 0.2) * width + 0.05 * width * np.sin(along * 6 / width)
    stroke = np.clip((half - abs(across)) / 3, 0, 1)[..., None]  # 3 px soft
    return _grain(light * (1 - stroke * (1 - rng.choice(INKS))), rng)


def _oversaturate(light: Light, rng: np.random.Generator) -> Picture:
    gray = light.mean(2, keepdims=True)
    return _levels(gray + rng.uniform(3, 5) * (light - gray))


def _gray(light: Light, rng: np.random.Generator) -> Picture:
    gray = np.asarray(Image.fromarray(_levels(light)).convert("L"))
    return gray if rng.random() < 0.5 else gray[..., None].repeat(3, 2)


def _shrink(light: Light, rng: np.random.Generator) -> Picture:
    return np.asarray(Image.fromarray(_levels(light)).resize((32, 32), Image.Resampling.BOX))


SPOILED: dict[str, Callable[[Light, np.random.Generator], Picture]] = {
    "gaussian_blur": _gaussian_blur,
    "defocus": _defocus,
    "motion_blur": _motion_blur,
    "underexposed": lambda light, rng: _levels(light * rng.uniform(0.2, 0.35)),
    "overexposed": lambda light, rng: _levels(light * rng.uniform(1.7, 2.2)),
    "pen": _pen,
    "oversaturated": _oversaturate,
    "grayscale": _gray,
    "red_blue_swapped": lambda light, rng: _levels(light[..., ::-1]),
    "low_resolution": _shrink,
}


def _encoded(picture: Picture, kind: str, **settings: int) -> bytes:
    buffer = BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(buffer, kind, **settings)
    return buffer.getvalue()


def _blank(picture: Picture, rng: np.random.Generator) -> bytes:
    """Return bare glass of the picture's size: a little noise, and some dust."""
    height, width, _ = picture.shape
    y, x = np.mgrid[:height, :width].astype(np.float32)
    light = np.ones((height, width, 3), np.float32) * rng.uniform(232, 252, 3).astype(np.float32)
    for _ in range(rng.poisson(3)):
        cx, cy = rng.uniform(0, (width, height))
        reach, depth = rng.uniform(1, 4), rng.uniform(20, 80)  # px, levels
        light -= depth * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * reach**2))[..., None]
    return _encoded(_grain(light, rng), "JPEG", quality=93)


def _truncate(picture: Picture, rng: np.random.Generator) -> bytes:
    content = _encoded(picture, "JPEG", quality=93)
    return content[: int(len(content) * rng.uniform(0.3, 0.8))]


ADDED: dict[str, tuple[str, Callable[[Picture, np.random.Generator], bytes]]] = {
    "blank": (".jpg", _blank),
    "truncated": (".jpg", _truncate),
    "empty": (".jpg", lambda picture, rng: b""),
    "text": (".png", lambda picture, rng: TEXT),
}


def pose(picture: Picture, number: int) -> Picture:
    """Return one of the eight ways to turn and mirror a picture [H, W, 3]; 0 leaves it as it is."""
    turned = np.rot90(picture, number % 4)
    return turned[:, ::-1] if number >= 4 else turned


def _crop(picture: Picture, rng: np.random.Generator) -> Picture:
    """Cut 2 to 6 px from each side, and enlarge what is left to the old size."""
    height, width, _ = picture.shape
    left, top, right, bottom = rng.integers(2, 7, 4).tolist()
    box = (left, top, width - right, height - bottom)
    return np.asarray(
        Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC, box)
    )


def _turn(picture: Picture, rng: np.random.Generator) -> Picture:
    return pose(picture, int(rng.integers(1, 8)))


def _recompress(picture: Picture, rng: np.random.Generator) -> bytes:
    return _encoded(picture, "JPEG", quality=int(rng.integers(50, 91)))


COPIED: dict[str, tuple[str, Callable[[Picture, np.random.Generator], bytes]]] = {
    "same_pixels": (".png", lambda picture, rng: _encoded(picture, "PNG")),
    "turned": (".png", lambda picture, rng: _encoded(_turn(picture, rng), "PNG")),
    "recompressed": (".jpg", _recompress),
    "cropped": (".png", lambda picture, rng: _encoded(_crop(picture, rng), "PNG")),
    "reworked": (".jpg", lambda picture, rng: _recompress(_turn(_crop(picture, rng), rng), rng)),
}


def plant_faults(root: str | Path, out: str | Path, seed: int, each: int) -> None:
    """Write a copy of a drawn data set in which some files have faults.

    Of each magnification and for each fault of SPOILED, `each` pictures give way to a spoiled
    version of themselves under their own name; ADDED and COPIED, with "same_bytes", add `each`
    under the next numbers of the patients, and "mislabeled" adds the same file under another
    class. No picture serves twice, so that what is not listed has no fault, and the only
    duplicates are those listed. `truth/faults.json` has a list per field of `Fault` (`read_faults`
    reads it); nuclei stay known where a picture is left alone.

    Args:
        root: folder made by `phantom_dir`, left as it is.
        out: folder to write to, empty or not there yet.
        seed: of choices and faults.
        each: how many of each fault at each magnification.

    Raises:
        FileExistsError: if out holds anything.
        ValueError: if each is below 1, or a magnification has too few pictures or one class.
    """
    root, out = Path(root), Path(out)
    if out.exists() and any(out.iterdir()):
        raise FileExistsError(f"out must be an empty folder or a new one, got {out}")
    if each < 1:
        raise ValueError(f"each must be at least 1, got {each}")
    folders = sorted(f.name for f in root.iterdir() if f.name != "truth")  # the magnifications
    names = {f: sorted(p.relative_to(root) for p in (root / f).rglob("*.jpg")) for f in folders}
    needed = each * (len(SPOILED) + len(COPIED) + 2)
    for folder, pictures in names.items():
        if len(pictures) < needed or len({p.parent for p in pictures}) < 2:
            raise ValueError(
                f"each={each} needs at least {needed} pictures of 2 classes or more at a "
                f"magnification, got {len(pictures)} at {folder}; lower each or draw more"
            )
    shutil.copytree(root, out, dirs_exist_ok=True)
    rng = np.random.default_rng(seed)
    faults = [fault for pictures in names.values() for fault in _plant(out, pictures, rng, each)]
    columns = {k: [getattr(f, k) for f in sorted(faults)] for k in Fault._fields}
    (out / "truth" / "faults.json").write_text(json.dumps(columns, indent=1))


def _patient(name: Path) -> Path:
    return name.parent / name.stem.rpartition("_")[0]


def _plant(out: Path, names: list[Path], rng: np.random.Generator, each: int) -> list[Fault]:
    faults = []
    chosen = iter(rng.permutation(len(names)).tolist())
    # Of each patient, whose last picture comes last.
    numbers = {_patient(name): int(name.stem.rpartition("_")[2]) + 1 for name in names}

    def write(name: Path, content: bytes, fault: str, source: str = "") -> None:
        (out / name).write_bytes(content)
        faults.append(Fault(name.as_posix(), fault, source))

    def add(beside: Path, suffix: str) -> Path:
        patient = _patient(beside)
        numbers[patient] += 1
        return patient.with_name(f"{patient.name}_{numbers[patient] - 1:04d}{suffix}")

    def pixels(name: Path) -> Picture:
        with Image.open(out / name) as image:
            return np.asarray(image)

    for fault, spoil in SPOILED.items():
        for name in (names[next(chosen)] for _ in range(each)):
            light = pixels(name).astype(np.float32)
            write(name, _encoded(spoil(light, rng), "JPEG", quality=93, subsampling=0), fault)
            (out / "truth" / name).with_suffix(".json").unlink()
    clean = [names[i] for i in chosen]
    sources = iter(clean)
    for fault, (suffix, make) in COPIED.items():
        for source in (next(sources) for _ in range(each)):
            write(add(source, suffix), make(pixels(source), rng), fault, source.as_posix())
    for fault, (suffix, make) in ADDED.items():
        for beside in (clean[i] for i in rng.integers(0, len(clean), each)):
            write(add(beside, suffix), make(pixels(beside), rng), fault)
    classes = sorted({name.parent for name in names})
    for _ in range(each):
        source = next(sources)
        write(add(source, ".jpg"), (out / source).read_bytes(), "same_bytes", source.as_posix())
        source = next(sources)
        others = [c for c in classes if c != source.parent]
        wrong = others[rng.integers(len(others))] / source.name
        write(wrong, (out / source).read_bytes(), "mislabeled", source.as_posix())
    return faults


def read_faults(root: str | Path) -> list[Fault]:
    """Return the faults that `plant_faults` has planted in a folder, sorted by name."""
    columns = json.loads((Path(root) / "truth" / "faults.json").read_text())
    return list(map(Fault._make, zip(*columns.values(), strict=True)))
