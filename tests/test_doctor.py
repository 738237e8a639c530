import json

import pytest

from mbgan import assembly, doctor
from mbgan.studies import checkup

SECRET = "0123456789abcdef0123456789abcdef01234567"  # noqa: S105 - of the form of a W&B key


@pytest.fixture
def examine(call, monkeypatch, tmp_path):
    """Run the doctor where there is room; return its exit code and its findings by topic."""
    monkeypatch.chdir(tmp_path)
    fine = checkup.Finding("fine", "ok", "")
    for check in ("check_folder", "check_device", "check_packages", "check_extractors"):
        monkeypatch.setattr(checkup, check, lambda *args, **limits: fine)

    def run(*arguments):
        code = call(doctor.main, "out=found.json", *arguments)[0]
        found = json.loads((tmp_path / "found.json").read_text())["findings"]
        return code, {finding["topic"]: finding for finding in found}

    return run


def test_a_healthy_machine_trains_and_nothing_is_left(examine, tmp_path):
    code, found = examine("seconds=0")
    assert code == 0, found
    assert found["training"]["state"] == "ok"
    assert "images/s" in found["training"]["seen"]
    assert [path.name for path in tmp_path.iterdir()] == ["found.json"]


def test_a_training_that_fails_is_trouble_in_one_line(examine, monkeypatch):
    """A GPU that torch has no kernels for is seen by nothing but a training."""

    def fail(*args):
        raise RuntimeError("CUDA error: no kernel image is available\nCompile with TORCH_USE_CUDA")

    monkeypatch.setattr(assembly, "time_training", fail)
    code, found = examine()
    assert (code, found["training"]["state"]) == (1, "trouble")
    assert found["training"]["seen"].startswith("CUDA error: no kernel image is available")
    assert "\n" not in found["training"]["seen"]


def test_a_key_is_not_told(examine, monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    monkeypatch.setattr(doctor, "check_training", lambda *args: checkup.Finding("t", "ok", ""))
    found = examine()[1]
    assert found["W&B"]["seen"] == "online"
    assert SECRET not in json.dumps(found)
