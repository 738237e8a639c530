"""Count what the checks of prepared folders found against what was planted.

python score.py ROOT PREPARED [ROOT PREPARED ...]: drawn sets with faults, and what mbgan.prepare
made of them.
"""

import sys
from collections import defaultdict
from pathlib import Path

import pandas as pd
from scipy.stats import binomtest

from mbgan.data import manifest
from mbgan.data.phantom_faults import Fault, read_faults

HERE = Path(__file__).parent
CHECK = {  # fault: the check that must find it
    "blank": "blank",
    "gaussian_blur": "blurred",
    "defocus": "blurred",
    "motion_blur": "blurred",
    "underexposed": "too_dark",
    "overexposed": "too_bright",
    "pen": "saturated",
    "oversaturated": "saturated",
    "grayscale": "grayscale",
    "red_blue_swapped": "red_blue_swapped",
    "low_resolution": "low_resolution",
    "truncated": "unreadable",
    "empty": "unreadable",
    "text": "unreadable",
    "same_bytes": "duplicate",
    "same_pixels": "duplicate",
    "turned": "duplicate",
    "recompressed": "near_duplicate",
    "cropped": "near_duplicate",
    "reworked": "near_duplicate",
    "mislabeled": "label_conflict",
}
PAIRS = ("duplicate", "near_duplicate")  # their findings are of two images
Finding = frozenset[str]  # names of images


def sought(fault: Fault, check: str) -> set[Finding]:
    """Return what a check is right to find because of a fault."""
    pair = frozenset((fault.name, fault.source))
    if fault.fault == "mislabeled":  # both are in conflict, and one is a duplicate of the other
        both = {frozenset((name,)) for name in pair}
        return {"label_conflict": both, "duplicate": {pair}}.get(check, set())
    if CHECK[fault.fault] != check:
        return set()
    return {pair if check in PAIRS else frozenset((fault.name,))}


def reported(table: pd.DataFrame) -> dict[str, set[Finding]]:
    """Return what each check found, from the reasons of a manifest."""
    findings = defaultdict(set)
    for name, reasons in zip(table["name"], table["reasons"], strict=True):
        for reason in reasons.split("; ") if reasons else ():
            check, _, rest = reason.partition(" (")
            other = rest.removeprefix("of ").removesuffix(")")
            findings[check].add(frozenset((name, other) if check in PAIRS else (name,)))
    return findings


def count(root: Path, prepared: Path) -> tuple[list[dict], list[dict]]:
    """Return counts of each fault, and of each check, at each magnification."""
    by_fault, by_check = [], []
    for magnification, table in manifest.read(prepared).groupby("magnification"):
        faults = [f for f in read_faults(root) if f.name.startswith(f"{magnification}/")]
        findings = reported(table)
        clean = set(table["name"]) - {f.name for f in faults}
        wronged = set[str]()
        for fault, check in CHECK.items():
            those = [sought(f, check) for f in faults if f.fault == fault]
            found = sum(wanted <= findings[check] for wanted in those)
            row = {"fault": fault, "check": check, "magnification": magnification}
            by_fault.append(row | {"n": len(those), "found": found})
        for check in dict.fromkeys((*CHECK.values(), *sorted(findings))):
            wanted = {finding for f in faults for finding in sought(f, check)}
            wrong = findings[check] - wanted
            alarms = clean & {name for finding in wrong for name in finding}
            wronged |= alarms
            by_check.append(
                {"check": check, "magnification": magnification, "planted": len(wanted)}
                | {"reported": len(findings[check]), "right": len(findings[check] & wanted)}
                | {"clean": len(clean), "false_alarms": len(alarms)}
            )
        by_check.append(
            {"check": "any", "magnification": magnification}
            | {"planted": 0, "reported": 0, "right": 0}
            | {"clean": len(clean), "false_alarms": len(wronged)}
        )
    return by_fault, by_check


def main() -> None:
    """Write faults.csv and results.csv, the counts of all sets together, with their shares."""
    folders = list(map(Path, sys.argv[1:]))
    counts = [count(*pair) for pair in zip(folders[::2], folders[1::2], strict=True)]
    by_fault, by_check = (
        pd.DataFrame([row for rows in kind for row in rows]) for kind in zip(*counts, strict=True)
    )
    faults = by_fault.groupby(["fault", "check", "magnification"], sort=False).sum().reset_index()
    faults["recall"] = faults["found"] / faults["n"]
    faults["recall_low"] = [  # of the 95 % interval
        binomtest(k, n).proportion_ci(method="wilson").low
        for k, n in zip(faults["found"], faults["n"], strict=True)
    ]
    checks = by_check.groupby(["check", "magnification"], sort=False).sum().reset_index()
    checks["recall"] = checks["right"] / checks["planted"]
    checks["precision"] = checks["right"] / checks["reported"]
    checks["false_alarm_share"] = checks["false_alarms"] / checks["clean"]
    for table, name in ((faults, "faults.csv"), (checks, "results.csv")):
        table.round(4).to_csv(HERE / name, index=False)
        print(table.round(3).to_string(index=False))


if __name__ == "__main__":
    main()
