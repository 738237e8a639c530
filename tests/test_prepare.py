"""The verb from the command line: from a folder as it is to a training on what is kept of it."""

import json
import subprocess
import sys
from collections import defaultdict
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import SHARED, field, put
from omegaconf import OmegaConf

from mbgan import evaluate, generate, prepare, train
from mbgan.callbacks.timing import StepTimer
from mbgan.data import manifest, preparation
from mbgan.runs import sha256_of

ORAL = SHARED / "data/oral-histology"


@pytest.fixture
def root(tmp_path):
    """Twenty fields of two classes at 40x, as RGBA: opaque, on nothing."""
    for i in range(20):
        rgba = np.dstack([field(i), np.full((48, 48), 255, np.uint8)])
        put(tmp_path / "fields", f"40x/{'ab'[i % 2]}/{i:02d}.png", rgba)
    return tmp_path / "fields"


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.fixture
def run(call, root, out):
    """Prepare `root` into `out` in this process."""
    settings = (f"data.root={root}", f"out={out}", "image_size=32", "workers=1", "forecast=false")
    return lambda *overrides: call(prepare.main, *settings, *overrides)


@pytest.fixture
def training(small, out):
    """Overrides of mbgan.train for a run of seconds on `out`."""
    kept = [o for o in small if not o.startswith(("data", "metrics.max_images"))]
    return [*kept, "data=prepared", f"data.root={out}"]


def reasons(out):
    table = manifest.read(out)
    return dict(zip(table["name"], table["reasons"], strict=True))


