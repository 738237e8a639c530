"""Files and folders that are whole or not there, also after a kill or a power cut.

Each is written under a temporary name beside its own, flushed to the disk and renamed.
"""

import errno
import glob
import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def draft_of(path: Path) -> Path:
    """Return the name under which this process writes a file or a folder."""
    # Machines that share a disk may each have a process of this number.
    return path.with_name(f".{path.name}.{platform.node()}-{os.getpid()}.part")


def remove(path: Path) -> None:
    """Remove a file or a folder with all below it, if it is there."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def remove_drafts(folder: Path, name: str | None = None) -> None:
    """Remove what processes of this machine that are gone left in a folder, half written.

    Args:
        folder: where; what lies in folders below stays.
        name: of the file or folder that they wrote; None for any.
    """
    wanted = "*" if name is None else glob.escape(name)
    for path in folder.glob(f".{wanted}.{glob.escape(platform.node())}-*.part"):
        writer = Path("/proc", path.name.removesuffix(".part").rpartition("-")[2])
        if Path("/proc/self").exists() and not writer.exists():  # only Linux tells who is gone
            remove(path)


def flush(path: Path) -> None:
    """Have the disk hold what was written to a file, or to a folder and all below it."""
    is_folder = path.is_dir()
    for inside in path.iterdir() if is_folder else ():
        flush(inside)
    if is_folder:
        flush_names(path)
        return
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def flush_names(folder: Path) -> None:
    """Have the disk hold which names a folder has: what was renamed there stays renamed."""
    if os.name != "posix":
        return  # a folder cannot be opened
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network disks cannot
            raise
    finally:
        os.close(descriptor)


@contextmanager
def whole(path: Path, flush_name: bool = True) -> Iterator[Path]:
    """Yield the name to write a file or a folder under; path has it when it is complete.

    A file replaces an older one; a folder must be new, or replace an empty one.

    Args:
        path: of the file or the folder.
        flush_name: have the disk hold its name, too; false where the caller does so, of many files
            at once.

    Raises:
        OSError: if the disk is full or path cannot be written to.
    """
    draft = draft_of(path)
    remove(draft)  # of an earlier process with this number
    try:
        yield draft
        flush(draft)
        draft.replace(path)
        if flush_name:
            flush_names(path.parent)
    finally:
        remove(draft)
