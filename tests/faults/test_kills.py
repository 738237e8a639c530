"""The short version of experiments/faults/kills.py: the same kills, but few."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "experiments/faults/kills.py"
PLAN = {"train": 3, "generate": 3, "prepare": 3}


@pytest.mark.skipif(sys.platform != "linux", reason="verbs are forked and found by Linux' means")
def test_what_was_killed_at_random_moments_ends_as_if_it_had_not_been(tmp_path):
    """In a process without threads, so that it can be forked."""
    words = [
        sys.executable,
        str(SCRIPT),
        str(tmp_path / "k"),
        *(f"{k}={n}" for k, n in PLAN.items()),
    ]
    seen = subprocess.run(
        words, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    assert seen.returncode == 0, seen.stderr
    with (tmp_path / "k/kills.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == sum(PLAN.values())
    assert {row["losses"] for row in rows} == {"0"}, seen.stderr
