"""Images in a folder nested in any way: found with what their paths tell."""

import logging
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

log = logging.getLogger(__name__)

UNKNOWN = "unknown"  # the class of an image whose path tells none
EXTENSIONS = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp")

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


@dataclass(frozen=True, slots=True)  # there may be 150,000
class ImageFile:
    """An image on disk and what its path tells about it."""

    path: Path  # absolute
    name: str  # POSIX path relative to the root: the stable identity
    magnification: str | None  # "400x", or a plain folder name; None if the path tells none
    label: str  # class, normalized ("large_cell"); "unknown" if the path tells none
    patient: str | None


def patients_of(files: Sequence[ImageFile]) -> list[str] | None:
    """Return the patient of each image, or None if that of any is unknown."""
    known = [file.patient for file in files if file.patient]
    return known if len(known) == len(files) else None


@dataclass(frozen=True)
class Naming:
    """How the paths below a folder tell magnification, class and patient.

    The part of a path nearest to the file decides; the folder's own name counts only if it is a
    magnification and nothing else. The class is the nearest folder that tells something beyond
    magnification and patient. Patterns are regular expressions with one group, searched in the
    path; without one, the habits above (100x, 100X, x100; patient03, case-12, slide_7) are tried.

    Args:
        magnification: of all images whose paths tell none.
        magnification_pattern: finds the magnification.
        class_pattern: finds the class.
        patient_pattern: finds the patient.
        magnifications: what folder names mean, such as {"high": "400x"}.
        classes: what classes found in paths mean, such as {"lca": "large_cell"}.

    Raises:
        ValueError: if a pattern is not a regular expression with one group.
    """

    magnification: str | None = None
    magnification_pattern: str | None = None
    class_pattern: str | None = None
    patient_pattern: str | None = None
    magnifications: Mapping[str, str] | None = None
    classes: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        for kind in ("magnification", "class", "patient"):
            self._pattern(kind)

    def place(self, path: Path, root: Path) -> ImageFile:
        """Return what the path of an image below root tells."""
        # Not as printable: its escapes, such as \x80, would be read as magnifications.
        name = os.fsencode(path.relative_to(root).as_posix()).decode("utf-8", "replace")
        folders = PurePosixPath(name).parts[:-1]
        known = self.magnifications or {}
        meant = {key.strip().casefold(): value for key, value in known.items()}
        named = next((f for f in (*folders[::-1], root.name) if f.casefold() in meant), None)
        if named is not None:
            magnification: str | None = _spelled(meant[named.casefold()])
        elif pattern := self._pattern("magnification"):
            found = _search(pattern, name)
            magnification = found and _spelled(found)
        else:
            magnification = _magnification((*folders, path.stem)) or _whole_magnification(root.name)
        patient = self._patient(name)
        if class_pattern := self._pattern("class"):
            label = _label((_search(class_pattern, name) or "",), [])
        else:
            own = self._pattern("patient")
            nothing = [_MAGNIFICATION, *_PATIENTS, *([own] if own else [])]  # tells no class
            label = _label(tuple(f for f in folders if f not in (named, patient)), nothing)
        classes = {_label((key,), []): value for key, value in (self.classes or {}).items()}
        return ImageFile(
            path,
            _printable(path.relative_to(root)),
            magnification or (self.magnification and _spelled(self.magnification)),
            classes.get(label, label),
            patient,
        )

    def _pattern(self, kind: str) -> re.Pattern[str] | None:
        text = getattr(self, f"{kind}_pattern")
        return None if text is None else _compile(f"{kind}_pattern", text)

    def _patient(self, name: str) -> str | None:
        if pattern := self._pattern("patient"):
            patient = (_search(pattern, name) or "").strip()
            return None if patient.casefold() in ("", "unknown") else patient
        numbers = next((ids for p in _PATIENTS if (ids := p.findall(name))), None)
        return str(int(numbers[-1])) if numbers else None  # 03 and 3 are one patient


@dataclass(frozen=True)
class Scan:
    """What a folder holds."""

    files: list[ImageFile]  # sorted by name
    ignored: Counter[str]  # other files, by extension
    closed: list[str]  # folders that could not be read


