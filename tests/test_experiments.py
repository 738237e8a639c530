"""Tables that documents show are those of the committed results."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "experiments/small_data_recipe"


@pytest.mark.parametrize(
    ("document", "table"),
    [
        (ROOT / "README.md", "presets"),
        (RECIPE / "question.md", "changes"),
        (RECIPE / "question.md", "others"),
    ],
)
def test_a_table_shown_is_that_of_the_results(document, table):
    spec = importlib.util.spec_from_file_location("figures", RECIPE / "figures.py")
    figures = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(figures)
    assert getattr(figures, table)() in document.read_text()