def test_from_a_folder_to_images_through_the_verbs(call, run, training, root, out, tmp_path):
    """The val side picks the best checkpoint, the test side scores it; neither has trained."""
    code, err = run("split.val=0.2", "split.test=0.3", "image_size=40")
    assert code == 0, err
    assert err.splitlines()[-1] == (
        f"train on it: python -m mbgan.train data=prepared data.root={out} magnification=40x "
        "image_size=32"
    )
    assert {p.name for p in out.iterdir()} == {
        *("images", "journal.sqlite", manifest.FILE, "card.html", "card.json")
    }
    assert set(manifest.read(out)["mode"]) == {"RGBA"}
    code, err = call(train.main, *training)
    assert code == 0, err
    assert "10 to train on, 4 to pick the best, 6 to score it" in err
    rows = [json.loads(r) for r in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert {row["n_real"] for row in rows} == {4}
    scores = json.loads((tmp_path / "run/scores.json").read_text())
    assert (scores["n_real"], scores["n_fake"]) == (6, 6)
    best = torch.load(tmp_path / "run/checkpoints/best.ckpt", weights_only=True)
    lowest = min(rows[1:], key=lambda row: row["kid/efficientnet_lite0"])
    assert best["counters"]["images_seen"] == lowest["images_seen"]

    (tmp_path / "run/scores.json").unlink()
    code, err = call(evaluate.main, f"run={tmp_path}/run", "metrics.floor_splits=2")
    assert code == 0, err
    again = json.loads((tmp_path / "run/scores.json").read_text())
    assert (again["n_real"], again["data_sha256"]) == (6, scores["data_sha256"])
    assert call(generate.main, f"run={tmp_path}/run", "n=2")[0] == 0
    assert len(list((tmp_path / "run/generated").glob("*.png"))) == 2


def test_a_run_is_not_resumed_on_another_split(call, run, training, tmp_path):
    assert run()[0] == 0
    assert call(train.main, *training)[0] == 0
    assert run("split.seed=1")[0] == 0
    code, err = call(train.main, f"resume={tmp_path}/run", "total_images=80")
    assert code == 1
    assert "data.root must hold the images that the run began with" in err.splitlines()[-1]


def test_the_forecast_is_measured_and_stands_on_the_card(run, out, monkeypatch):
    """Halves of 20 fields, and the speed of the training that was asked about."""
    monkeypatch.setattr("mbgan.assembly.StepTimer", lambda seconds: StepTimer(0))
    monkeypatch.setattr(prepare, "COMPARISONS", 5)
    parts = "'model.generator.width=4','model.critic.width=4','model.n_critic=2'"
    more = ("forecast=true", "extractor=efficientnet_lite0", "split.test=0.3")
    code, err = run(*more, f"forecast_train=['trainer=cpu','total_images=1000',{parts}]")
    assert code == 0, err
    found = json.loads((out / "card.json").read_text())["forecast"]["40x"]
    assert (found["n_train"], found["n_held_out"], found["n_each"]) == (9, 6, 6)
    assert (found["comparisons"], found["unit"]) == (5, "duplicate cluster")
    (speed,) = found["speeds"]
    assert (speed["steps_timed"], speed["batch_size"]) == (2, 8)
    assert speed["hours"] == pytest.approx(1000 / speed["images_per_s"] / 3600)
    assert found["kid_floor_range"][0] < found["kid_floor"] < found["kid_floor_range"][1]


def test_images_too_small_for_the_model_are_prepared_without_a_forecast(run, out):
    more = ("image_size=8", "forecast=true", "extractor=efficientnet_lite0")
    code, err = run(*more, "forecast_train=['trainer=cpu']")
    assert code == 0, err
    found = json.loads((out / "card.json").read_text())["forecast"]["40x"]
    assert "image_size must be" in found
    assert f"no forecast: {found}" in err


@pytest.mark.parametrize(
    ("size", "trained"), [(32, 32), (48, 32), (64, 64), (255, 128), (256, 256), (1000, 256)]
)
def test_the_size_to_train_at_is_the_largest_power_of_two_that_fits(size, trained):
    assert prepare.trainable_size(OmegaConf.create({"image_size": size})) == trained


@pytest.mark.parametrize(
    ("name", "setting", "magnification"),
    [
        ("loose/{i}.png", "naming.magnification=20x", "20x"),
        ("High/b/{i}.png", "naming.magnifications={high: 20x}", "20x"),
        ("loose/{i}.png", "naming.magnification=20", "20"),
        ("b/zoom20x_{i}.png", "naming.magnification_pattern='zoom(.+)_'", "20x"),
        ("b/zoom20_{i}.png", "naming.magnification_pattern='zoom([0-9]+)_'", "20"),
    ],
)
def test_what_paths_do_not_tell_settings_do(run, root, out, name, setting, magnification):
    names = [name.format(i=i) for i in range(100, 104)]
    for i, path in enumerate(names):
        put(root, path, field(100 + i))
    code, err = run(setting)
    assert code == 0, err
    table = manifest.read(out).set_index("name")
    assert (table.loc[names, "magnification"] == magnification).all()
    assert (table.drop(names)["magnification"] == "40x").all() or "pattern" in setting
    assert (table.loc[names, "verdict"] != "drop").all()


def test_what_could_not_be_placed_is_listed_with_the_way_out(run, root, out):
    for i in range(4):
        put(root, f"loose/{i}.png", field(100 + i))
    code, err = run()
    assert code == 0, err
    assert "4 could not be placed, such as 'loose/0.png': tell their magnification by naming" in err
    assert reasons(out)["loose/0.png"].startswith("no_magnification (its path tells none)")
    assert json.loads((out / "card.json").read_text())["unplaced"]["magnification"] == 4


@pytest.mark.parametrize(
    ("name", "setting", "label"),
    [
        ("40x/Large Cell/{i}.png", "naming.classes={Large_Cell: lca}", "lca"),
        ("40x/x/lca_{i}.png", "naming.class_pattern='([a-z]+)_[0-9]+'", "lca"),
    ],
)
def test_classes_are_what_settings_say(run, root, out, name, setting, label):
    put(root, name.format(i=7), field(100))
    assert run(setting)[0] == 0
    table = manifest.read(out).set_index("name")
    assert table.at[name.format(i=7), "class"] == label


def test_patients_are_found_by_their_pattern_and_never_on_two_sides(run, root, out):
    """Ten patients of two fields: the file's number halved."""
    for path in sorted(root.rglob("*.png")):
        path.rename(path.with_stem(f"P{int(path.stem) // 2}-{path.stem}"))
    code, err = run("naming.patient_pattern='P([0-9]+)-'")
    assert code == 0, err
    assert "20 images, of 10 patients" in err
    table = manifest.read(out)
    assert table.groupby("patient")["split"].nunique().max() == 1


def test_a_check_can_be_left_out_in_two_ways(run, out):
    """The fields are 48 px a side."""
    assert run()[0] == 0
    assert reasons(out)["40x/a/00.png"] == "low_resolution (min_side 48, under 128)"
    for change in ("~checks.low_resolution", "checks.low_resolution=null"):
        assert run(change)[0] == 0
        assert set(reasons(out).values()) == {""}
        names = [check["name"] for check in json.loads((out / "card.json").read_text())["checks"]]
        assert "blank" in names
        assert "low_resolution" not in names


def test_every_kind_of_fault_has_its_line_and_its_rule_on_the_card(run, root, out):
    put(root, "40x/a/turned.png", np.rot90(field(0)))
    put(root, "40x/b/twice.png", field(2))
    put(root, "40x/a/small.png", field(60, side=20))
    put(root, "40x/a/white.png", np.full((48, 48, 3), 255, np.uint8))
    put(root, "nowhere.png", field(61))
    (root / "40x/a/text.png").write_text("no image")
    (root / "40x/a/notes.txt").write_text("not looked at")
    code, err = run("checks.low_resolution=null", "checks.blank.verdict=warn", "stain=reinhard")
    assert code == 0, err
    table = manifest.read(out)
    found = {text.split(" (")[0] for t in table["reasons"] for text in t.split("; ") if t}
    expected = {
        *("duplicate", "label_conflict", "too_small", "blank", "no_magnification"),
        *("unreadable", "near_empty", "uniform", "unnormalized"),
    }
    assert found - {"unnormalized", "grayscale"} == expected - {"unnormalized"}
    card = json.loads((out / "card.json").read_text())
    marked = {check["name"]: check["images"] for check in card["checks"]}
    assert (marked["duplicate"], marked["label_conflict"], marked["too_small"]) == (2, 2, 1)
    assert card["ignored"] == {".txt": 1}
    assert "1 dropped: unreadable" in err


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("data.root=/nowhere", "no folder /nowhere; set data.root=DIR"),
        ("image_size=4", "image_size must be at least 8, got 4"),
        ("image_size=big", "image_size must be a number, got 'big'"),
        ("checks.blured.below=1", "checks.blured"),
        ("checks.blank.measure=whiteness", "the measure of a check must be one of background,"),
        ("checks.blank.verdict=keep", "the verdict of a check must be warn or drop, got 'keep'"),
        ("+checks.blank.below=0.1", "a check must have one limit, above or below, got above=0.98"),
        ("duplicates.near=zap", "duplicates.near must be keep, warn or drop, got 'zap'"),
        ("split.test=1.5", "split.test above 0 and their sum below 1, got 0.25 and 1.5"),
        ("naming.patient_pattern='P('", "patient_pattern must be a regular expression with one"),
        ("stain=vahadane", "Could not find 'stain/vahadane' Available options in 'stain': macenko"),
        ("stain.target=/no.png", "stain.target must be an image, got /no.png"),
    ],
)
def test_what_the_user_can_mend_is_one_line_and_makes_no_folder(run, out, wrong, message):
    code, err = run(wrong)
    assert (code, err.count("\n")) == (1, 1), err
    assert err.startswith("error: ")
    assert message in err
    assert not out.exists()


