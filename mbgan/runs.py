"""The run folder: what lies where, how it is written and read back.

Files are whole or not there, see `mbgan.files`. Of each checkpoint the one before is kept, too, and
SHA256SUMS tells whether they are as they were written.
"""

import csv
import hashlib
import io
import json
import logging
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from mbgan.documents import parse_json, plain_yaml, read_object
from mbgan.files import flush_names, remove_drafts, whole

log = logging.getLogger(__name__)

# What asks a process to end: Ctrl-C, kill, and what SLURM and submitit send before a time limit.
SIGNALS = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2")
    if hasattr(signal, name)
)


def leave_signals(worker: int = 0) -> None:
    """Leave signals to the process that this one works for, which saves, then ends both.

    Ctrl-C and schedulers signal all processes of a command.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def rank() -> int:
    """Return which of the processes that share a run this is: 0 for the first, or alone."""
    names = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")  # of torchrun, Lightning, SLURM
    return max(int(os.environ.get(name, 0)) for name in names)


def write_text(path: Path, text: str) -> None:
    """Write a file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as draft:
        draft.write_text(text, encoding="utf-8")


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


class Run:
    """A run folder, new or old.

    Args:
        folder: where everything about one training lies.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.config = self.folder / ".hydra" / "config.yaml"
        self.metrics = self.folder / "metrics.jsonl"
        self.samples = self.folder / "samples"
        self.status = self.folder / "run.json"
        self.sums = self.folder / "checkpoints" / "SHA256SUMS"

    def checkpoint(self, name: str) -> Path:
        """Return the path of a checkpoint: last or best."""
        return self.sums.with_name(f"{name}.ckpt")

    def before(self, name: str) -> Path:
        """Return the path of the checkpoint that was the last, or the best, before it."""
        return self.sums.with_name("previous") / f"{name}.ckpt"

    def has(self, checkpoint: str) -> bool:
        """Tell whether there is a checkpoint, or the one before it."""
        return self.checkpoint(checkpoint).is_file() or self.before(checkpoint).is_file()

    def keep(self, written: Path, name: str) -> None:
        """Make a file that was written beside it the checkpoint, and keep the one before.

        Each gets its line in SHA256SUMS before it gets its name: between any two steps of this
        there is a checkpoint that is listed.
        """
        path, before, listed = self.checkpoint(name), self.before(name), self._listed()
        new, old = sha256_of(written), sha256_of(path) if path.is_file() else None
        if old == new:  # as after a resume from there
            written.unlink()
            return
        others = [line for line in listed if line[1] not in (path.name, f"previous/{path.name}")]
        if old is not None and self.fault(path) is None:
            kept = [(old, f"previous/{path.name}")]
        else:  # damaged: the one before stays
            old, kept = None, [line for line in listed if line[1] == f"previous/{path.name}"]
        self._list([*listed, *kept, (new, path.name)])
        if old is not None:
            before.parent.mkdir(exist_ok=True)
            path.replace(before)
            flush_names(before.parent)
        written.replace(path)
        flush_names(path.parent)
        self._list([*others, *kept, (new, path.name)])

    def fault(self, path: Path) -> str | None:
        """Return why a checkpoint cannot be used; None if it is as it was written.

        Those of earlier versions are not in SHA256SUMS, and are not looked into.
        """
        if not path.is_file():
            return "missing"
        listed = self._listed()
        if path.relative_to(self.sums.parent).as_posix() not in {name for _, name in listed}:
            return None
        if sha256_of(path) in {digest for digest, _ in listed}:
            return None
        return "damaged (its SHA-256 is not in SHA256SUMS)"

    def _listed(self) -> list[tuple[str, str]]:
        lines = self.sums.read_text(errors="replace").splitlines() if self.sums.is_file() else []
        return [(digest, name) for digest, _, name in (line.partition("  ") for line in lines)]

    def _list(self, lines: list[tuple[str, str]]) -> None:
        write_text(self.sums, "".join(f"{digest}  {name}\n" for digest, name in lines))

    def scored(self, checkpoint: str) -> Path:
        """Return the folder of the table and the pictures of a checkpoint's scores."""
        return self.folder / "scored" / checkpoint

    def scores(self, checkpoint: str = "best") -> Path:
        """Return the path of a checkpoint's scores; those of the best stand beside the run."""
        return (self.folder if checkpoint == "best" else self.scored(checkpoint)) / "scores.json"

    @property
    def choices(self) -> dict[str, str]:
        """Which file was chosen of each config group, such as model: dcgan; empty if unknown.

        Raises:
            ValueError: if hydra.yaml is none.
        """
        import yaml  # not there where a bundle is all that runs

        path = self.config.with_name("hydra.yaml")
        try:
            saved = yaml.safe_load(plain_yaml(path)) if path.is_file() else {}
            return {key: str(value) for key, value in saved["hydra"]["runtime"]["choices"].items()}
        except KeyError:
            return {}
        except (yaml.YAMLError, TypeError, AttributeError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"{path} is not what Hydra writes: {reason}") from None

    @property
    def unbegun(self) -> bool:
        """Whether it was ended before its first last.ckpt, which follows the first best.ckpt."""
        start_and_first = 2
        return not self.has("last") and len(self.read_metrics()) <= start_and_first

    def require_config(self) -> None:
        """Check that this is a run folder.

        Raises:
            FileNotFoundError: if it is none.
        """
        if not self.config.is_file():
            raise FileNotFoundError(
                f"run must be a folder that mbgan.train made (with .hydra/config.yaml), "
                f"got {self.folder}"
            )

    def require(self, *, checkpoint: str) -> None:
        """Check that there is a checkpoint, or the one before it.

        Raises:
            FileNotFoundError: if this is no run folder, or holds no such checkpoint.
        """
        self.require_config()
        path = self.checkpoint(checkpoint)
        if not self.has(checkpoint):
            there = sorted(p.stem for p in path.parent.glob("*.ckpt"))
            raise FileNotFoundError(
                f"no checkpoint {checkpoint!r} in {self.folder} (there: "
                f"{', '.join(there) or 'none; it was stopped before its first evaluation'})"
            )

    def whole(self, checkpoint: str) -> Path:
        """Return the path of a checkpoint, or of the one before it if that is damaged.

        Raises:
            FileNotFoundError: if this is no run folder, or holds no such checkpoint.
            ValueError: if both are damaged.
        """
        self.require(checkpoint=checkpoint)
        path, before = self.checkpoint(checkpoint), self.before(checkpoint)
        fault = self.fault(path)
        if fault is None:
            return path
        if (fault_before := self.fault(before)) is None:
            log.warning("%s is %s: going by the one before it, %s", path, fault, before)
            return before
        other = "best" if checkpoint == "last" else "last"
        raise ValueError(
            f"{path} is {fault}, and the one before it, previous/{path.name}, is {fault_before}; "
            f"bring either back from a copy, take the run's other one (checkpoint={other}), or "
            f"train on from that: init_from={self.folder} init_checkpoint={other}"
        )

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Wait until no other process trains in this folder, and keep others out meanwhile."""
        if rank() > 0:
            yield  # the first rank's lock is for all of them
            return
        lock = FileLock(self.folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            log.warning("waiting for another process that trains in %s", self.folder)
            lock.acquire()
        try:
            for folder in (self.folder, self.config.parent, self.sums.parent, self.samples):
                remove_drafts(folder)
            yield
        finally:
            lock.release()

    def read_metrics(self) -> list[dict[str, Any]]:
        """Return the evaluations so far, oldest first; a torn last line is left out."""
        rows = []
        lines = self.metrics.read_bytes().splitlines() if self.metrics.is_file() else []
        for i, line in enumerate(lines):
            try:
                row = parse_json(line, f"{self.metrics} line {i + 1}")
            except ValueError:
                if i + 1 < len(lines):
                    raise
                break
            if not isinstance(row, dict) or not isinstance(row.get("images_seen"), int):
                raise ValueError(f"{self.metrics} line {i + 1} must be a row with images_seen")
            rows.append(row)
        return rows

    def write_metrics(self, rows: list[dict[str, Any]]) -> None:
        """Write the evaluations as metrics.jsonl and, for spreadsheets, metrics.csv."""
        write_text(self.metrics, "".join(json.dumps(row) + "\n" for row in rows))
        table = io.StringIO()
        columns = dict.fromkeys(key for row in rows for key in row)
        writer = csv.DictWriter(table, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(self.metrics.with_suffix(".csv"), table.getvalue())

    def write_json(self, path: Path, content: Mapping[str, Any]) -> None:
        """Write a JSON file of this run."""
        write_text(path, json.dumps(content, indent=2) + "\n")

    def record_failure(self, reason: str) -> None:
        """Write into run.json that this run failed, and why."""
        record = read_object(self.status) if self.status.is_file() else {}
        self.write_json(self.status, record | {"status": "failed", "error": reason})
