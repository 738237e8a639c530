import json

import pytest

from mbgan.runs import Run, write_text


def test_metrics_survive_a_torn_last_line(tmp_path):
    run = Run(tmp_path)
    run.write_metrics([{"images_seen": 0, "kid/a": 0.5}, {"images_seen": 9, "kid/a": 0.25}])
    with run.metrics.open("a") as file:
        file.write('{"images_se')
    assert [row["images_seen"] for row in run.read_metrics()] == [0, 9]


def test_a_damaged_line_in_the_middle_is_named(tmp_path):
    run = Run(tmp_path)
    run.metrics.write_text('{"images_seen": 1}\n{"a\n{"images_seen": 3}\n')
    with pytest.raises(ValueError, match=r"metrics.jsonl line 2 is not JSON"):
        run.read_metrics()


def test_metrics_are_a_spreadsheet_too(tmp_path):
    Run(tmp_path).write_metrics([{"images_seen": 0}, {"images_seen": 9, "kid/a": 0.25}])
    assert (tmp_path / "metrics.csv").read_text() == "images_seen,kid/a\n0,\n9,0.25\n"


def test_a_failed_write_keeps_the_old_file_and_leaves_no_other(tmp_path, monkeypatch):
    path = tmp_path / "scores.json"
    write_text(path, "old")

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mbgan.runs.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_text(path, "new")
    assert [p.name for p in tmp_path.iterdir()] == ["scores.json"]
    assert path.read_text() == "old"


def test_a_folder_that_is_no_run_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"run must be a folder that mbgan.train made"):
        Run(tmp_path).require(checkpoint="last")


def test_a_run_without_checkpoint_says_what_there_is(tmp_path):
    write_text(tmp_path / ".hydra/config.yaml", "")
    with pytest.raises(
        FileNotFoundError, match=r"none; it was stopped before its first evaluation"
    ):
        Run(tmp_path).require(checkpoint="last")
    write_text(tmp_path / "checkpoints/last.ckpt", "")
    with pytest.raises(FileNotFoundError, match=r"no checkpoint 'best' .* \(there: last\)"):
        Run(tmp_path).require(checkpoint="best")


def test_json_is_readable(tmp_path):
    run = Run(tmp_path)
    run.write_json(run.scores(), {"n": 1})
    assert json.loads(run.scores().read_text()) == {"n": 1}