@pytest.mark.parametrize("wrong", ["modl=dcgan", "model=zzz"])
def test_a_forecast_of_no_training_is_refused_before_anything_is_done(run, out, wrong):
    code, err = run("forecast=true", f"forecast_train=['{wrong}']")
    assert (code, err.count("\n")) == (1, 1), err
    assert wrong.split("=")[0] in err
    assert not out.exists()


@pytest.mark.parametrize("where", ["", "/40x/new", "/.."])
def test_a_folder_is_not_prepared_into_itself(call, run, root, where):
    code, err = run(f"out={root}{where}")
    assert (code, err.count("\n")) == (1, 1)
    assert "out must lie outside data.root" in err
    assert not (root / "40x/new").exists()


def test_a_folder_of_somebodys_files_is_no_place_to_prepare_into(run, out):
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    code, err = run()
    assert (code, err.count("\n")) == (1, 1)
    assert "out must be a new or empty folder, or one that mbgan.prepare made" in err
    assert [p.name for p in out.iterdir()] == ["thesis.txt"]


def test_a_folder_without_images_says_so(call, tmp_path, out):
    (tmp_path / "empty").mkdir()
    code, err = call(prepare.main, f"data.root={tmp_path}/empty", f"out={out}", "forecast=false")
    assert (code, err.count("\n")) == (1, 1)
    assert f"no images under {tmp_path}/empty; set data.root=DIR" in err


