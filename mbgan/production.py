"""Any number of images, drawn, labeled and written as they come: memory does not grow with n.

Image i depends on the seed, on i and on the settings alone. A network's arithmetic rounds
differently in batches of other sizes, so images are always drawn in the same blocks of BLOCK, and
devices share out whole blocks. What the manifest has a row for is there, and is not made again.

Needs torch, numpy and Pillow alone.
"""

import hashlib
import io
import json
import logging
import os
import tarfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeVar

import torch
from filelock import FileLock, Timeout
from torch import Tensor
from torch import multiprocessing as mp

from mbgan import watermark
from mbgan.documents import parse_json, read_object
from mbgan.files import flush_names, remove_drafts, whole
from mbgan.labels import FORMATS, SUFFIX, encode
from mbgan.latents import fixed_latents
from mbgan.networks import Generator, generate
from mbgan.runs import write_text

log = logging.getLogger(__name__)

BLOCK = 16  # images drawn at a time
EVERY_S = 10.0  # between two lines about progress

Judge = Callable[[Tensor], list[dict[str, Any]]]  # of images [N, 3, S, S], uint8: rows' columns
Put = Callable[[str, bytes], None]  # of a file's name and content
Rows = list[tuple[dict[str, Any], Future[bytes] | None]]  # with the image's file; None: rejected
T = TypeVar("T")


@dataclass(frozen=True)
class Order:
    """Which images are wanted.

    Args:
        n: images to look at; what a judge rejects is among them.
        seed: of the latents.
        conditions: numbers of the conditions, drawn in turn.
        truncation: in (0, 1].
        kind: png or jpeg.
        quality: of JPEG.
        shard_size: images of a WebDataset shard, a multiple of BLOCK; None for loose files.
        key: of the watermark; None leaves it out.
        origin: where the generator came from, written in every row.
        judged: the judge's settings.

    Raises:
        ValueError: if a setting is out of range.
    """

    n: int
    seed: int
    conditions: list[int]
    truncation: float
    kind: str
    quality: int
    shard_size: int | None
    key: str | None
    origin: dict[str, Any]
    judged: dict[str, Any]

    def __post_init__(self) -> None:
        if not isinstance(self.n, int) or self.n < 1:
            raise ValueError(f"n must be a number, at least 1, got {self.n}")
        if not 0 < self.truncation <= 1:
            raise ValueError(f"truncation must be in (0, 1], got {self.truncation}; 1 is none")
        if self.kind not in FORMATS:
            raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {self.kind}")
        if not isinstance(self.quality, int) or not 1 <= self.quality <= 100:
            raise ValueError(f"quality must be from 1 to 100, got {self.quality}")
        size = self.shard_size
        if size is not None and (not isinstance(size, int) or size < 1 or size % BLOCK):
            raise ValueError(f"shard_size must be null or a multiple of {BLOCK}, got {size}")

    def settings(self) -> dict[str, Any]:
        """Return all that an image depends on, to tell whether a folder's images are of a kind."""
        key = self.key and hashlib.sha256(self.key.encode()).hexdigest()[:16]  # it may be a secret
        return {
            "checkpoint_sha256": self.origin["checkpoint_sha256"],
            "seed": self.seed,
            "condition": self.conditions,
            "truncation": self.truncation,
            "format": self.kind,
            "quality": self.quality if self.kind == "jpeg" else None,
            "shard_size": self.shard_size,
            "watermark": key,
            **self.judged,
        }