def scan(root: Path, naming: Naming) -> Scan:
    """Return all images below root; links are followed, each folder once.

    Raises:
        FileNotFoundError: if root is missing.
        NotADirectoryError: if root is a file.
    """
    if not root.is_dir():
        if root.exists():
            raise NotADirectoryError(f"data.root must be a folder, got the file {root}")
        raise FileNotFoundError(f"no folder {root}; set data.root=DIR to the folder of your images")
    ignored, closed = Counter[str](), list[str]()
    files = [naming.place(path, root) for path in _walk(root, ignored, closed)]
    return Scan(sorted(files, key=lambda file: file.name), ignored, closed)


def find_images(
    root: str | Path, magnification: str, patient_pattern: str | None = None
) -> list[ImageFile]:
    """Return the images of one magnification below root, sorted by name.

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
    wanted = _whole_magnification(magnification)
    plain = {} if wanted else {magnification: magnification}
    files = scan(root, Naming(patient_pattern=patient_pattern, magnifications=plain)).files
    found = [file for file in files if file.magnification == (wanted or magnification)]
    if not found:
        there = Counter(
            f.magnification or (PurePosixPath(f.name).parts[0] if "/" in f.name else "without one")
            for f in files
        )
        others = ", ".join(f"{key} ({n})" for key, n in there.most_common(12))  # fits one line
        raise FileNotFoundError(
            f"no images of magnification {magnification!r} under {root} (looked for "
            f"*{', *'.join(EXTENSIONS)}); there are {others or 'no images at all'}"
        )
    return found


def _walk(root: Path, ignored: Counter[str], closed: list[str]) -> Iterator[Path]:
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
            name = _printable(folder.relative_to(root))
            log.warning("leaving out the folder %s (%s)", name, error.strerror)
            closed.append(name)
            continue
        for entry in entries:
            if entry.name.startswith("."):  # also ._name, which macOS puts beside each file
                continue
            # By os.path, as pathlib raises where a link leads into a closed folder.
            if os.path.isdir(entry):
                (links if entry.is_symlink() else folders).append(entry)
            # A broken link is a lost image: found here, so that decoding reports it. Pipes and
            # devices, also behind a link, are none: reading them may never end.
            elif entry.suffix.lower() in EXTENSIONS and (
                os.path.isfile(entry) or not os.path.exists(entry)
            ):
                yield entry
            else:
                ignored[entry.suffix.lower() or "without extension"] += 1


def _printable(path: Path) -> str:
    """Return a POSIX path that can be printed and saved, also where its bytes are no UTF-8."""
    return os.fsencode(path.as_posix()).decode("utf-8", "backslashreplace")


def _whole_magnification(text: str) -> str | None:
    match = _MAGNIFICATION.fullmatch(text.strip())
    return f"{float(match[1] or match[2]):g}x" if match else None


def _magnification(parts: tuple[str, ...]) -> str | None:
    for part in reversed(parts):
        matches = [m for m in _MAGNIFICATION.finditer(part) if m[1] or not _TILE_Y.search(part)]
        if matches:
            return _whole_magnification(matches[-1][0])
    return None


def _spelled(magnification: object) -> str:
    """Return "100x" for 100X and its like; anything else is a name, and stays."""
    return _whole_magnification(str(magnification)) or str(magnification)


def _compile(argument: str, text: str) -> re.Pattern[str]:
    try:
        pattern = re.compile(text)
        if pattern.groups != 1:
            raise re.error(f"{pattern.groups} groups")
    except re.error as error:
        raise ValueError(
            f"{argument} must be a regular expression with one group, "
            f"got {text!r} ({error}); an example is 'patient([0-9]+)'"
        ) from None
    return pattern


def _search(pattern: re.Pattern[str], name: str) -> str | None:
    match = pattern.search(name)
    return match[1] if match else None


def _label(folders: tuple[str, ...], nothing: list[re.Pattern[str]]) -> str:
    for text in reversed(folders):
        for pattern in nothing:
            text = pattern.sub(" ", text)
        if text := re.sub(r"[\W_]+", "_", text).strip("_").lower():
            return text
    return UNKNOWN