def test_when_nothing_is_kept_the_reasons_are_told(run, root, out):
    for path in root.rglob("*.png"):
        path.write_bytes(b"")
    code, err = run()
    assert code == 1
    assert err.splitlines()[-1].startswith(
        "error: at least 1 image must be kept, got none of 20: unreadable (20); change checks"
    )


def test_too_few_patients_are_an_error_that_says_how_many_are_needed(run):
    code, err = run("naming.patient_pattern='(40)x'")
    assert code == 1
    assert "train, test, val need at least 3 groups (patients," in err.splitlines()[-1]


def test_an_interrupt_ends_in_its_own_code_and_loses_nothing(run, out, monkeypatch):
    looked_at = []

    def inspect(stop_at, function, path, *rest):
        if len(looked_at) == stop_at:
            raise KeyboardInterrupt
        looked_at.append(path)
        return function(path, *rest)

    original = preparation.inspect
    monkeypatch.setattr(preparation, "inspect", partial(inspect, 7, original))
    assert run() == (3, "interrupted\n")
    monkeypatch.setattr(preparation, "inspect", partial(inspect, None, original))
    assert run()[0] == 0
    assert len(looked_at) == len(set(looked_at)) == 20


def test_a_second_time_the_card_and_the_manifest_are_the_same(run, out):
    run()
    before = [(out / name).read_bytes() for name in ("card.json", "card.html")]
    table = manifest.read(out)
    run()
    assert [(out / name).read_bytes() for name in ("card.json", "card.html")] == before
    pd.testing.assert_frame_equal(manifest.read(out), table)


def test_help_shows_every_setting():
    command = [sys.executable, "-m", "mbgan.prepare", "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for line in ("image_size: 256", "near: warn", "magnification_pattern: null", "forecast: true"):
        assert line in shown
    assert "blurred" in shown


@pytest.mark.slow
@pytest.mark.skipif(not ORAL.is_dir(), reason=f"no real images at {ORAL}")
def test_the_real_sets_duplicates_are_found_and_none_straddles_the_split(run, tmp_path):
    """16 groups of files are equal by SHA-256; 14 of them, and 3 near pairs, have two classes."""
    files = defaultdict(set)
    for path in ORAL.rglob("*.jpg"):
        files[sha256_of(path)].add(path.relative_to(ORAL).as_posix())
    groups = [names for names in files.values() if len(names) > 1]
    assert len(groups) == 16
    two_classes = [names for names in groups if len({name.split("/")[1] for name in names}) > 1]
    assert len(two_classes) == 14
    code, err = run(f"data.root={ORAL}", "image_size=64")
    assert code == 0, err
    table = manifest.read(tmp_path / "out").set_index("name")
    for names in groups:
        rows = table.loc[sorted(names)]
        assert rows["cluster"].nunique() == 1, names
        assert (rows["verdict"] == "drop").sum() == len(names) - 1, names
    for names in two_classes:
        assert table.loc[sorted(names), "conflict"].all(), names
    conflicts = table[table["conflict"]]
    assert conflicts["cluster"].nunique() == 17
    kept = table[table["verdict"] != "drop"]
    assert (kept.groupby("cluster")["split"].nunique() == 1).all()
    assert kept["split"].value_counts(normalize=True)["train"] == pytest.approx(0.5, abs=0.01)