def produce(
    generator: Generator, order: Order, out: Path, devices: int = 1, judge: Judge | None = None
) -> dict[str, int]:
    """Write images and manifest.jsonl, a row an image, and return how many rows say what.

    Args:
        generator: in eval mode.
        order: which images.
        out: folder; what it holds of these images already is left as it is.
        devices: GPUs, or processes where there is none.
        judge: says more of each image; what has a reason under "rejected" gets no file.

    Raises:
        ValueError: if devices are not there, or the folder is in use.
        FileExistsError: if the folder holds other files, or images of other settings.
    """
    gpus = torch.cuda.device_count()
    if not isinstance(devices, int) or devices < 1 or (gpus and devices > gpus):
        most = f"to {gpus}, the number of GPUs" if gpus else "on"
        raise ValueError(f"devices must be from 1 {most}, got {devices}")
    _check_folder(out, order.settings())
    try:
        with FileLock(out / ".lock", timeout=0):
            remove_drafts(out)
            write_text(out / "settings.json", json.dumps(order.settings(), indent=2) + "\n")
            done = bytearray(order.n)  # a set of 10^7 numbers would take a gigabyte
            for i, _ in _rows(out / "manifest.jsonl"):
                if i < order.n:
                    done[i] = 1
            missing = order.n - sum(done)
            began, arguments = time.monotonic(), (devices, generator, order, out, judge, done)
            if devices == 1 or not missing:
                _work(0, torch.get_num_threads(), *arguments)
            else:
                _spawn(devices, arguments)
    except Timeout:
        raise ValueError(f"out must be a folder that nobody writes to, got {out}") from None
    wall_s = time.monotonic() - began
    log.info(
        "%d images made in %.1f s, %.1f a second; %d were there already",
        *(missing, wall_s, missing / wall_s, order.n - missing),
    )
    counts = Counter({"images": 0})
    counts.update(reason or "images" for _, reason in _rows(out / "manifest.jsonl"))
    return dict(counts)


def _spawn(devices: int, arguments: tuple[Any, ...]) -> None:
    try:
        # As many threads in each as here: with others, sums may round differently.
        mp.spawn(_work, (torch.get_num_threads(), *arguments), devices, daemon=True)
    except mp.ProcessRaisedException as error:
        raise ValueError(str(error).strip().splitlines()[-1]) from None
    except mp.ProcessExitedException as error:
        raise ValueError(f"{error}; the same command goes on") from None


def _work(
    rank: int,
    threads: int,
    world: int,
    generator: Generator,
    order: Order,
    out: Path,
    judge: Judge | None,
    done: bytearray,
) -> None:
    """Make this rank's share of the units: shards, or blocks."""
    torch.set_num_threads(threads)
    device = f"cuda:{rank}" if torch.cuda.is_available() else "cpu"
    generator = generator.to(device).to(memory_format=torch.channels_last).eval()  # as in training
    size, made = order.shard_size or BLOCK, 0
    began = told = time.monotonic()

    def drawn() -> Iterator[tuple[int, Rows]]:
        for number in range(rank, -(-order.n // size), world):
            unit = range(number * size, min((number + 1) * size, order.n))
            wanted = {i for i in unit if not done[i]}
            if wanted and order.shard_size is not None:
                wanted = set(unit)  # written whole: a block that is there is drawn once more
            for start in range(unit.start, unit.stop, BLOCK):
                if wanted & set(range(start, start + BLOCK)):
                    yield number, _block(generator, order, start, wanted, judge, pool)

    # Files are made by other threads while the network draws the next block.
    with ThreadPoolExecutor(threads) as pool:
        for number, blocks in groupby(_one_behind(drawn()), key=itemgetter(0)):
            rows: list[dict[str, Any]] = []
            with _writer(out, number, order.shard_size) as put:
                for row, content in (pair for _, block in blocks for pair in block):
                    if content is not None:
                        put(row["file"], content.result())
                    rows.append(row)
            prefix = "" if order.shard_size is None else _shard(number) + "/"
            for row in rows:
                row["file"] = row["file"] and prefix + row["file"]
            new = [row for row in rows if not done[row["index"]]]
            flush_names(out)  # before they have rows
            _append(out / "manifest.jsonl", new)
            made += len(new)
            if rank == 0 and time.monotonic() - told > EVERY_S:
                told, last = time.monotonic(), rows[-1]["index"] + 1
                log.info("image %d of %d, %.1f a second", last, order.n, made / (told - began))


def _one_behind(items: Iterable[T]) -> Iterator[T]:
    """Yield each item when the next one has been made."""
    before: list[T] = []
    for item in items:
        yield from before
        before = [item]
    yield from before


@torch.no_grad()
def _block(
    generator: Generator,
    order: Order,
    start: int,
    wanted: set[int],
    judge: Judge | None,
    pool: ThreadPoolExecutor,
) -> Rows:
    """Draw a whole block, and return the rows of what is wanted of it, files in the making."""
    block = range(start, start + BLOCK)
    z = fixed_latents(block, generator.z_dim, order.seed)
    condition = [order.conditions[i % len(order.conditions)] for i in block]
    images = generate(generator, z, torch.tensor(condition), BLOCK, order.truncation).cpu()
    verdicts: list[dict[str, Any]] = judge(images) if judge else [{} for _ in block]
    rows: Rows = []
    for i, number, image, verdict in zip(block, condition, images, verdicts, strict=True):
        if i not in wanted:
            continue
        row = {"file": f"{i:06d}{SUFFIX[order.kind]}", "synthetic": True, "index": i}
        row["seed"] = order.seed
        if generator.conditions:
            row["condition"] = generator.conditions[number]
        row |= {"truncation": order.truncation, **order.origin}
        content = None
        if not verdict.get("rejected"):
            note = {k: v for k, v in row.items() if k not in ("file", "run")}  # no paths of ours
            content = pool.submit(_file, image, note, order)
        row |= verdict
        if content is None:
            row["file"] = None
        rows.append((row, content))
    return rows


def _file(image: Tensor, note: dict[str, Any], order: Order) -> bytes:
    """Return an image [3, S, S] as a file, marked and labeled."""
    pixels = image.permute(1, 2, 0).contiguous().numpy()
    if order.key is not None:
        pixels = watermark.mark(pixels, order.key)
    return encode(pixels, note, order.kind, order.quality)


def _shard(number: int) -> str:
    return f"shard-{number:06d}.tar"


@contextmanager
def _writer(out: Path, number: int, shard_size: int | None) -> Iterator[Put]:
    """Yield what writes whole files into the folder, or into a shard that is whole in the end."""

    def put(name: str, content: bytes) -> None:
        with whole(out / name, flush_name=False) as draft:
            draft.write_bytes(content)

    if shard_size is None:
        # All at once: a disk flushes sixteen files in little more than the time of one.
        with ThreadPoolExecutor(BLOCK) as disk:
            written: list[Future[None]] = []
            yield lambda name, content: written.append(disk.submit(put, name, content))
            for each in written:
                each.result()
        return

    def add(name: str, content: bytes) -> None:
        info = tarfile.TarInfo(name)  # of 1970, so that the same images make the same shard
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))

    with whole(out / _shard(number)) as draft, tarfile.open(draft, "w") as tar:
        yield add


