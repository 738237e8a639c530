"""Results as tables: python -m benchmarks.tables RESULT.json prints a page of them.

With README.md as a second word, the page replaces what stands between its two marks.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure import Record, said

BEGIN, END = "<!-- results: begin -->\n", "<!-- results: end -->\n"
# What is promised, the measure, whether it must be at least or at most, and how much.
TARGETS = (
    ("paper's step, 64 px, against the plain fp32 loop", "plain/64/mbgan against fp32", ">=", 3.0),
    (
        "paper's step, 256 px, against the plain fp32 loop",
        "plain/256/mbgan against fp32",
        ">=",
        2.5,
    ),
    (
        "time of a whole train run against a bare loop",
        "overhead/time of mbgan.train against the bare loop",
        "<=",
        1.05,
    ),
    ("share of the convolutions' ceiling, paper's, 64 px", "step/wgan_gp/64/share", ">=", 0.6),
    ("share of the convolutions' ceiling, paper's, 256 px", "step/wgan_gp/256/share", ">=", 0.6),
    ("loader's capacity against its use", "loader/given against used", ">=", 10.0),
    ("wait for batches, share of the time", "loader/wait", "<=", 0.02),
    (
        "generation, 64 px, against the plain fp32 loop",
        "generation/64/mbgan against plain",
        ">=",
        3.0,
    ),
    ("RAM of training, 150,000 images against 150", "data/memory 150,000 against 150", "<=", 1.1),
    ("`mbgan.train --help`, s", "startup/train --help", "<=", 1.5),
    ("start to the end of the first training step, s", "startup/first step", "<=", 10.0),
)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def targets(found: dict[str, Record]) -> str:
    """Return the targets, what was reached, and whether that is enough."""
    rows = []
    for what, name, sense, wanted in TARGETS:
        if name not in found:
            rows.append([what, f"{sense} {wanted:g}", "not measured", ""])
            continue
        value = found[name]["median"]
        met = value >= wanted if sense == ">=" else value <= wanted
        rows.append([what, f"{sense} {wanted:g}", said(found[name]), "yes" if met else "**no**"])
    return table(["target", "wanted", "reached: median (range)", "met"], rows)


def steps(found: dict[str, Record]) -> str:
    """Return a row a preset and size."""
    rows = []
    for name, speed in found.items():
        if not (name.startswith("step/") and name.endswith("/speed")):
            continue
        _, preset, size, _ = name.split("/")
        stem, cells = name.removesuffix("speed"), [f"`{preset}`", size, str(speed["batch_size"])]
        cells += [speed["precision"], f"{speed['median']:.3g}"]
        for key in ("flops", "reached", "ceiling", "ceiling float32", "share"):
            measured = found.get(stem + key)
            cells.append("" if measured is None else f"{measured['median']:.3g}")
        rows.append(cells)
    head = ["preset", "px", "batch", "precision", "images/s", "GFLOP an image", "GFLOP/s"]
    return table([*head, "ceiling", "in float32", "share"], rows)


def page(content: dict[str, Any]) -> str:
    """Return all of a result."""
    machine, found = content["machine"], content["measures"]
    about = ", ".join(f"{k} {v}" for k, v in machine.items() if k in ("torch", "lightning"))
    spread = "median (lowest to highest)"
    others = [[name, said(m)] for name, m in found.items() if not name.startswith("step/")]
    failed = "".join(f"Part {part} failed.\n\n" for part in content.get("failed", []))
    return (
        f"{machine['date'][:10]}, {machine['cpu']}, {machine['cores']} cores, load before "
        f"{machine['load_before']:.1f}, {about}, commit {machine['commit'][:10]}"
        f"{' and changes' if ' ' in machine['commit'] else ''}\n\n{failed}"
        f"{targets(found)}\nA turn of each preset:\n\n{steps(found)}\n"
        f"Everything else:\n\n{table(['measure', spread], others)}"
    )


def main() -> None:
    """Print a page, or put it into a README."""
    text = page(json.loads(Path(sys.argv[1]).read_text()))
    if len(sys.argv) == 2:
        print(text)
        return
    readme = Path(sys.argv[2])
    before, rest = readme.read_text().split(BEGIN)
    readme.write_text(before + BEGIN + text + END + rest.split(END)[1])


if __name__ == "__main__":
    main()
