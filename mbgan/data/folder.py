"""Images in a folder nested in any way: found with what their paths tell, and decoded."""

import logging
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

log = logging.getLogger(__name__)

EXTENSIONS = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp")
# Also what is often misnamed .jpg or .png; not EPS and the like, which start other programs.
FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "GIF", "WEBP")
MAX_PIXELS = 178_956_970  # twice PIL's MAX_IMAGE_PIXELS, where PIL itself refuses

# 100x, 2.5x, 100 x, x100; not 0x40, 256x256 or 224 x 224.
_NUMBER, _X = r"([1-9]\d{0,3}(?:\.\d+)?|0\.\d+)", r"[x\u00d7]"
_MAGNIFICATION = re.compile(
    rf"(?<![a-z0-9])(?:{_NUMBER}(?:{_X}|\s+{_X}(?!\s*\d))|{_X}{_NUMBER})(?![a-z0-9])", re.I
)
_TILE_Y = re.compile(r"(?<![a-z])y[\s_=-]*\d", re.I)  # x100_y200 is a place, not a magnification
# A patient comes before a case, a case before a slide; "slide_400x" is no slide 400.
_PATIENTS = [
    re.compile(rf"{word}[\s_.#=-]*(?:id|no|nr)?[\s_.#=-]*(\d+)(?!\d|\s?x(?![a-z0-9]))", re.I)
    for word in ("patient", "(?<![a-z])case", "(?<![a-z])slide")
]


@dataclass(frozen=True)
class ImageFile:
    """An image on disk and what its path tells about it."""

    path: Path  # absolute
    name: str  # POSIX path relative to the root: the stable identity
    magnification: str | None  # "400x", or a plain folder name; None if the path tells none
    label: str  # class, normalized ("large_cell"); "unknown" if the path tells none
    patient: str | None


class UnreadableImage(ValueError):
    """A file that holds no image we can decode; its message is the reason, in a few words."""


def find_images(
    root: str | Path, magnification: str, patient_pattern: str | None = None
) -> list[ImageFile]:
    r"""Return the images of one magnification below root, sorted by name.

    The part of a path nearest to the file decides; root's own name counts only if it is the
    magnification and nothing else. The class is the nearest folder that tells something beyond
    magnification and patient. Links are followed, each folder once.

    Args:
        root: folder of images, nested in any way.
        magnification: "100x" (also found as 100X, x100 or 100 x), or the plain name of a folder.
        patient_pattern: regular expression with one group, searched in the path below root;
            None for patient03, case-12, slide_7 and their like, as "3", "12", "7".

    Raises:
        FileNotFoundError: if root is missing or holds no such images.
        NotADirectoryError: if root is a file.
        ValueError: if patient_pattern is not a regular expression with one group.
    """
    root = Path(root).expanduser().absolute()
    if not root.is_dir():
        if root.exists():
            raise NotADirectoryError(f"data.root must be a folder, got the file {root}")
        raise FileNotFoundError(f"no folder {root}; set data.root=DIR to the folder of your images")
    pattern = _compile(patient_pattern) if patient_pattern is not None else None
    wanted = _whole_magnification(magnification)
    nothing = [_MAGNIFICATION, *_PATIENTS, *([pattern] if pattern else [])]  # tells no class
    files, there = [], Counter[str]()
    for path in _walk(root):
        name = path.relative_to(root).as_posix()
        folders = PurePosixPath(name).parts[:-1]
        found = _magnification((*folders, path.stem)) or _whole_magnification(root.name)
        there[found or (folders[0] if folders else "without one")] += 1
        if wanted is None:  # a plain folder name
            plain = magnification.strip().casefold()
            found = next((f for f in (*folders[::-1], root.name) if f.casefold() == plain), None)
        if found and wanted in (found, None):
            patient = _patient(name, pattern)
            telling = tuple(f for f in folders if f not in (found, patient))
            files.append(ImageFile(path, name, found, _label(telling, nothing), patient))
    if not files:
        others = ", ".join(f"{key} ({n})" for key, n in there.most_common(12))  # fits one line
        raise FileNotFoundError(
            f"no images of magnification {magnification!r} under {root} (looked for "
            f"*{', *'.join(EXTENSIONS)}); there are {others or 'no images at all'}"
        )
    return sorted(files, key=lambda file: file.name)


