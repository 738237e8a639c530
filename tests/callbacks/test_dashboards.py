"""What loggers get of a run, read back from what they wrote."""

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from contextlib import suppress
from types import SimpleNamespace
from urllib.request import urlopen

import pytest
import wandb
from mlflow import MlflowClient
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto.wandb_internal_pb2 import Record

from mbgan import dashboard, train
from mbgan.callbacks.wandb import WandbLogger
from mbgan.studies.score_sheet import rows
from mbgan.studies.workspace import workspace


def offline_records(path):
    """The records of an offline W&B run, in LevelDB's log format: blocks of 32 KiB."""
    content, place, whole = path.read_bytes(), 7, b""
    while place + 7 <= len(content):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        _, size, kind = struct.unpack("<IHB", content[place : place + 7])
        whole += content[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # whole, or the last part
            record = Record()
            record.ParseFromString(whole)
            whole = b""
            yield record


def whole_run(path):
    """The same, once W&B's own process has written the last of them."""
    for _ in range(600):
        records = list(offline_records(path))
        if any(record.WhichOneof("record_type") == "exit" for record in records):
            return records
        time.sleep(0.1)
    raise AssertionError(f"{path} has no end")


def logged(records):
    """What was logged, as a list of dicts; pictures and tables as samples._type and so on."""
    history = [r.history.item for r in records if r.WhichOneof("record_type") == "history"]
    return [
        {i.key or ".".join(i.nested_key): json.loads(i.value_json) for i in row} for row in history
    ]


def expected(result):
    return {
        f"final/{key}{part}": value
        for key, entry in result["scores"].items()
        for part, value in {
            "": entry["value"],
            "/low": entry.get("interval", [None] * 2)[0],
            "/high": entry.get("interval", [None] * 2)[1],
            "/floor": entry.get("floor", {}).get("mean"),
        }.items()
        if value is not None
    }


def test_offline_wandb_run_holds_every_score_picture_and_setting(call, small, tmp_path):
    code, err = call(train.main, *small, "logger=wandb", "model=wgan_gp_small")
    assert code == 0, err
    (folder,) = (tmp_path / "run/wandb").glob("offline-run-*")
    assert f"wandb sync {folder}" in err.replace("\n", "").replace("wandb: ", "")
    assert wandb.run is None  # finished: the next run of a sweep starts its own
    records = whole_run(next(folder.glob("*.wandb")))
    history = logged(records)
    result = json.loads((tmp_path / "run/scores.json").read_text())
    final = next(row for row in history if any(key.startswith("final/") for key in row))
    assert {key: final[key] for key in expected(result)} == pytest.approx(expected(result))
    for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        numbers = {key: value for key, value in row.items() if isinstance(value, float)}
        at = [h for h in history if h["trainer/global_step"] == row["images_seen"]]
        assert any(numbers.items() <= h.items() for h in at)
    kinds = {
        k.removesuffix("._type"): v for row in history for k, v in row.items() if "._type" in k
    }
    assert kinds == {
        "samples": "images/separated",
        "final/scores": "images/separated",
        "final/table": "table-file",
    }
    table = json.loads(next(folder.glob("files/media/table/final/*.json")).read_text())
    scores = [row[table["columns"].index("score")] for row in table["data"]]
    assert scores == list(rows(result)["score"])
    run = next(r.run for r in records if r.WhichOneof("record_type") == "run")
    assert (run.run_group, run.display_name) == (tmp_path.name, f"{tmp_path.name}/run")
    assert set(run.tags) == {"40x", "wgan_gp_small"}
    pictures = [path.name for path in folder.glob("files/media/images/**/*.png")]
    drawn = list((tmp_path / "run/samples").glob("0*.png"))
    assert len(pictures) == len(drawn) + 1  # and the chart: no real image


def test_wandb_run_goes_on_as_the_same_run(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    (tmp_path / "wandb/offline-run-20260101_000000-abc123").mkdir(parents=True)
    settings = {"project": "mbgan", "group": "g", "tags": [], "upload_best": True}
    assert WandbLogger(str(tmp_path), **settings).version == "abc123"
    assert WandbLogger(str(tmp_path / "new"), **settings).version is None


@pytest.mark.parametrize(("offline", "wanted", "uploads"), [(0, 1, 1), (1, 1, 0), (0, 0, 0)])
def test_best_checkpoint_is_uploaded_when_online_and_wanted(
    tmp_path, monkeypatch, offline, wanted, uploads
):
    monkeypatch.setenv("WANDB_MODE", "offline")
    logger = WandbLogger(
        str(tmp_path), project="mbgan", group=None, tags=[], upload_best=bool(wanted)
    )
    sent = []
    logger._experiment = SimpleNamespace(
        offline=bool(offline), id="abc", log_artifact=lambda a, aliases: sent.append((a, aliases))
    )
    (tmp_path / "best.ckpt").write_bytes(b"weights")
    logger.upload(tmp_path / "best.ckpt", metadata={"final/kid/inception": 0.1})
    assert len(sent) == uploads
    for artifact, aliases in sent:
        assert (artifact.name, artifact.type, aliases) == ("abc-best", "model", ["best"])
        assert list(artifact.manifest.entries) == ["best.ckpt"]
        assert artifact.metadata == {"final/kid/inception": 0.1}


def test_tensorboard_gets_scores_floors_and_pictures(call, small, tmp_path):
    code, err = call(train.main, *small, "logger=tensorboard")
    assert code == 0, err
    scalars, images = {}, set()
    for file in (tmp_path / "run/tensorboard").rglob("events.*"):
        events = EventAccumulator(str(file)).Reload()
        scalars |= {tag: events.Scalars(tag)[-1].value for tag in events.Tags()["scalars"]}
        images |= set(events.Tags()["images"])
    wanted = expected(json.loads((tmp_path / "run/scores.json").read_text()))
    assert {key: scalars[key] for key in wanted} == pytest.approx(wanted, rel=1e-5)
    assert images == {"samples", "final/scores"}


def mlflow_holds(uri, result):
    client = MlflowClient(uri)
    (run,) = client.search_runs([client.get_experiment_by_name("mbgan").experiment_id])
    wanted = expected(result)
    assert {key: run.data.metrics[key] for key in wanted} == pytest.approx(wanted)
    assert run.data.params["batch_size"] == "4"
    names = [file.path for file in client.list_artifacts(run.info.run_id, "images")]
    assert any("samples" in name for name in names)
    assert any("final" in name for name in names)


def test_mlflow_database_gets_scores_settings_and_pictures(call, small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri := f"sqlite:///{tmp_path}/mlflow.db")
    code, err = call(train.main, *small, "logger=mlflow")
    assert code == 0, err
    mlflow_holds(uri, json.loads((tmp_path / "run/scores.json").read_text()))


@pytest.fixture
def mlflow_server(tmp_path):
    """A server of MLflow with SQLite, on this machine alone."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = f"mlflow server --port {port} --workers 1 --backend-store-uri sqlite:///server.db"
    command = [sys.executable, "-m", *command.split(), "--artifacts-destination", "pictures"]
    with (
        (tmp_path / "log").open("w") as log,
        subprocess.Popen(
            command, cwd=tmp_path, stdout=log, stderr=log, start_new_session=True
        ) as server,
    ):
        while server.poll() is None:
            with suppress(OSError), urlopen(f"http://127.0.0.1:{port}/health"):
                break
            time.sleep(0.2)
        assert server.poll() is None, (tmp_path / "log").read_text()
        yield f"http://127.0.0.1:{port}"
        os.killpg(server.pid, signal.SIGKILL)


@pytest.mark.slow
def test_mlflow_server_gets_the_same_over_http(call, small, tmp_path, monkeypatch, mlflow_server):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server)
    code, err = call(train.main, *small, "logger=mlflow")
    assert code == 0, err
    mlflow_holds(mlflow_server, json.loads((tmp_path / "run/scores.json").read_text()))
    assert (tmp_path / "pictures").is_dir()
    assert not (tmp_path / "mlflow.db").exists()


def test_workspace_shows_what_runs_log():
    extractor = "efficientnet_lite0"
    made = workspace("lab", "mbgan", extractor)
    panels = [panel for section in made.sections for panel in section.panels]
    keys = {key for panel in panels for key in getattr(panel, "y", []) or []}
    keys |= {key for panel in panels for key in getattr(panel, "metrics", []) or []}
    media = {key for panel in panels for key in getattr(panel, "media_keys", []) or []}
    assert media == {"samples", "final/scores"}
    assert keys == {
        *(f"{score}/{extractor}" for score in ("kid", "fid", "diversity")),
        *(f"final/{s}/{extractor}{part}" for s in ("kid", "fid") for part in ("", "/floor")),
        *("critic/loss", "generator/loss"),
    }


def test_dashboard_without_a_key_says_how_to_give_one(call, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", "/nonexistent")
    code, err = call(dashboard.main, "entity=lab")
    assert (code, err) == (
        1,
        "error: a dashboard lives on W&B's server: give a key with wandb login\n",
    )
