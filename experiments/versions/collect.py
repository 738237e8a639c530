"""Writes what one call of run.sh found: versions into results.csv, counts of tests into tests.csv.

python experiments/versions/collect.py oldest|newest TESTS.xml [what was run]
"""

import csv
import platform
import sys
from importlib.metadata import requires, version
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from packaging.requirements import Requirement

HERE = Path(__file__).parent
COUNTED = ("tests", "failures", "errors", "skipped")


def main(which: str, tests: Path, *ran: str) -> None:
    """Replace the row of the same tests, and the column of versions."""
    packages = read("results.csv", "package")
    for package in map(Requirement, requires("mbgan") or ()):
        if not package.marker or package.marker.evaluate({"extra": ""}):
            row = packages.setdefault(package.name, {"package": package.name})
            row |= {"allowed": str(package.specifier), which: version(package.name)}
    write("results.csv", [row for row in packages.values() if which in row])
    report = ElementTree.parse(tests)  # noqa: S314 - of pytest, a moment ago
    suites = list(report.getroot().iter("testsuite"))
    n = {key: sum(int(suite.get(key, 0)) for suite in suites) for key in COUNTED}
    name = f"{which}: {' '.join(ran) or 'all'}"
    runs = read("tests.csv", "run")
    runs[name] = {
        "run": name,
        "python": platform.python_version(),
        "passed": n["tests"] - n["failures"] - n["errors"] - n["skipped"],
        "failed": n["failures"] + n["errors"],
        "skipped": n["skipped"],
    }
    write("tests.csv", list(runs.values()))


def read(name: str, key: str) -> dict[str, dict[str, Any]]:
    """Return the rows of a table by their first column."""
    path = HERE / name
    with path.open() if path.is_file() else path.open("w+") as file:
        return {row[key]: row for row in csv.DictReader(file)}


def write(name: str, rows: list[dict[str, Any]]) -> None:
    """Write the rows of a table."""
    columns = dict.fromkeys(column for row in rows for column in row)
    with (HERE / name).open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