def _walk(root: Path) -> Iterator[Path]:
    # Links wait until all true folders are done: a folder reached both ways keeps its true name.
    # A link to a folder above root would bring in all that lies beside root.
    folders, links, seen = [root], list[Path](), set(root.resolve().parents)
    while folders or links:
        folder = folders.pop() if folders else links.pop(0)
        if (true_path := folder.resolve()) in seen:
            continue
        seen.add(true_path)
        try:
            entries = sorted(folder.iterdir())
        except OSError as error:
            log.warning("leaving out the folder %s (%s)", folder, error.strerror)
            continue
        for entry in entries:
            if entry.name.startswith("."):  # also ._name, which macOS puts beside each file
                continue
            if entry.is_dir():
                (links if entry.is_symlink() else folders).append(entry)
            # A broken link is a lost image: found here, so that decoding reports it.
            elif entry.suffix.lower() in EXTENSIONS and (entry.is_file() or entry.is_symlink()):
                yield entry


def _whole_magnification(text: str) -> str | None:
    match = _MAGNIFICATION.fullmatch(text.strip())
    return f"{float(match[1] or match[2]):g}x" if match else None


def _magnification(parts: tuple[str, ...]) -> str | None:
    for part in reversed(parts):
        matches = [m for m in _MAGNIFICATION.finditer(part) if m[1] or not _TILE_Y.search(part)]
        if matches:
            return _whole_magnification(matches[-1][0])
    return None


def _compile(patient_pattern: str) -> re.Pattern[str]:
    try:
        pattern = re.compile(patient_pattern)
        if pattern.groups != 1:
            raise re.error(f"{pattern.groups} groups")
    except re.error as error:
        raise ValueError(
            "patient_pattern must be a regular expression with one group, "
            f"got {patient_pattern!r} ({error}); an example is 'patient([0-9]+)'"
        ) from None
    return pattern


def _patient(name: str, pattern: re.Pattern[str] | None) -> str | None:
    if pattern is None:
        found = next((ids for p in _PATIENTS if (ids := p.findall(name))), None)
        return str(int(found[-1])) if found else None  # 03 and 3 are one patient
    match = pattern.search(name)
    patient = (match[1] or "").strip() if match else ""
    return None if patient.casefold() in ("", "unknown") else patient


def _label(folders: tuple[str, ...], nothing: list[re.Pattern[str]]) -> str:
    for text in reversed(folders):
        for pattern in nothing:
            text = pattern.sub(" ", text)
        if text := re.sub(r"[\W_]+", "_", text).strip("_").lower():
            return text
    return "unknown"


def decode(path: Path, image_size: int) -> NDArray[np.uint8]:
    """Return the image [3, image_size, image_size], RGB, upright, on white where transparent.

    Of several pages the first; shrunk by area averaging, enlarged by bicubic interpolation, with
    the sides' ratio given up as in the paper (sec. III.B).

    Raises:
        UnreadableImage: if there is no such image in the file, whatever is wrong with it.
    """
    try:
        if not path.stat().st_size:
            raise UnreadableImage("an empty file")
        with Image.open(path, formats=FORMATS) as file:
            if file.width * file.height > MAX_PIXELS:  # also where PIL's own limit was lifted
                raise Image.DecompressionBombError
            image = _to_rgb(ImageOps.exif_transpose(file))
        # Each side by itself: one may shrink while the other grows.
        small = (min(image.width, image_size), min(image.height, image_size))
        image = image.resize(small, Image.Resampling.BOX)
        image = image.resize((image_size, image_size), Image.Resampling.BICUBIC)
        return np.ascontiguousarray(np.moveaxis(np.asarray(image), -1, 0))
    except Exception as error:  # PIL's readers raise some fifteen kinds, from KeyError to zlib's
        raise UnreadableImage(_reason(error)) from error


def _reason(error: Exception) -> str:
    if isinstance(error, Image.DecompressionBombError):
        return f"more than {MAX_PIXELS} pixels"
    if isinstance(error, UnidentifiedImageError):
        return "not an image of a known kind"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return (str(error).splitlines() or [type(error).__name__])[0][:80]


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "I":
        raise UnreadableImage("32-bit or signed gray levels of unknown range; save as 8 or 16 bit")
    # PIL's convert clips these at 255.
    if image.mode == "F" or image.mode.startswith("I;16"):
        levels = np.asarray(image, dtype=np.float32) / (1 if image.mode == "F" else 65535)
        if not (levels.min() >= 0 and levels.max() <= 1):  # also NaN
            raise UnreadableImage("float levels outside 0 to 1; save as 8 or 16 bit")
        return Image.fromarray(np.rint(levels * 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")
