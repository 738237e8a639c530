"""Does the memory of mbgan.generate grow with the number of images, and how fast is it?

python measure.py RUN [n ...] [watermark=null]: adds a row to results.csv for each n.
"""

import csv
import json
import os
import sys
import tarfile
import tempfile
import time
from pathlib import Path


def measure(run: str, n: int, mark: list[str], out: Path) -> dict[str, float | str]:
    """Generate n images in a process of its own, and return what that took."""
    words = [f"run={run}", f"n={n}", f"out={out}", "shard_size=1008", *mark]
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
        "watermark": "no" if mark else "yes",
        "shards": len(shards),
        "peak_rss_mib": round(usage.ru_maxrss / 1024),
        "cpu_s": round(cpu_s),
        "wall_s": round(wall_s),
        "images_per_cpu_s": round(n / cpu_s, 1),
        "mib_on_disk": round(sum(p.stat().st_size for p in out.iterdir()) / 2**20, 1),
    }


def table() -> str:
    """Return results.csv as it stands in question.md."""
    lines = [
        "| images | watermark | peak memory, MiB | CPU s | images a CPU second | on disk, MiB |"
    ]
    lines.append("|---" * 6 + "|")
    with (Path(__file__).parent / "results.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            cells = (f"{int(row['n']):,}", row["watermark"], row["peak_rss_mib"], row["cpu_s"])
            cells += (row["images_per_cpu_s"], row["mib_on_disk"])
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure each n; in the smallest the start of Python weighs most."""
    run, *words = sys.argv[1:]
    mark = [word for word in words if word == "watermark=null"]
    table = Path(__file__).parent / "results.csv"
    for n in (int(word) for word in words if word not in mark):
        with tempfile.TemporaryDirectory() as folder:
            row = measure(run, n, mark, Path(folder) / "out")
        print(row, flush=True)
        new = not table.is_file()
        with table.open("a", newline="") as file:
            writer = csv.DictWriter(file, row, lineterminator="\n")
            if new:
                writer.writeheader()
            writer.writerow(row)


if __name__ == "__main__":
    main()
