"""What every verb does before it begins."""

import os
import platform
import subprocess
import sys

import pytest

from mbgan.verbs import conf_dir, help_page, keep_freed_memory, new_or_resumed

GLIBC = platform.libc_ver()[0] == "glibc"
FREED = """
from mbgan.verbs import keep_freed_memory

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

keep_freed_memory()
before = resident()
block = bytearray(b"x") * 100_000_000
del block
print(resident() - before)
"""


@pytest.mark.skipif(not GLIBC, reason="needs glibc")
@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({}, True),
        ({"MALLOC_ARENA_MAX": "2"}, False),
        ({"GLIBC_TUNABLES": "glibc.malloc.arena_max=2"}, False),
        ({"GLIBC_TUNABLES": "glibc.rtld.nns=2"}, True),
    ],
)
def test_a_freed_block_is_kept_unless_the_user_has_settings_of_malloc(settings, kept):
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", FREED]
    out = subprocess.run(command, env=clean | settings, capture_output=True, check=True, text=True)
    assert (int(out.stdout) > 90_000_000) == kept


def test_where_there_is_no_glibc_nothing_happens(monkeypatch):
    """On Windows there is no CDLL(None), on macOS and musl no mallopt in it."""
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr("ctypes.CDLL", lambda name: pytest.fail("asked for the C library"))
    for key in [k for k in os.environ if k.startswith(("MALLOC_", "GLIBC_"))]:
        monkeypatch.delenv(key)
    keep_freed_memory()


def test_ranks_of_torchrun_need_one_folder_by_name(monkeypatch):
    assert new_or_resumed(None, False, "runs/new") == "runs/new"
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    with pytest.raises(ValueError, match=r"torchrun, hydra\.run\.dir=DIR must name one folder"):
        new_or_resumed(None, False, "runs/new")


HEAVY = {"torch", "lightning", "pandas", "numpy", "scipy", "matplotlib", "PIL", "wandb", "optuna"}
HELP = """
import runpy, sys
sys.argv = ["verb", "--help"]
runpy.run_module("mbgan.VERB", run_name="__main__")
print("loaded:", *sorted(sys.modules))
"""


@pytest.mark.parametrize("verb", sorted({p.stem for p in conf_dir().glob("*.yaml")} - {"verb"}))
def test_help_waits_for_no_heavy_import(verb):
    """What a verb computes with is imported when it begins to."""
    command = [sys.executable, "-c", HELP.replace("VERB", verb)]
    said = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    page, loaded = said.split("loaded: ")
    assert "Settings" in page
    assert not HEAVY & set(loaded.split())


def test_help_offers_the_groups_of_its_verb_alone():
    page = help_page("generate", "Draw images.", ["seed=7"])
    assert page.startswith("Draw images.\n")
    assert "  seed: 7\n" in page
    assert "regularizer" not in page
    assert "  regularizer: clip, gp, gp_lazy, lecam, none, " in help_page("train", "Train.", [])
