"""The verbs from the command line, on sixteen small images."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from jsonschema import validate
from omegaconf import OmegaConf

from mbgan import evaluate, export, generate, train
from mbgan.callbacks.timing import StepTimer
from mbgan.metrics.features import EfficientNetLite0
from mbgan.runs import sha256_of
from mbgan.saved import TRUST
from mbgan.studies import scoring

SCHEMA = json.loads((Path(scoring.__file__).parent / "scores.schema.json").read_text())


def weights(run, checkpoint="last"):
    return torch.load(run / f"checkpoints/{checkpoint}.ckpt", weights_only=True)


def assert_same_training(run, other):
    """Weights, averages and moments of two runs agree bit by bit, and so does the clock."""
    ours, theirs = weights(run), weights(other)
    assert ours["counters"] == theirs["counters"]
    for name, value in ours["state_dict"].items():
        assert torch.equal(value, theirs["state_dict"][name]), name
    for a, b in zip(ours["optimizer_states"], theirs["optimizer_states"], strict=True):
        for key, state in a["state"].items():
            assert all(torch.equal(v, b["state"][key][k]) for k, v in state.items())


def rows(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def process(arguments, **kwargs):
    """Start mbgan.train, which Ctrl-C can reach also where tests run as a background job."""
    command = [sys.executable, "-m", "mbgan.train", *arguments]
    kwargs |= {"stderr": subprocess.PIPE, "text": True}
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen(command, preexec_fn=heard, **kwargs)


def wait_for(path, process):
    for _ in range(6000):  # ten minutes: a machine may be busy
        if path.exists():
            return
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.1)
    pytest.fail(f"{path} did not appear")


def test_a_run_leaves_everything_behind_and_says_what_to_type_next(call, small, tmp_path):
    run = tmp_path / "run"
    code, err = call(train.main, *small)
    assert code == 0, err
    assert [row["images_seen"] for row in rows(run)] == [
        0,
        24,
        40,
    ]  # turns of 8: 20 is passed at 24
    last = rows(run)[-1]
    assert {"kid/efficientnet_lite0", "fid/efficientnet_lite0", "critic/loss"} <= last.keys()
    assert (last["n_real"], last["n_fake"]) == (3, 3)
    assert (run / "metrics.csv").read_text().count("\n") == 4
    names = {p.name for p in (run / "samples").iterdir()}
    grids = {"000000000.png", "000000024.png", "000000040.png"}
    assert names == grids | {"real.png", "transformed.png"}
    kept = {"last.ckpt", "best.ckpt", "SHA256SUMS"}
    assert {p.name for p in (run / "checkpoints").iterdir()} >= kept
    saved = OmegaConf.to_container(OmegaConf.load(run / ".hydra/config.yaml"), resolve=False)
    assert (saved["total_images"], saved["metrics"]["extractor"]) == (40, "${extractor}")
    record = json.loads((run / "run.json").read_text())
    assert (record["status"], record["images_seen"]) == ("done", 40)
    assert len(record["data"]["sha256"]) == 64
    scores = json.loads((run / "scores.json").read_text())
    validate(scores, SCHEMA)
    kid = scores["scores"]["kid/efficientnet_lite0"]
    assert kid["interval"][0] < kid["value"] < kid["interval"][1]
    assert err.strip().splitlines()[-1].startswith("images from it: python -m mbgan.generate run=")
    pictures = {"scores.png", "nearest.png", "real_and_generated.png"}
    assert {p.name for p in (run / "scored/best").iterdir()} == pictures | {"scores.csv"}
    assert not list(run.rglob(".*.saving"))
    kids = {row["images_seen"]: row["kid/efficientnet_lite0"] for row in rows(run)[1:]}
    best = weights(run, "best")["counters"]["images_seen"]
    assert kids[best] == min(kids.values())


def test_the_best_checkpoint_has_the_lowest_score(call, small, tmp_path):
    assert call(train.main, *small, "eval_every=4", "total_images=64")[0] == 0
    kids = {r["images_seen"]: r["kid/efficientnet_lite0"] for r in rows(tmp_path / "run")[1:]}
    best = weights(tmp_path / "run", "best")["counters"]["images_seen"]
    assert best == min(kids, key=kids.get) != max(kids, key=kids.get)


def test_bfloat16_trains_and_keeps_its_weights_in_float32(call, small, tmp_path):
    code, err = call(train.main, *small, "trainer.precision=bf16-mixed", "augment=translation")
    assert code == 0, err
    state = weights(tmp_path / "run")["state_dict"]
    assert {v.dtype for v in state.values() if v.is_floating_point()} == {torch.float32}
    assert json.loads((tmp_path / "run/run.json").read_text())["precision"] == "bf16-mixed"


def test_a_full_disk_is_named_with_the_way_out_and_keeps_the_old_checkpoint(
    call, small, tmp_path, monkeypatch
):
    assert call(train.main, *small)[0] == 0
    before = (tmp_path / "run/checkpoints/last.ckpt").read_bytes()

    def full(self, path, *args):
        Path(path).write_bytes(b"half a checkp")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("lightning.Trainer.save_checkpoint", full)
    code, err = call(train.main, f"resume={tmp_path}/run", "total_images=80")
    assert code == 1
    assert ".ckpt (No space left on device); make room there" in err.splitlines()[-1]
    assert f"resume={tmp_path}/run" in err.splitlines()[-1]
    assert (tmp_path / "run/checkpoints/last.ckpt").read_bytes() == before
    assert not list((tmp_path / "run/checkpoints").glob(".*"))


def test_generate_and_evaluate_take_a_run_folder(call, small, folder, tmp_path):
    run = tmp_path / "run"
    assert call(train.main, *small)[0] == 0
    code, err = call(generate.main, f"run={run}", "n=3")
    assert code == 0, err
    lines = [json.loads(s) for s in (run / "generated/manifest.jsonl").read_text().splitlines()]
    assert [line["file"] for line in lines] == ["000000.png", "000001.png", "000002.png"]
    assert all((run / "generated" / line["file"]).is_file() for line in lines)
    call(generate.main, f"run={run}", "n=1", f"out={tmp_path}/one")
    assert (tmp_path / "one/000000.png").read_bytes() == (run / "generated/000000.png").read_bytes()
    (tmp_path / "one/settings.json").unlink()
    code, err = call(generate.main, f"run={run}", "n=3", f"out={tmp_path}/one")
    assert (code, err.count("\n")) == (1, 1)
    assert "out must be a new or empty folder" in err

    before = json.loads((run / "scores.json").read_text())
    (run / "scores.json").unlink()
    small_suite = ("metrics.max_images=3", "metrics.floor_splits=2")
    both = ("checkpoint=[best,last]", *small_suite)
    code, err = call(evaluate.main, f"run={run}", *both)  # by the run's own extractor
    assert code == 0, err
    last = json.loads((run / "scored/last/scores.json").read_text())
    assert (last["checkpoint"], last["images_seen"]) == ("last", 40)
    after = json.loads((run / "scores.json").read_text())
    assert after["scores"]["kid/efficientnet_lite0"]["value"] == pytest.approx(
        before["scores"]["kid/efficientnet_lite0"]["value"], rel=1e-6
    )
    assert after["checkpoint_sha256"] == before["checkpoint_sha256"]
    assert "n_real 3, n_fake 3, extractor efficientnet_lite0" in err

    next(folder.rglob("00.png")).unlink()
    code, err = call(evaluate.main, f"run={run}", *small_suite)
    assert code == 1
    assert "data.root must hold the images that the run began with (13 to train on, 3 held" in err


def test_a_conditional_run_scores_and_draws_each_class(call, small, tmp_path):
    run = tmp_path / "run"
    code, err = call(train.main, *small, "model.condition=class", "metrics.max_images=null")
    assert code == 0, err
    assert "told apart: normal, tumor" in err
    scores = json.loads((run / "scores.json").read_text())
    assert list(scores["by_condition"]) == ["normal", "tumor"]
    parts = scores["by_condition"].values()
    assert sum(part["n_real"] for part in parts) == scores["n_real"] == 3
    (few,) = (part for part in parts if part["n_real"] == 1)
    assert few["reason"] == "scores need 2 images on each side, got n_real=1, n_fake=1"
    assert few["reason"] in err
    assert call(generate.main, f"run={run}", "n=4", f"out={tmp_path}/both")[0] == 0
    lines = (tmp_path / "both/manifest.jsonl").read_text().splitlines()
    assert [json.loads(line)["condition"] for line in lines] == ["normal", "tumor"] * 2
    code, err = call(generate.main, f"run={run}", "n=2", "class=Tumor", f"out={tmp_path}/one")
    assert code == 0, err
    images = [(tmp_path / name).read_bytes() for name in ("one/000001.png", "both/000001.png")]
    assert images[0] == images[1]  # index 1 of tumor, either way
    code, err = call(generate.main, f"run={run}", "class=stroma", f"out={tmp_path}/none")
    assert code == 1
    assert "class must be one of the run's (normal, tumor), got stroma" in err


def test_a_class_is_refused_of_a_run_that_tells_none_apart(call, untrained, tmp_path):
    code, err = call(generate.main, f"run={untrained('dcgan')}", "class=tumor")
    assert (code, err.count("\n")) == (1, 1)
    assert "class must be left out, as the run tells no images apart, got tumor; train" in err


def test_a_critic_is_never_judged_by_the_network_that_it_sees_by(call, small, tmp_path):
    code, err = call(train.main, *small, "model=projected", "extractor=efficientnet_lite0")
    assert code == 1
    assert "extractor must not be the network that the critic learns by" in err
    assert not (tmp_path / "run").exists()


def test_a_new_run_is_never_written_over_an_old_one(call, small, tmp_path):
    assert call(train.main, *small)[0] == 0
    before = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    code, err = call(train.main, *small, "seed=1")
    assert (code, err.count("\n")) == (1, 1)
    assert "which holds a run; go on with resume=" in err
    assert {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()} == before


@pytest.mark.parametrize("override", ["experiment=quick_start", "~callbacks.samples", "+seed=2"])
def test_overrides_that_a_resume_cannot_honor_are_refused(call, small, tmp_path, override):
    assert call(train.main, *small)[0] == 0
    code, err = call(train.main, f"resume={tmp_path}/run", override)
    assert code == 1
    assert "start a new run for it" in err or "Could not append" in err


def test_a_resume_by_another_extractor_is_refused(call, small, tmp_path, monkeypatch):
    assert call(train.main, *small)[0] == 0
    monkeypatch.setattr("mbgan.metrics.features.EfficientNetLite0", renamed_extractor)
    monkeypatch.setenv(TRUST, "mbgan.metrics.features.EfficientNetLite0")  # a function, here
    code, err = call(train.main, f"resume={tmp_path}/run", "total_images=80")
    assert code == 1
    assert "extractor must be one for the whole run and all ranks, got other" in err


def renamed_extractor():
    extractor = EfficientNetLite0()
    extractor.name = "other"
    return extractor


def test_a_damaged_checkpoint_is_named(call, small, tmp_path):
    assert call(train.main, *small)[0] == 0
    path = tmp_path / "run/checkpoints/last.ckpt"
    (tmp_path / "run/checkpoints/SHA256SUMS").unlink()  # of an earlier version, which had none
    path.write_bytes(path.read_bytes()[:-1000])
    code, err = call(train.main, f"resume={tmp_path}/run", "total_images=80")
    assert code == 1
    assert f"{path} must be a checkpoint of mbgan.train" in err.splitlines()[-1]


@pytest.mark.ddp
def test_a_run_goes_on_with_other_devices_and_loggers(call, small, tmp_path):
    assert call(train.main, *small)[0] == 0
    more = [f"resume={tmp_path}/run", "trainer=ddp_cpu", "logger=tensorboard", "total_images=80"]
    pair = process(more)
    _, err = pair.communicate(timeout=300)
    assert pair.returncode == 0, err
    assert rows(tmp_path / "run")[-1]["images_seen"] == 80
    assert list((tmp_path / "run/tensorboard").rglob("events*"))
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert (record["devices"], record["earlier"][0]["devices"]) == (2, 1)


def test_a_longer_run_is_the_shorter_one_resumed(call, small, tmp_path):
    """Overrides beside resume win, are saved, and the curve has no gap and no repeat."""
    assert call(train.main, *small)[0] == 0
    before = weights(tmp_path / "run")["counters"]
    assert call(train.main, f"resume={tmp_path}/run")[0] == 0  # done already: nothing is added
    assert weights(tmp_path / "run")["counters"] == before
    with (tmp_path / "run/metrics.jsonl").open("a") as file:  # scored, then killed before saving
        file.write(json.dumps(rows(tmp_path / "run")[-1] | {"images_seen": 48}) + "\n")
    config = tmp_path / "run/.hydra/config.yaml"
    kept = [line for line in config.read_text().splitlines() if "rank_timeout_s" not in line]
    config.write_text("\n".join(kept))  # as before there was such a setting
    code, err = call(train.main, f"resume={tmp_path}/run", "total_images=80")
    assert code == 0, err
    whole = [*small, "total_images=80", f"hydra.run.dir={tmp_path}/whole"]
    assert call(train.main, *whole)[0] == 0
    assert_same_training(tmp_path / "run", tmp_path / "whole")
    assert [row["images_seen"] for row in rows(tmp_path / "run")] == [0, 24, 40, 64, 80]
    assert OmegaConf.load(config).total_images == 80
    asked = [p.read_text() for p in (tmp_path / "run/.hydra").glob("resumed_*/overrides.yaml")]
    assert any("total_images=80" in text for text in asked)


def test_a_copied_run_goes_on_in_its_own_folder(call, small, tmp_path):
    assert call(train.main, *small)[0] == 0
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    code, err = call(train.main, f"resume={tmp_path}/copy", "total_images=60")
    assert code == 0, err
    seen = [weights(tmp_path / name)["counters"]["images_seen"] for name in ("run", "copy")]
    assert seen == [40, 64]
    assert [row["images_seen"] for row in rows(tmp_path / "copy")] == [0, 24, 40, 64]


def test_a_killed_run_resumes_bit_by_bit(small, call, tmp_path):
    """kill -9 in the middle of an epoch, after a checkpoint: nothing that follows may differ."""
    endless = [*small, "total_images=1_000_000", "eval_every=8"]
    victim = process(endless)
    wait_for(tmp_path / "run/checkpoints/last.ckpt", victim)
    victim.kill()
    victim.communicate()
    reached = weights(tmp_path / "run")["counters"]["images_seen"]
    code, err = call(train.main, f"resume={tmp_path}/run", f"total_images={reached + 16}")
    assert code == 0, err
    whole = [*small, "eval_every=8", f"total_images={reached + 16}"]
    assert call(train.main, *whole, f"hydra.run.dir={tmp_path}/whole")[0] == 0
    assert_same_training(tmp_path / "run", tmp_path / "whole")
    assert rows(tmp_path / "run") == rows(tmp_path / "whole")


def test_an_evaluation_after_a_resume_has_the_generators_last_loss(small, call, tmp_path):
    """Of a step that was taken before the resume: its turn came at 8 and 16 images."""
    settings = [*small, "model.critic_batches=fresh", "full_metrics=null"]
    assert call(train.main, *settings, "total_images=16")[0] == 0
    code, err = call(train.main, f"resume={tmp_path}/run", "total_images=20")
    assert code == 0, err
    other = ["total_images=20", f"hydra.run.dir={tmp_path}/whole"]
    assert call(train.main, *settings, *other)[0] == 0
    resumed, whole = rows(tmp_path / "run")[-1], rows(tmp_path / "whole")[-1]
    assert resumed["images_seen"] == whole["images_seen"] == 20
    assert resumed["generator/loss"] == whole["generator/loss"]


@pytest.mark.parametrize("workers", [0, 2])
def test_the_same_seed_gives_the_same_weights_with_and_without_workers(
    call, small, tmp_path, workers
):
    """Another process, started anew: nothing is left over of the first one."""
    settings = [*small, "transforms=crop", f"data.num_workers={workers}"]
    twin = process([*settings, f"hydra.run.dir={tmp_path}/twin"])
    code, err = call(train.main, *small, "transforms=crop")
    assert code == 0, err
    _, err = twin.communicate(timeout=300)
    assert twin.returncode == 0, err
    assert_same_training(tmp_path / "run", tmp_path / "twin")
    assert rows(tmp_path / "run") == rows(tmp_path / "twin")


@pytest.mark.parametrize("wanted", [True, False])
def test_deterministic_algorithms_are_used_if_they_are_asked_for(call, small, monkeypatch, wanted):
    """On a CPU, whose sums come out the same anyway, the switches are all there is to see."""
    seen = []

    def look(self, trainer, gan):
        seen.append((torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark))

    monkeypatch.setattr("mbgan.callbacks.samples.Samples.act", look)
    few = ["total_images=4", "full_metrics=null", f"trainer.deterministic={str(wanted).lower()}"]
    code, err = call(train.main, *small, *few)
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = False
    assert code == 0, err
    assert set(seen) == {(wanted, not wanted)}
    assert "benchmark" not in err


def test_a_run_killed_between_its_first_best_and_last_checkpoint_begins_anew(call, small, tmp_path):
    run = tmp_path / "run"
    assert call(train.main, *small, "total_images=24")[0] == 0
    before = weights(run)
    (run / "checkpoints/last.ckpt").unlink()
    code, err = call(train.main, f"resume={run}")
    assert code == 0, err
    assert weights(run)["counters"] == before["counters"]
    assert len(rows(run)) == 2
    assert call(train.main, f"resume={run}", "total_images=80")[0] == 0
    for path in (run / "checkpoints").rglob("last.ckpt"):
        path.unlink()  # by hand: nothing may be trained over what is there
    code, err = call(train.main, f"resume={run}")
    assert (code, "no checkpoint 'last'" in err) == (1, True)


def test_a_run_begins_with_the_best_weights_of_another_but_not_with_its_clock(
    call, small, tmp_path
):
    """The start scores what the other's best scored; a resume neither needs it nor repeats it."""
    assert call(train.main, *small, f"hydra.run.dir={tmp_path}/other")[0] == 0
    new = [*small, f"init_from={tmp_path}/other", "model.freeze_critic=1", "seed=1"]
    code, err = call(train.main, *new, "total_images=8", "augment=translation")
    assert code == 0, err
    assert f"init_from: weights of {tmp_path}/other (best, " in err
    best, kid = weights(tmp_path / "other", "best"), "kid/efficientnet_lite0"
    kids = {row["images_seen"]: row[kid] for row in rows(tmp_path / "other")}
    start, end = rows(tmp_path / "run")
    seen = best["counters"]["images_seen"]
    assert (start["images_seen"], end["images_seen"]) == (0, 8)
    assert start[kid] == pytest.approx(kids[seen], rel=1e-6)
    path = tmp_path / "other/checkpoints/best.ckpt"
    origin = {
        "run": str(tmp_path / "other"),
        "checkpoint": "best",
        "checkpoint_sha256": sha256_of(path),
        "images_seen": seen,
        "critic_extractor": None,
    }
    assert json.loads((tmp_path / "run/run.json").read_text())["init_from"] == origin

    shutil.rmtree(tmp_path / "other")
    code, err = call(train.main, f"resume={tmp_path}/run", "total_images=16")
    assert code == 0, err
    assert "init_from: weights" not in err
    assert json.loads((tmp_path / "run/run.json").read_text())["init_from"] == origin
    whole, first = weights(tmp_path / "run")["state_dict"], best["state_dict"]
    assert torch.equal(whole["critic.layers.0.weight"], first["critic.layers.0.weight"])
    assert not torch.equal(whole["critic.layers.3.weight"], first["critic.layers.3.weight"])


