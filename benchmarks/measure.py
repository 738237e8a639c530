"""What every part shares: records of repeated measurements, the machine, and memory."""

import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
Record = dict[str, Any]
Measures = Iterator[tuple[str, Record]]


def record(unit: str, values: Sequence[float], **facts: Any) -> Record:
    """Return repeated values of one quantity with their median and range."""
    middle, low, high = statistics.median(values), min(values), max(values)
    numbers = {"median": middle, "low": low, "high": high, "n": len(values)}
    return {"unit": unit, **numbers, "values": list(values), **facts}


def ratios(above: Sequence[float], below: Sequence[float], **facts: Any) -> Record:
    """Return the ratio of what was measured in the same round, round by round."""
    return record("x", [a / b for a, b in zip(above, below, strict=True)], **facts)


def said(found: Record) -> str:
    """Return a record as text, "3.12 x (2.98 to 3.30, n = 3)"."""
    spread = f" ({found['low']:.3g} to {found['high']:.3g}, n = {found['n']})"
    return f"{found['median']:.3g} {found['unit']}{spread if found['n'] > 1 else ''}"


@dataclass(frozen=True)
class Plan:
    """How much a part is to measure."""

    rounds: int  # in which each candidate takes a turn
    quick: bool  # small everything: to see whether the code still runs, not how fast
    scratch: Path  # folder that is deleted afterwards

    def size(self, image_size: int) -> int:
        """Return the image size in pixels; the smallest there is of a quick one."""
        return 32 if self.quick else image_size


def run(part: Callable[[Plan], Measures]) -> None:
    """Be a part: python -m benchmarks.PART OUT.json ROUNDS quick|full.

    What was measured before an error is kept.

    Args:
        part: yields names and records.
    """
    out, rounds, found = Path(sys.argv[1]), int(sys.argv[2]), dict[str, Record]()
    with tempfile.TemporaryDirectory(prefix="mbgan-bench-") as scratch:
        for name, measured in part(Plan(rounds, sys.argv[3] == "quick", Path(scratch))):
            found[name] = measured
            out.write_text(json.dumps(found))
            print(f"  {name}: {said(measured)}", flush=True)


def machine() -> Record:
    """Return what a result depends on besides the code, and which code it was."""
    fields = [line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if line]
    cpu = {key.strip(): value.strip() for key, value in fields}
    packages = ("torch", "lightning", "numpy", "pillow")
    git = ["git", "-C", str(ROOT)]
    commit = subprocess.check_output([*git, "rev-parse", "HEAD"], text=True).strip()
    changed = subprocess.check_output([*git, "status", "--porcelain", "mbgan", "conf"], text=True)
    return {
        "cpu": f"{cpu.get('model name', platform.machine())}, model {cpu.get('model', '?')}",
        "instructions": [f for f in ("avx512_bf16", "amx_bf16") if f in cpu.get("flags", "")],
        "cores": cores(),
        "load_before": os.getloadavg()[0],
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
        "commit": commit + (" and changes" if changed else ""),
        "date": datetime.datetime.now().isoformat(timespec="seconds"),
    }


@dataclass(frozen=True)
class Spent:
    """What a process took."""

    seconds: float
    peak_mib: float  # of memory, with the pages of files


def process(module: str, *words: object) -> Spent:
    """Run a verb, or another module, to its end.

    Raises:
        RuntimeError: if it fails; its last words are in the message.
    """
    command = [sys.executable, "-m", module, *map(str, words)]
    with tempfile.TemporaryFile("w+") as log:
        began = time.perf_counter()
        child = subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT)
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - began
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            log.seek(0)
            raise RuntimeError(f"{' '.join(command)} failed:\n{log.read()[-2000:]}")
    return Spent(seconds, usage.ru_maxrss / 1024)


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))


def memory() -> dict[str, float]:
    """Return this process's memory in MiB: its own pages, pages of files, and the peak of both.

    Pages of files are those of libraries and of the memory-mapped cache; the kernel drops them
    when it wants room, so what a data set costs is read off the process's own pages.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    fields = {key: value for key, _, value in (line.partition(":") for line in lines)}
    names = {"own": "RssAnon", "files": "RssFile", "peak": "VmHWM"}
    return {name: int(fields[field].split()[0]) / 1024 for name, field in names.items()}
