"""Does the memory of mbgan.generate grow with the number of images, and how fast is it?

python measure.py RUN [n ...]: writes results.csv, a row for each n (1,000, 10,000, 100,000).
"""

import csv
import json
import os
import sys
import tarfile
import tempfile
import time
from pathlib import Path


def measure(run: str, n: int, out: Path) -> dict[str, float]:
    """Generate n images in a process of its own, and return what that took."""
    words = [f"run={run}", f"n={n}", f"out={out}", "shard_size=1008"]
    began = time.monotonic()
    pid = os.spawnvp(os.P_NOWAIT, sys.executable, [sys.executable, "-m", "mbgan.generate", *words])
    _, status, usage = os.wait4(pid, 0)
    wall_s = time.monotonic() - began
    if status:
        sys.exit("mbgan.generate failed")
    with (out / "manifest.jsonl").open() as file:
        indices = {json.loads(line)["index"] for line in file}
    shards = sorted(out.glob("shard-*.tar"))
    members = 0
    for shard in shards:
        with tarfile.open(shard) as tar:
            members += len(tar.getnames())
    assert indices == set(range(n)), "a row for each image"
    assert members == n, "a file for each image"
    cpu_s = usage.ru_utime + usage.ru_stime
    return {
        "n": n,
        "shards": len(shards),
        "peak_rss_mib": round(usage.ru_maxrss / 1024),
        "cpu_s": round(cpu_s),
        "wall_s": round(wall_s),
        "images_per_cpu_s": round(n / cpu_s, 1),
        "mib_on_disk": round(sum(p.stat().st_size for p in out.iterdir()) / 2**20, 1),
    }


def main() -> None:
    """Measure each n; the smallest number is mostly the start of Python."""
    rows = []
    for n in map(int, sys.argv[2:] or (1_000, 10_000, 100_000)):
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measure(sys.argv[1], n, Path(folder) / "out"))
        print(rows[-1], flush=True)
        with (Path(__file__).parent / "results.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