def test_weights_that_do_not_fit_are_refused_in_one_line(call, small, tmp_path):
    assert call(train.main, *small, f"hydra.run.dir={tmp_path}/other")[0] == 0
    code, err = call(train.main, *small, f"init_from={tmp_path}/other", "model.critic.width=8")
    assert (code, err.splitlines()[-1][:6]) == (1, "error:")
    assert "init_from must be a run of the same model and image_size, got critic.layers.0" in err
    assert not (tmp_path / "run").exists()
    code, err = call(train.main, f"resume={tmp_path}/other", f"init_from={tmp_path}/other")
    assert (code, err.count("\n")) == (1, 1)
    assert "init_from cannot stand beside resume" in err


def test_a_run_without_patience_left_is_done_early_and_says_where_it_was_best(
    call, small, tmp_path
):
    long = [*small, "total_images=400", "eval_every=4", "patience=1"]
    assert call(train.main, *long)[0] == 0
    run, kid = tmp_path / "run", "kid/efficientnet_lite0"
    *better, best, last = rows(run)[1:]
    assert last["images_seen"] < 400
    assert min(row[kid] for row in [*better, last]) > best[kid]
    record = json.loads((run / "run.json").read_text())
    assert (record["status"], record["stopped_early"]) == ("done", True)
    assert record["best_images_seen"] == best["images_seen"]
    assert (run / "scores.json").is_file()
    code, err = call(train.main, f"resume={run}")
    assert (code, rows(run)[-1]) == (0, last), err
    assert json.loads((run / "run.json").read_text())["stopped_early"]
    more = last["images_seen"] + 4
    assert call(train.main, f"resume={run}", "patience=null", f"total_images={more}")[0] == 0
    assert rows(run)[-1]["images_seen"] > last["images_seen"]
    assert not json.loads((run / "run.json").read_text())["stopped_early"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_saves_and_says_how_to_go_on(small, tmp_path, number):
    victim = process([*small, "total_images=1_000_000", "eval_every=500_000"])
    wait_for(tmp_path / "run/run.json", victim)
    time.sleep(0.5)
    victim.send_signal(number)
    _, err = victim.communicate(timeout=600)
    assert victim.returncode == 3, err
    assert "go on: python -m mbgan.train resume=" in err.splitlines()[-1]
    assert weights(tmp_path / "run")["counters"]["images_seen"] > 0
    assert json.loads((tmp_path / "run/run.json").read_text())["status"] == "interrupted"
    assert len(rows(tmp_path / "run")) == 1  # no evaluation stood between the signal and the save


def test_a_run_whose_numbers_break_stops_and_says_which(call, small, tmp_path):
    before = signal.getsignal(signal.SIGINT)
    code, err = call(train.main, *small, "model.make_opt_d.lr=1e30")
    assert code == 1
    assert "became infinite or NaN after" in err.splitlines()[-1]
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["status"] == "failed"
    assert len(record["nonfinite"]["last"]["training_images"]) == 4
    assert record["nonfinite"]["last"]["training_images"][0].endswith(".png)")
    assert signal.getsignal(signal.SIGINT) is before  # given back


@pytest.mark.ddp
def test_two_processes_train_and_score_as_one(call, small, tmp_path):
    """The untrained generator's scores are equal; the clock counts the whole batch."""
    assert call(train.main, *small)[0] == 0
    pair = process([*small, "trainer=ddp_cpu", f"hydra.run.dir={tmp_path}/pair"])
    _, err = pair.communicate(timeout=300)
    assert pair.returncode == 0, err
    one, two = rows(tmp_path / "run"), rows(tmp_path / "pair")
    assert [row["images_seen"] for row in two] == [row["images_seen"] for row in one]
    for key in ("kid/efficientnet_lite0", "fid/efficientnet_lite0"):
        assert two[0][key] == pytest.approx(one[0][key], rel=1e-6)
    assert json.loads((tmp_path / "pair/run.json").read_text())["devices"] == 2


WRONG = {
    "lerning=1": "no setting is called 'lerning'",
    "batch_sise=8": "did you mean batch_size?",
    "model=zzz": "Could not find 'model/zzz' Available options in 'model': dcgan",
    "+model.z_dm=3": "unexpected keyword argument 'z_dm'",
    "image_size=48": "image_size must be a power of two from 32 to 256, got 48",
    "image_size=-64": "image_size must be a power of two from 32 to 256, got -64",
    "image_size=512": "image_size must be a power of two from 32 to 256, got 512",
    "batch_size=0": "batch_size must be at least 1, got 0",
    "total_images=-1": "total_images must be at least 1, got -1",
    "eval_every=0": "eval_every must be at least 1 image, got 0",
    "model.n_critic=0": "n_critic must be at least 1, got 0",
    "model.make_opt_g.lr=fast": "model.make_opt_g.lr must be a number, got 'fast'",
    "trainer.devices=-5": "trainer.devices must be a number, at least 1, got -5",
    "magnification=7x": "40x",
    "data.root=/nowhere": "/nowhere",
    "data.held_out=2": "held_out",
    "batch_size=16.5": "batch_size must be a whole number, got 16.5",
    "model.make_opt_d.lr=-1": "Invalid learning rate: -1",
    "data.n_train=99": "n_train",
    "patience=0": "patience must be null or at least 1 evaluation, got 0",
    "model.freeze_critic=1": "model.freeze_critic=1 needs init_from=RUN, as random layers would",
    "init_from=/nowhere": "made (with .hydra/config.yaml), got /nowhere",
    "metrics.max_images=1": "metrics.max_images must be null or at least 2, got 1",
    "hydra.run.dir=/proc/run": "/proc/run",
}


@pytest.mark.parametrize(("wrong", "message"), WRONG.items(), ids=WRONG)
def test_what_the_user_can_mend_is_one_line_and_leaves_nothing(
    call, small, tmp_path, wrong, message
):
    code, err = call(train.main, *small, wrong)
    assert code == 1
    *_, last = err.splitlines()
    assert last.startswith("error: ")
    assert message in last
    assert err.count("error") == 1
    assert "Traceback" not in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("verb", "words", "name"), [(train, ["data=folder"], "data.root"), (export, [], "run")]
)
def test_what_must_be_given_is_named(call, tmp_path, verb, words, name):
    words = [*words, "extractor=efficientnet_lite0"] if verb is train else words
    code, err = call(verb.main, *words, f"hydra.run.dir={tmp_path}/run")
    assert (code, err.count("\n")) == (1, 1)
    assert f"{name} must be given, as in {name}=VALUE" in err


