"""Measure how fast mbgan is here, and hold it to its targets: `make bench`.

python -m benchmarks [PART ...] [rounds=3] [name=DATE_COMMIT] [quick=true]: writes
benchmarks/results/NAME.json and NAME.md, of a quick one try.json, which git leaves out. Each part
runs by itself; one that fails is reported, the others go on, and the exit code is 1.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import measure
from benchmarks.tables import page, targets

PARTS = ("step", "overhead", "generation", "startup", "verbs", "data_size", "scaling")


def main() -> int:
    """Run the parts asked for, write what they found and return the exit code."""
    given = dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
    parts = [word for word in sys.argv[1:] if "=" not in word] or list(PARTS)
    if unknown := {*parts} - {*PARTS} | {*given} - {"rounds", "name", "quick"}:
        print(f"error: {min(unknown)} is none of {', '.join(PARTS)}, rounds=, name=, quick=")
        return 1
    found: dict[str, measure.Record] = {}
    failed, machine, began = list[str](), measure.machine(), time.monotonic()
    rounds = given.get("rounds", "1" if "quick" in given else "3")
    # The plain and bare loops are written for the CPU, so nothing here may see a GPU.
    environment = os.environ | {"OMP_NUM_THREADS": str(measure.cores()), "CUDA_VISIBLE_DEVICES": ""}
    dated = f"{machine['date'][:10]}_{machine['commit'][:7]}"
    name = given.get("name", "try" if "quick" in given else dated)
    out = measure.ROOT / "benchmarks" / "results" / f"{name}.json"
    print(f"{machine['cpu']}, {measure.cores()} cores, torch {machine['torch']}", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        for part in parts:
            print(f"{part} (after {time.monotonic() - began:.0f} s)", flush=True)
            result = Path(scratch) / f"{part}.json"
            kind = "quick" if "quick" in given else "full"
            command = [sys.executable, "-m", f"benchmarks.{part}", str(result), rounds, kind]
            if subprocess.run(command, env=environment, cwd=measure.ROOT).returncode:
                failed.append(part)
            if result.is_file():
                found |= json.loads(result.read_text())
            machine["wall_s"] = round(time.monotonic() - began)
            content = {"machine": machine, "failed": failed, "measures": found}
            out.write_text(json.dumps(content, indent=1) + "\n")
    out.with_suffix(".md").write_text(page(content))
    print(targets(found))
    print(f"{out.relative_to(measure.ROOT)} and .md, after {machine['wall_s']} s")
    if failed:
        print(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