def _append(path: Path, rows: list[dict[str, Any]]) -> None:
    """Add whole lines in one write, so that those of several processes do not mix."""
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    with path.open("ab", buffering=0) as file:
        if file.write(lines) != len(lines):
            raise OSError(f"{path} could not be written whole; make room there")
        os.fsync(file.fileno())


def _check_folder(out: Path, settings: dict[str, Any]) -> None:
    """Refuse a folder of other files or other settings; make a missing one."""
    known = out / "settings.json"
    if known.is_file():
        try:
            then = read_object(known)
        except ValueError as error:
            raise FileExistsError(f"{error}; set out=DIR") from None
        keys = sorted(settings.keys() | then.keys())
        changed = [k for k in keys if settings.get(k) != then.get(k)]
        if changed:
            now, before = (", ".join(f"{k}={s.get(k)}" for k in changed) for s in (settings, then))
            raise FileExistsError(
                f"out must not hold images of other settings, got {out}, made with {before}, "
                f"not {now}; set out=DIR to a new folder"
            )
    elif out.is_dir() and any(out.iterdir()):
        raise FileExistsError(f"out must be a new or empty folder, got {out}; set out=DIR")
    out.mkdir(parents=True, exist_ok=True)


def _rows(manifest: Path) -> Iterator[tuple[int, str | None]]:
    """Yield the index of each image and why it was rejected; a torn last line is cut off."""
    if not manifest.is_file():
        return
    with manifest.open("rb+") as file:
        whole = 0
        for line in file:
            if not line.endswith(b"\n"):
                file.truncate(whole)
                break
            whole += len(line)
            try:
                row = parse_json(line, str(manifest))
                index, rejected = row["index"], row.get("rejected")
                if not isinstance(index, int) or index < 0 or not isinstance(rejected, str | None):
                    raise TypeError
            except (ValueError, LookupError, TypeError, AttributeError):
                raise ValueError(f"{manifest} has a line that is no row: {line!r}") from None
            yield index, rejected