def test_a_run_that_ended_before_its_first_checkpoint_begins_again(call, small, tmp_path):
    assert call(train.main, *small, "total_images=24")[0] == 0
    whole = weights(tmp_path / "run")
    for path in (tmp_path / "run/checkpoints").iterdir():
        path.unlink()
    code, err = call(train.main, f"resume={tmp_path}/run")
    assert code == 0, err
    again = weights(tmp_path / "run")
    assert again["counters"] == whole["counters"]
    for name, value in whole["state_dict"].items():
        assert torch.equal(value, again["state_dict"][name]), name


def test_resuming_what_is_no_run_is_refused_and_makes_no_folder(call, tmp_path):
    code, err = call(train.main, f"resume={tmp_path}/none")
    assert (code, err.count("\n")) == (1, 1)
    assert "run must be a folder that mbgan.train made" in err
    assert not (tmp_path / "none").exists()


@pytest.mark.skipif(torch.cuda.device_count() >= 64, reason="this machine has as many")
def test_the_quoted_line_names_the_devices_there_are(call, small):
    code, err = call(train.main, *small, "trainer=auto", "trainer.devices=64")
    assert (code, err.count("\n")) == (1, 1)
    assert f"at most the number of GPUs here, {torch.cuda.device_count()}, got 64" in err
    assert "trainer=ddp_cpu trainer.devices=64" in err


