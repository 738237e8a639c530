"""Prepare many large images, interrupt it on the way, and note time, cores and memory.

python measure.py N: draws N fields of 1024 x 1024 pixels into the cache folder first.
"""

import csv
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from joblib import Parallel, delayed
from PIL import Image

from mbgan.data.phantom import phantom_dir

HERE = Path(__file__).parent
CACHE = Path(os.environ.get("MBGAN_CACHE", "~/.cache/mbgan")).expanduser()
SIDE = 1024  # px


def draw(sources: list[Path], path: Path, i: int) -> None:
    """Write a field: a part of a drawn image, enlarged, with noise of its own."""
    rng = np.random.default_rng(i)
    part = Image.open(sources[i % len(sources)])
    x, y = rng.integers(0, 64, 2)
    field = part.crop((x, y, x + 192, y + 192)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    noise = rng.integers(-6, 7, (SIDE, SIDE, 1), dtype=np.int16)
    pixels = np.clip(np.asarray(field, np.int16) + noise, 0, 255).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, quality=90)


def tree(pid: int) -> list[int]:
    """Return a process and all that it started."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(p for child in children for p in tree(int(child)))]


def memory(pid: int) -> int:
    """Return the bytes of a process, shared ones counted by their share (PSS)."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("Pss:")).split()[1])


def cpu_seconds(pid: int) -> float:
    """Return what a process has computed, without its children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def watch(command: list[str], stop_at: int | None, journal: Path) -> dict[str, float]:
    """Run a command; interrupt it once the journal has stop_at files; return what it took."""
    begin, base, peak, used = time.perf_counter(), 0, 0, dict[int, float]()
    process = subprocess.Popen(command)
    while process.poll() is None:
        time.sleep(0.5)
        try:
            pids = tree(process.pid)
            used |= {pid: cpu_seconds(pid) for pid in pids}
            now = sum(map(memory, pids))
        except (OSError, StopIteration):  # one ended meanwhile
            continue
        # The interpreters' own: what they hold, libraries loaded, when the first file is in.
        if journal.is_file() and not base and seen(journal):
            base = now
        peak = max(peak, now)
        if stop_at is not None and journal.is_file() and seen(journal) >= stop_at:
            process.send_signal(signal.SIGINT)
            stop_at = None
    wall = time.perf_counter() - begin
    return {
        "exit_code": process.returncode,
        "wall_s": wall,
        "cores_busy": sum(used.values()) / wall / (os.cpu_count() or 1),  # share of all
        "peak_mb": peak / 1e6,
        "peak_above_start_mb": (peak - base) / 1e6,
        "files_in_journal": seen(journal),
    }


def seen(journal: Path) -> int:
    """Return how many files the journal of a preparation has."""
    with sqlite3.connect(f"file:{journal}?mode=ro", uri=True, timeout=10) as database:
        return database.execute("SELECT count(*) FROM seen").fetchone()[0]


def main() -> None:
    """Write results.csv."""
    n = int(sys.argv[1])
    sources = sorted(phantom_dir(CACHE).glob("*x/*/*.jpg"))
    root = CACHE / f"fields_{n}"
    if not root.is_dir():
        jobs = ((root / f"100x/field/{i:06d}.jpg", i) for i in range(n))
        Parallel(n_jobs=-1)(delayed(draw)(sources, path, i) for path, i in jobs)
    if sys.argv[2:] == ["draw"]:
        return
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as folder:
        out = Path(folder) / "prepared"
        command = [sys.executable, "-m", "mbgan.prepare", f"data.root={root}", f"out={out}"]
        command.append("forecast=false")
        rows = [
            {"run": name, "n": n, **watch(command, stop_at, out / "journal.sqlite")}
            for name, stop_at in (("interrupted", n // 3), ("resumed", None), ("again", None))
        ]
    with (HERE / "results.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()})
    print((HERE / "results.csv").read_text())


if __name__ == "__main__":
    main()
