"""Decoded images on disk: each data set is decoded once and then memory-mapped."""

import hashlib
import io
import json
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from mbgan.data.decode import UnreadableImage, decode
from mbgan.data.folder import ImageFile
from mbgan.documents import read_json
from mbgan.files import remove_drafts, whole

log = logging.getLogger(__name__)

VERSION = 2  # raise with every change to `decode` or to the files below: caches are keyed by it


@dataclass(frozen=True)
class ImageSet:
    """The readable images of a data set, and what was left out."""

    images: NDArray[np.uint8]  # [N, 3, S, S], memory-mapped, read-only
    files: list[ImageFile]  # N, sorted by name
    skipped: list[tuple[str, str]]  # (name, reason)
    sha256: str  # over names and file bytes of the N images: identifies the data in every run


def load_images(files: Sequence[ImageFile], image_size: int, cache_dir: str | Path) -> ImageSet:
    """Return all readable images, decoded on the first call and read from cache_dir after that.

    The cache is `<key>.npy` and `<key>.json`, the latter written last: without it, or where the
    two disagree, they are made anew. The key covers names, sizes and times of all files. Where
    it cannot be written, images stay in memory.

    Args:
        files: images of one data set; their names must differ.
        image_size: side in pixels to which images are scaled.
        cache_dir: where decoded images are kept; made if missing.

    Raises:
        ValueError: if image_size is below 1, names repeat or fewer than 2 images are readable.
    """
    if image_size < 1:
        raise ValueError(f"image_size must be at least 1, got {image_size}")
    if len({file.name for file in files}) < len(files):
        raise ValueError("files must differ in their names, got one twice; load one root at a time")
    files = sorted(files, key=lambda file: file.name)
    cache_dir = Path(cache_dir).expanduser().absolute()
    stem = cache_dir / _key(files, image_size)
    found = _read(stem, files, image_size)
    if found is None:
        try:
            _build(stem, files, image_size)
            found = _read(stem, files, image_size)
            assert found is not None, "a cache just written can be read"
        except OSError as error:
            log.warning(
                "cannot write %.0f MB of decoded images to cache_dir %s (%s): keeping them in "
                "memory, so the next run decodes them again; make room there, or set cache_dir=DIR",
                *(len(files) * 3 * image_size**2 / 1e6, cache_dir, error.strerror or error),
            )
            found = _in_memory(files, image_size)
    if found.skipped:
        log.warning("skipped %d of %d images: %s", *_summary(found.skipped, files))
    return found


def _summary(skipped: list[tuple[str, str]], files: Sequence[ImageFile]) -> tuple[int, int, str]:
    few = ", ".join(f"{name} ({reason})" for name, reason in skipped[:3])
    return len(skipped), len(files), few + (", ..." if len(skipped) > 3 else "")


def _key(files: Sequence[ImageFile], image_size: int) -> str:
    digest = hashlib.sha256(f"{VERSION} {image_size}".encode())
    for file in files:
        try:
            stat = file.path.stat()
            # A file that has become readable since must not stay skipped.
            state = (stat.st_size, stat.st_mtime_ns, os.access(file.path, os.R_OK))
        except OSError:  # gone, or a broken link: `decode` will say so
            state = (-1, -1, False)
        digest.update(repr((file.name, *state)).encode())
    return digest.hexdigest()[:32]


def _read(stem: Path, files: Sequence[ImageFile], image_size: int) -> ImageSet | None:
    meta_path = stem.with_suffix(".json")
    if not meta_path.exists():
        return None
    try:
        meta = read_json(meta_path)
        by_name = {file.name: file for file in files}
        kept = [by_name[name] for name in meta["files"]]
        images = np.lib.format.open_memmap(stem.with_suffix(".npy"), mode="r")
        if images.dtype != np.uint8 or images.shape != (len(kept), 3, image_size, image_size):
            raise ValueError(f"{images.dtype} {images.shape} for {len(kept)} images")
        skipped = [(name, reason) for name, reason in meta["skipped"]]
        return ImageSet(images, kept, skipped, meta["sha256"])
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        log.warning("decoding anew: the cache %s is damaged (%r)", meta_path, error)
        return None


def _build(stem: Path, files: Sequence[ImageFile], image_size: int) -> None:
    log.info("decoding %d images into %s (once)", len(files), stem.parent)
    stem.parent.mkdir(parents=True, exist_ok=True)
    remove_drafts(stem.parent)
    with whole_file(stem.with_suffix(".npy")) as out:
        meta = _decode_all(files, image_size, out)
    with whole_file(stem.with_suffix(".json")) as out:
        out.write(json.dumps(meta, indent=1).encode())


def _in_memory(files: Sequence[ImageFile], image_size: int) -> ImageSet:
    out = io.BytesIO()
    meta = _decode_all(files, image_size, out)
    out.seek(0)
    by_name = {file.name: file for file in files}
    kept = [by_name[name] for name in meta["files"]]
    images = np.lib.format.read_array(out, allow_pickle=False)
    return ImageSet(images, kept, meta["skipped"], meta["sha256"])


def _decode_all(files: Sequence[ImageFile], image_size: int, out: IO[bytes]) -> dict[str, Any]:
    """Write all readable images into a file as one array, and return what is in it."""
    kept, skipped, digest = list[str](), list[tuple[str, str]](), hashlib.sha256()
    # PIL releases the GIL. At most 8, as each may hold an image of 178 Mpixel.
    pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PIL's, of broken EXIF and the like, per image
            _write_header(out, len(files), image_size)
            for file, (result, sha256) in zip(
                files, pool.map(lambda file: _decode(file.path, image_size), files), strict=True
            ):
                if isinstance(result, str):
                    skipped.append((file.name, result))
                    continue
                out.write(result.tobytes())
                kept.append(file.name)
                digest.update(repr((file.name, sha256)).encode())
            if len(kept) < 2:
                raise ValueError(_too_few(files, skipped))
            out.seek(0)
            _write_header(out, len(kept), image_size)
    finally:
        pool.shutdown(cancel_futures=True)  # at an interrupt: do not decode the rest
    return {"files": kept, "skipped": skipped, "sha256": digest.hexdigest()}


def _decode(path: Path, image_size: int) -> tuple[NDArray[np.uint8] | str, str]:
    """Return the image, or the reason why there is none, and the file's hash."""
    try:
        return decode(path, image_size)
    except UnreadableImage as error:
        return str(error), ""


def _write_header(out: IO[bytes], n: int, image_size: int) -> None:
    # NumPy leaves room for the first axis to grow, so that a second header fits over the first.
    np.lib.format.write_array_header_1_0(
        out, {"descr": "|u1", "fortran_order": False, "shape": (n, 3, image_size, image_size)}
    )


def _too_few(files: Sequence[ImageFile], skipped: list[tuple[str, str]]) -> str:
    where = ""
    if files:
        root = files[0].path.parents[len(PurePosixPath(files[0].name).parts) - 1]
        where = f" of magnification {files[0].magnification!r} under {root}"
    why = "; skipped {} of {}: {}".format(*_summary(skipped, files)) if skipped else ""
    return (
        f"at least 2 readable images are needed, got {len(files) - len(skipped)}{where}{why}; "
        "set data.root=DIR or magnification to where there are more"
    )


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a new file for bytes; it appears at path when it is complete, or not at all.

    Raises:
        OSError: if the disk is full or path cannot be written to.
    """
    with whole(path) as draft, draft.open("xb") as file:
        yield file