def test_a_batch_that_devices_cannot_share_names_one_that_they_can(small):
    odd = process([*small, "trainer=ddp_cpu", "batch_size=3"])
    _, err = odd.communicate(timeout=120)
    assert odd.returncode == 1
    assert "batch_size must be a multiple of the number of devices (2), got 3; try 2" in err
    assert "Traceback" not in err


def test_a_batch_larger_than_the_data_uses_what_there_is_and_says_so(call, small, tmp_path):
    code, err = call(train.main, *small, "batch_size=500", "total_images=52")
    assert code == 0, err
    assert "batch_size=500 is more than the 13 training images: using 13" in err
    assert rows(tmp_path / "run")[-1]["images_seen"] == 52


def test_another_architecture_is_refused_and_the_run_stays_whole(call, small, tmp_path):
    run = tmp_path / "run"
    assert call(train.main, *small)[0] == 0
    before = {p: p.read_bytes() for p in run.rglob("*.ckpt")}
    code, err = call(train.main, f"resume={run}", "model.critic.width=8", "total_images=80")
    assert (code, err.splitlines()[-1][:6]) == (1, "error:")
    assert "critic.layers.0.bias [4] in the checkpoint and [8] in the model" in err
    assert {p: p.read_bytes() for p in run.rglob("*.ckpt")} == before
    code, err = call(train.main, f"resume={run}", "total_images=48")  # the mistake did not stick
    assert code == 0, err


