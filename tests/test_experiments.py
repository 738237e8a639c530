"""Tables that documents show are those of the committed results."""

import csv
import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "experiments/small_data_recipe"
PAPER = ROOT / "experiments/paper_numbers"
PAPER_TABLES = ("floor", "protocol", "generator", "tell", "inception_score")


@pytest.mark.parametrize(
    ("document", "script", "table"),
    [
        (ROOT / "README.md", RECIPE / "figures.py", "presets"),
        (RECIPE / "question.md", RECIPE / "figures.py", "changes"),
        (RECIPE / "question.md", RECIPE / "figures.py", "others"),
        *(
            (
                ROOT / f"experiments/{name}/question.md",
                ROOT / f"experiments/{name}/measure.py",
                "table",
            )
            for name in ("watermark", "generate_scale")
        ),
        (ROOT / "experiments/faults/question.md", ROOT / "experiments/faults/kills.py", "table"),
        *((PAPER / "question.md", PAPER / "measure.py", f"{name}_table") for name in PAPER_TABLES),
    ],
)
def test_a_table_shown_is_that_of_the_results(document, script, table):
    spec = importlib.util.spec_from_file_location(script.stem, script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert getattr(module, table)() in document.read_text()


def test_every_error_of_the_troubleshooting_table_was_printed():
    """A row a mistake; where the README leaves words out, it says "..."."""
    with (ROOT / "experiments/errors/results.csv").open() as file:
        printed = [row["printed"] for row in csv.DictReader(file)]
    section = (ROOT / "README.md").read_text().partition("## When something goes wrong")[2]
    shown = re.findall(r"^\| `(.+?)` \|", section.partition("\n## ")[0], re.MULTILINE)
    for row, line in zip(shown, printed, strict=True):
        words = map(re.escape, row.split("..."))
        assert re.fullmatch(".*".join(words), line), f"{row}\nis not what was printed:\n{line}"
