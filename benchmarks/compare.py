"""Compare two results: python -m benchmarks.compare BEFORE.json AFTER.json [WORD].

A row a measure that both have (and whose name has the word in it): the ratio of medians, and the
quarter to three quarters of the ratios of any value after to any before. An arrow marks those where
that range does not reach 1: more than noise.
"""

import json
import statistics
import sys
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.measure import Record, said
from benchmarks.tables import table


def row(name: str, before: Record, after: Record) -> list[str]:
    """Return the cells of one measure."""
    pairs = sorted(a / b for a, b in product(after["values"], before["values"]))
    low, _, high = statistics.quantiles(pairs, n=4) if len(pairs) > 1 else pairs * 3
    mark = "" if low <= 1 <= high else " ↑" if low > 1 else " ↓"
    spread = f"({low:.3g} to {high:.3g})" if len(pairs) > 1 else "(once)"
    change = f"{after['median'] / before['median']:.3g} {spread}{mark}"
    return [name, said(before), said(after), change]


def compared(before: dict[str, Any], after: dict[str, Any], word: str = "") -> str:
    """Return the table of two results.

    Raises:
        ValueError: if they have no measure in common.
    """
    old, new = before["measures"], after["measures"]
    names = [name for name in old if name in new and word in name and old[name]["median"]]
    if not names:
        raise ValueError("the two results have no measure in common")
    differ = [
        f"{key}: {before['machine'][key]} then, {after['machine'].get(key)} now\n"
        for key in before["machine"]
        if before["machine"][key] != after["machine"].get(key)
    ]
    rows = [row(name, old[name], new[name]) for name in names]
    return "".join(differ) + "\n" + table(["measure", "before", "after", "after / before"], rows)


def main() -> int:
    """Print the table."""
    if len(sys.argv) not in (3, 4):
        print(__doc__)
        return 2
    try:
        results = [json.loads(Path(path).read_text()) for path in sys.argv[1:3]]
        print(compared(results[0], results[1], *sys.argv[3:]))
    except (OSError, ValueError, KeyError) as error:
        print(f"error: {error!r}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