def test_traceback_is_there_for_who_asks(small, tmp_path):
    child = process([*small, "image_size=48"], env=os.environ | {"HYDRA_FULL_ERROR": "1"})
    _, err = child.communicate(timeout=120)
    assert child.returncode == 1
    assert "Traceback" in err
    assert "image_size must be a power of two" in err


@pytest.mark.parametrize("verb", ["train", "generate", "evaluate", "explore"])
def test_help_shows_every_setting(verb):
    command = [sys.executable, "-m", f"mbgan.{verb}", "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    key = {
        "train": "total_images: 2000000",
        "generate": "checkpoint: best",
        "evaluate": "checkpoint: best",
        "explore": "show: interpolation",
    }
    assert key[verb] in shown


def test_a_callback_or_logger_set_to_null_is_left_out(call, small, tmp_path):
    left_out = ["callbacks.samples=null", "logger.csv=null"]
    code, err = call(train.main, *small, "total_images=8", *left_out)
    assert code == 0, err
    assert not (tmp_path / "run/samples").exists()
    assert not (tmp_path / "run/csv").exists()


@pytest.fixture
def one_turn(monkeypatch):
    """A forecast times a single turn of critic and generator."""
    monkeypatch.setattr("mbgan.assembly.StepTimer", lambda seconds: StepTimer(0))


