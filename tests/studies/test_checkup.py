"""Findings about a machine: each trouble names its way out."""

import shutil
import time
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from mbgan.metrics.features import inception_cache
from mbgan.studies import checkup

LIMITS = {"write_mb": 1, "slow_mb_per_s": 50, "min_free_gb": 2}


def folder(path, **changes):
    return checkup.check_folder("runs", path, "hydra.run.dir=DIR", **LIMITS | changes)


def free(monkeypatch, gb):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=gb * 1e9))


@pytest.mark.parametrize(
    ("found", "seen"),
    [
        ({"torch": "2.5.1"}, "torch 2.5.1 (needs <3,>=2.6)"),
        ({"torch": "3.0"}, "torch 3.0 (needs <3,>=2.6)"),
        ({}, "torch missing (needs <3,>=2.6)"),
    ],
)
def test_a_package_out_of_its_bounds_is_trouble_with_the_line_that_mends_it(
    monkeypatch, found, seen
):
    def version(name):
        if name not in found:
            raise checkup.PackageNotFoundError(name)
        return found[name]

    monkeypatch.setattr(checkup, "requires", lambda name: ["torch>=2.6,<3", "x; extra == 'ray'"])
    monkeypatch.setattr(checkup, "version", version)
    finding = checkup.check_packages()
    assert (finding.state, finding.seen) == ("trouble", seen)
    assert finding.advice == "pip install 'torch<3,>=2.6'"


def test_builds_of_torch_are_within_its_bounds(monkeypatch):
    """2.13.0+cpu and 2.14.0a0 of a vendor's container are no versions below 2.13.0 and 2.14."""
    monkeypatch.setattr(checkup, "requires", lambda name: ["torch>=2.6,<3"])
    for build in ("2.13.0+cpu", "2.14.0a0+git1"):
        monkeypatch.setattr(checkup, "version", lambda name, build=build: build)
        assert checkup.check_packages().state == "ok"


def test_only_extras_that_are_missing_are_offered(monkeypatch):
    needs = ["timm>=1; extra == 'timm'", "ray>=2; extra == 'ray'"]
    monkeypatch.setattr(checkup, "requires", lambda name: needs)
    monkeypatch.setattr(checkup, "_installed", lambda need: "1.0" if need.name == "timm" else None)
    finding = checkup.check_extras()
    assert (finding.state, finding.seen) == ("ok", "timm")
    assert "'mbgan[ray]'" in finding.advice


@pytest.mark.parametrize(
    ("built", "advice"), [(None, "for CPUs only"), ("12.4", "its CUDA 12.4 needs a newer driver")]
)
def test_a_driver_without_a_gpu_for_torch_is_trouble(monkeypatch, built, advice):
    """Else a training falls back to the CPU, and is a hundred times slower without a word."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", built)
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    finding = checkup.check_device()
    assert finding.state == "trouble"
    assert advice in finding.advice
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert checkup.check_device().state == "notice"


@pytest.mark.parametrize(("free_gb", "state"), [(70, "ok"), (10, "notice")])
def test_a_gpu_that_others_fill_is_named(monkeypatch, free_gb, state):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda i: "H200")
    memory = {0: (140e9, 140e9), 1: (free_gb * 1e9, 140e9)}
    monkeypatch.setattr(torch.cuda, "mem_get_info", memory.get)
    finding = checkup.check_device()
    assert finding.state == state
    assert f"GPU 1: H200, {free_gb} of 140 GB free" in finding.seen
    assert ("others use GPU 1 " in finding.advice) == (state == "notice")


@pytest.mark.parametrize(("gb", "state"), [(1.9, "trouble"), (2.1, "ok")])
def test_too_little_room_is_trouble_with_another_place_as_way_out(monkeypatch, tmp_path, gb, state):
    free(monkeypatch, gb)
    finding = folder(tmp_path, slow_mb_per_s=0)
    assert finding.state == state
    assert (finding.advice == "a run needs 2 GB: free some, or hydra.run.dir=DIR") == (gb < 2)


def test_a_disk_that_takes_no_file_is_trouble(monkeypatch, full_disk, tmp_path):
    """A quota is full while the file system has room."""
    free(monkeypatch, 100)
    finding = folder(tmp_path)
    assert finding.state == "trouble"
    assert finding.seen.endswith("but: No space left on device")
    assert finding.advice.endswith("or hydra.run.dir=DIR")


def test_a_slow_disk_is_noticed_with_what_it_costs(monkeypatch, tmp_path):
    free(monkeypatch, 100)
    ticks = iter([0.0, 0.1])  # 1 MB in a tenth of a second
    monkeypatch.setattr(time, "perf_counter", lambda: next(ticks))
    finding = folder(tmp_path)
    assert finding.state == "notice"
    assert "10 MB/s" in finding.seen
    assert "takes 35 s" in finding.advice


def test_a_folder_that_is_not_there_is_not_made(tmp_path):
    assert folder(tmp_path / "not/yet", min_free_gb=0, slow_mb_per_s=0).state == "ok"
    assert not list(tmp_path.iterdir())


def test_weights_of_inception_are_whole_damaged_or_not_there(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    assert checkup.check_extractors().state == "notice"
    inception_cache().parent.mkdir()
    torch.save({"x": torch.zeros(3)}, inception_cache())
    finding = checkup.check_extractors()
    assert (finding.state, finding.seen.split(",")[0]) == ("ok", "inception")
    inception_cache().write_bytes(inception_cache().read_bytes()[:-100])
    finding = checkup.check_extractors()
    assert finding.state == "trouble"
    assert "remove the file" in finding.advice


def test_the_home_folder_is_not_told(monkeypatch, tmp_path):
    """A table that goes into an issue names no user."""
    monkeypatch.setattr(checkup.Path, "home", lambda: tmp_path / "someone")
    assert checkup.shown(tmp_path / "someone/runs") == "~/runs"
    assert checkup.shown(tmp_path / "data") == str(tmp_path / "data")


def test_what_was_found_is_text_and_no_markup():
    finding = checkup.Finding("extras", "notice", "none", "pip install 'mbgan[ray]'")
    console = Console(width=100)
    with console.capture() as printed:
        console.print(checkup.table([finding]))
    assert "-> pip install 'mbgan[ray]'" in printed.get()
