"""Checkpoints and metrics that were really damaged."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from test_train import assert_same_training, rows, weights

from mbgan import generate, train
from mbgan.files import draft_of, remove_drafts
from mbgan.runs import Run, write_text

DAMAGE = {
    "damaged": {
        "emptied": lambda content: b"",
        "cut off": lambda content: content[:-3],
        "one bit flipped": lambda content: content[:5] + bytes([content[5] ^ 16]) + content[6:],
    },
    "missing": {"removed": None},
}
DAMAGE_NAMES = [(word, name) for word, kinds in DAMAGE.items() for name in kinds]


def damage(path, word, name):
    change = DAMAGE[word][name]
    if change is None:
        path.unlink()
    else:
        path.write_bytes(change(path.read_bytes()))


def keep(run, name, content):
    written = run.folder / "checkpoints" / f".{name}.ckpt.saving"
    written.write_bytes(content)
    run.keep(written, name)


@pytest.fixture
def run(tmp_path):
    """A run whose last checkpoint is "third one", after "second one"; so is its best."""
    run = Run(tmp_path / "run")
    write_text(run.config, "")
    run.sums.parent.mkdir()
    for content in (b"first one", b"second one", b"third one"):
        keep(run, "best", content)
        keep(run, "last", content)
    return run


def test_the_last_two_of_each_are_kept_with_sums_that_sha256sum_checks(run):
    for name in ("last", "best"):
        assert run.whole(name).read_bytes() == b"third one"
        assert run.before(name).read_bytes() == b"second one"
    words = ["sha256sum", "--check", "--strict", "SHA256SUMS"]
    seen = subprocess.run(words, cwd=run.sums.parent, capture_output=True, text=True)
    assert (seen.returncode, seen.stdout.count(": OK")) == (0, 4)


@pytest.mark.parametrize("checkpoint", ["last", "best"])
@pytest.mark.parametrize(("word", "name"), DAMAGE_NAMES)
def test_a_damaged_one_is_named_once_and_the_one_before_is_used(
    run, caplog, checkpoint, word, name
):
    damage(run.checkpoint(checkpoint), word, name)
    assert run.whole(checkpoint).read_bytes() == b"second one"
    (line,) = caplog.messages
    assert line.startswith(f"{run.checkpoint(checkpoint)} is {word}")


@pytest.mark.parametrize(("word", "name"), DAMAGE_NAMES)
def test_a_damaged_one_never_takes_the_place_of_the_one_before(run, word, name):
    damage(run.checkpoint("last"), word, name)
    keep(run, "last", b"fourth one")
    assert run.whole("last").read_bytes() == b"fourth one"
    assert run.before("last").read_bytes() == b"second one"
    damage(run.checkpoint("last"), word, name)
    assert run.whole("last").read_bytes() == b"second one"


def test_both_damaged_are_named_in_one_line_with_a_way_out(run):
    damage(run.checkpoint("last"), "damaged", "one bit flipped")
    damage(run.before("last"), "missing", "removed")
    with pytest.raises(ValueError, match=r"last.ckpt is damaged .*, is missing; .*") as error:
        run.whole("last")
    assert "checkpoint=best" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("step", range(4))
def test_a_kill_between_any_two_steps_of_keeping_one_leaves_a_good_one(run, monkeypatch, step):
    left, replace = [step], Path.replace

    def killed(path, target):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return replace(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            keep(run, "last", b"fourth one")
    expected = b"fourth one" if step == 3 else b"third one"
    assert run.whole("last").read_bytes() == expected
    keep(run, "last", b"fifth one")  # it goes on from there
    assert run.whole("last").read_bytes() == b"fifth one"
    assert run.before("last").read_bytes() == expected


def test_the_same_checkpoint_again_does_not_push_out_the_one_before(run):
    keep(run, "last", b"third one")
    assert run.before("last").read_bytes() == b"second one"


def test_checkpoints_of_earlier_versions_are_used_and_then_listed(run):
    run.sums.unlink()
    assert run.whole("last").read_bytes() == b"third one"
    keep(run, "last", b"fourth one")
    assert run.before("last").read_bytes() == b"third one"
    assert run.whole("best").read_bytes() == b"third one"


@pytest.mark.parametrize("torn", [b'{"images_se', b"\0\0\0", b'{"a": "\xff'])
def test_a_torn_last_line_of_any_kind_is_left_out(tmp_path, torn):
    run = Run(tmp_path)
    run.write_metrics([{"images_seen": 0}, {"images_seen": 9}])
    run.metrics.write_bytes(run.metrics.read_bytes() + torn)
    assert [row["images_seen"] for row in run.read_metrics()] == [0, 9]


def test_a_run_with_a_damaged_checkpoint_and_a_torn_line_ends_as_if_nothing_had_been(
    call, small, tmp_path
):
    run, more = tmp_path / "run", "total_images=80"
    assert call(train.main, *small, "total_images=60")[0] == 0
    damage(run / "checkpoints/last.ckpt", "damaged", "one bit flipped")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"images_seen": 64, "ki')
    code, err = call(train.main, f"resume={run}", more)
    assert code == 0, err
    assert err.count("last.ckpt is damaged") == 1
    assert call(train.main, *small, more, f"hydra.run.dir={tmp_path}/whole")[0] == 0
    assert_same_training(run, tmp_path / "whole")
    assert [row["images_seen"] for row in rows(run)] == [0, 24, 40, 64, 80]
    before = weights(run, "previous/best")["counters"]["images_seen"]
    damage(run / "checkpoints/best.ckpt", "damaged", "cut off")
    code, err = call(generate.main, f"run={run}", "n=2")
    assert code == 0, err
    assert err.count("best.ckpt is damaged") == 1
    row = json.loads((run / "generated/manifest.jsonl").read_text().splitlines()[0])
    assert row["images_seen"] == before
    (run / "checkpoints/previous/last.ckpt").write_bytes(b"")
    (run / "checkpoints/last.ckpt").write_bytes(b"")
    code, err = call(train.main, f"resume={run}", "total_images=120")
    assert code == 1
    assert "bring either back from a copy" in err.splitlines()[-1]


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="only Linux tells who is gone")
def test_what_killed_processes_of_this_machine_left_half_written_is_removed(tmp_path):
    gone = subprocess.Popen(["true"])
    gone.wait()
    written = draft_of(tmp_path / "image.png")
    left = written.with_name(written.name.replace(f"-{os.getpid()}.", f"-{gone.pid}."))
    others = left.with_name(left.name.replace(".image.png.", ".image.png.another-"))
    for path in (written, others):
        path.touch()
    left.mkdir()
    (left / "part").touch()
    remove_drafts(tmp_path, "other.png")
    assert left.exists()
    remove_drafts(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([written, others])