def test_a_forecast_says_the_cost_and_leaves_nothing(call, small, tmp_path, one_turn):
    before = {path for path in tmp_path.rglob("*") if "cache" not in path.parts}
    code, err = call(train.main, *small, "total_images=1_000_000", "forecast=true")
    assert code == 0, err
    assert "1,000,000 of 1,000,000 images are left" in err
    assert "65 W, assumed" in err
    assert "H100, estimate" in err
    assert {path for path in tmp_path.rglob("*") if "cache" not in path.parts} == before


def test_a_forecast_of_a_run_is_of_what_is_left_and_leaves_it_as_it_is(
    call, untrained, tmp_path, one_turn, monkeypatch
):
    """Its folder, log and config as well; also where it has nothing to say."""
    monkeypatch.chdir(tmp_path)
    run = untrained("wgan_gp")
    checkpoint = weights(run, "best") | {"counters": {"images_seen": 600}}
    torch.save(checkpoint, run / "checkpoints/last.ckpt")
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    code, err = call(train.main, f"resume={run}", "total_images=1000", "forecast=true")
    assert code == 0, err
    assert "400 of 1,000 images are left" in err
    code, err = call(train.main, f"resume={run}", "total_images=600", "forecast=true")
    assert code == 1
    assert "total_images must be more than the 600 that the run has seen, got 600" in err
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").iterdir())
