"""The house: imports flow downward, files stay short, gradients go through Lightning."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "mbgan"
LAYERS = [  # bottom to top
    {"documents", "files"},
    {
        *("images", "failures", "latents", "runs", "schedules", "slopes", "stains", "labels"),
        "watermark",
    },
    {"data", "networks", "losses", "regularizers", "augment", "ema", "metrics", "weights"},
    {"combinations", "production"},
    {"gan", "bundle"},
    {"callbacks", "studies"},
    {"saved"},
    {"sweeps", "devices"},
    {"assembly", "verbs"},
    {
        *("prepare", "train", "evaluate", "generate", "explore", "compare", "dashboard"),
        *("reader_study", "utility", "detect", "export", "privacy", "doctor"),
    },
]
LEVEL = {room: i for i, layer in enumerate(LAYERS) for room in layer}
ONLY_IN = {  # third-party package -> rooms that may import it
    "hydra": LAYERS[-4] | LAYERS[-3] | LAYERS[-2] | LAYERS[-1],
    "omegaconf": LAYERS[-4] | LAYERS[-3] | LAYERS[-2] | LAYERS[-1],
    "lightning": {"gan", "data", "callbacks", "assembly"} | LAYERS[-1],
    "torchmetrics": {"metrics"},
    "torch_fidelity": {"metrics"},
    "wandb": {"callbacks", "studies"},
}
FILES = sorted(p for p in ROOT.rglob("*.py") if p != ROOT / "__init__.py")


def imports(path: Path) -> set[str]:
    """Names imported anywhere in a file; `from a import b` counts as a.b."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} imports relatively"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_flow_downward(path):
    room = path.relative_to(ROOT).parts[0].removesuffix(".py")
    for name in imports(path):
        top, *rest = name.split(".")
        if top == "mbgan" and rest and rest[0] != room:
            assert LEVEL[rest[0]] < LEVEL[room], f"{room} (layer {LEVEL[room]}) imports {name}"
        assert room in ONLY_IN.get(top, {room}), f"{top} is not allowed in {room}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_file_is_longer_than_350_lines(path):
    assert len(path.read_text().splitlines()) <= 350


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_backward_outside_lightning(path):
    """A plain .backward() leaves the ranks of a distributed run unsynchronized, silently."""
    assert not re.search(r"(?<!manual_backward)(?<!_)(?<!def )\bbackward\(", path.read_text())
