"""The run folder: what lies where, how it is written and read back.

Files are written to a temporary name and renamed, so that a reader finds the old one or the new
one, never half of it.
"""

import csv
import hashlib
import io
import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from mbgan.documents import parse_json, plain_yaml, read_object

log = logging.getLogger(__name__)


def rank() -> int:
    """Return which of the processes that share a run this is: 0 for the first, or alone."""
    names = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")  # of torchrun, Lightning, SLURM
    return max(int(os.environ.get(name, 0)) for name in names)


def write_text(path: Path, text: str) -> None:
    """Write a whole file or nothing: temporary name, flush to disk, rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


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

    def checkpoint(self, name: str) -> Path:
        """Return the path of a checkpoint: last or best."""
        return self.folder / "checkpoints" / f"{name}.ckpt"

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
        return not self.checkpoint("last").is_file() and len(self.read_metrics()) <= start_and_first

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

    def require(self, *, checkpoint: str) -> Path:
        """Return the path of a checkpoint that is there.

        Raises:
            FileNotFoundError: if this is no run folder, or holds no such checkpoint.
        """
        self.require_config()
        path = self.checkpoint(checkpoint)
        if not path.is_file():
            there = sorted(p.stem for p in path.parent.glob("*.ckpt"))
            raise FileNotFoundError(
                f"no checkpoint {checkpoint!r} in {self.folder} (there: "
                f"{', '.join(there) or 'none; it was stopped before its first evaluation'})"
            )
        return path

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
