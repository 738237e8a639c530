"""Every file of a folder is read once, on all cores, and what was seen is kept in a journal."""

import json
import os
import sqlite3
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict
from itertools import islice
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import Any

import cv2
import numpy as np

from mbgan.data.decode import UnreadableImage, read_image, resize
from mbgan.data.duplicates import fingerprint
from mbgan.data.fields import Box, Fields
from mbgan.data.folder import ImageFile
from mbgan.data.quality import measure
from mbgan.data.rendering import stain_of
from mbgan.runs import leave_signals

VERSION = 1  # raise with every change to what `inspect` sees: journals are keyed by it


def inspect(path: Path, fields: Fields, image_size: int) -> list[dict[str, Any]]:
    """Return what is seen in an image file, one row for each image that it becomes.

    Args:
        path: of the file.
        fields: how a large field becomes images.
        image_size: side in pixels at which stains are looked at.

    Returns:
        Rows of plain values; at least one: `unreadable` gives the reason why there is no image.
    """
    try:
        image = read_image(path)
    except UnreadableImage as error:
        return [{"unreadable": str(error)}]
    about = {
        "sha256": image.sha256,
        "mode": image.mode,
        "format": image.format,
        "um_per_pixel": image.um_per_pixel,
        "width": image.rgb.width,
        "height": image.rgb.height,
    }
    boxes = fields.boxes(image.rgb.width, image.rgb.height)
    if not boxes:
        return [about | {"unreadable": f"{image.rgb.width} x {image.rgb.height} gives no tile"}]
    rows = []
    for box in boxes:
        part = image.rgb.crop((box.x, box.y, box.x + box.width, box.y + box.height))
        pixels = np.asarray(part)
        mark = asdict(fingerprint(pixels))
        rows.append(
            about
            | {"tile": tile_name(box) if part.size != image.rgb.size else "", "unreadable": ""}
            | {"measures": measure(pixels), "stain": stain_of(np.asarray(resize(part, image_size)))}
            | {"fingerprint": mark | {"structure": b64encode(mark["structure"]).decode()}}
        )
    return rows


def tile_name(box: Box) -> str:
    """Return a box as the manifest writes it: "x,y,width,height"."""
    return ",".join(map(str, box))


class Journal:
    """What was seen of each file, kept on disk as it comes: a stop loses nothing that was done.

    A file that changes, and a change of the settings, is seen anew.

    Args:
        path: of the database; made if missing.
        settings: whatever, beside the file itself, decides what is seen.
    """

    def __init__(self, path: Path, settings: str) -> None:
        self.path, self.settings = path, f"{VERSION} {settings}"

    def missing(self, files: Sequence[ImageFile]) -> list[ImageFile]:
        """Return the files that were not seen yet as they are now."""
        with self._open() as database:
            seen = {key for (key,) in database.execute("SELECT key FROM seen")}
        return [file for file in files if self._key(file) not in seen]

    def record(self, results: Iterator[tuple[ImageFile, list[dict[str, Any]]]]) -> Iterator[None]:
        """Keep results as they come, and yield once for each."""
        with self._open() as database:
            try:
                for i, (file, rows) in enumerate(results):
                    row = (self._key(file), json.dumps(rows))
                    database.execute("INSERT OR REPLACE INTO seen VALUES (?, ?)", row)
                    if i % 64 == 0:  # each waits for the disk; a kill loses a second's work
                        database.commit()
                    yield
            finally:
                database.commit()

    def read(self, files: Sequence[ImageFile]) -> Iterator[tuple[ImageFile, dict[str, Any]]]:
        """Yield all rows of files, and forget files that are there no more.

        Raises:
            UnreadableImage: if a file is not as it was when it was inspected.
        """
        with self._open() as database:
            keys = {self._key(file): file for file in files}
            database.execute("CREATE TEMP TABLE there (key TEXT PRIMARY KEY)")
            database.executemany("INSERT INTO there VALUES (?)", ((key,) for key in keys))
            database.execute("DELETE FROM seen WHERE key NOT IN (SELECT key FROM there)")
            database.commit()
            for key, rows in database.execute("SELECT key, rows FROM seen"):
                file = keys.pop(key)
                for row in json.loads(rows):
                    yield file, row
            for file in keys.values():
                raise UnreadableImage(
                    f"{file.path} changed while it was prepared; run mbgan.prepare again"
                )

    def _key(self, file: ImageFile) -> str:
        try:
            stat = file.path.stat()
            # chmod changes neither size nor time: a file that became readable is seen anew.
            state = (stat.st_size, stat.st_mtime_ns, os.access(file.path, os.R_OK))
        except OSError:  # gone, or a broken link
            state = (-1, -1, False)
        return repr((self.settings, file.name, *state))

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        database = sqlite3.connect(self.path, timeout=60)
        try:
            database.execute("CREATE TABLE IF NOT EXISTS seen (key TEXT PRIMARY KEY, rows TEXT)")
            yield database
        finally:
            database.close()


def on_all_cores(
    function: Callable[..., Any], jobs: Sequence[tuple[Any, ...]], workers: int
) -> Iterator[tuple[int, Any]]:
    """Yield (number of the job, `function(*job)`) for every job, in any order.

    Raises:
        OSError: if a worker process dies.
    """
    if workers == 1:
        yield from ((i, function(*job)) for i, job in enumerate(jobs))
        return
    # Spawned, so that workers hold no copy of what the caller has loaded.
    pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer=_begin_worker)
    left, running = iter(enumerate(jobs)), dict[Future[Any], int]()
    try:
        while True:
            for i, job in islice(left, 4 * workers - len(running)):
                running[pool.submit(function, *job)] = i
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                i = running[future]
                yield i, future.result()
                del running[future]
    except BrokenProcessPool:
        names = ", ".join(str(jobs[i][0]) for i in sorted(running.values()))
        raise OSError(
            f"a worker process died over one of {names}: out of memory, or a file that breaks its "
            "reader; set workers=1, or move the file away"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _begin_worker() -> None:
    leave_signals()
    Thread(target=_end_with_caller, daemon=True).start()
    cv2.setNumThreads(1)  # every core has its own worker


def _end_with_caller() -> None:
    """End this worker when its caller was killed: it would wait for more work forever."""
    caller = parent_process()
    assert caller is not None, "a worker has a caller"
    caller.join()
    os._exit(1)
