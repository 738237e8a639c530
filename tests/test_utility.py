import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mbgan.utility import main

FEW = [  # of seconds
    *("data=folder", "magnification=40x", "image_size=32", "n_folds=2", "n_repeats=1"),
    *("ratios=[1]", "n_inner=2", "transforms={}", "classifiers.network.steps=3"),
    *("classifiers.network.settings=[0.01]", "classifiers.linear_probe.settings=[0.01]"),
]


@pytest.fixture
def words(folder, tmp_path):
    return [*FEW, f"data.root={folder}", f"cache_dir={tmp_path}/cache", f"out={tmp_path}/out"]


def test_a_given_generator_that_trained_on_these_images_is_refused(
    call, words, untrained, tmp_path
):
    run = untrained("dcgan")
    code, said = call(main, *words, f"generator={run}", "checkpoint=best")
    assert code == 1
    assert "generator must not have seen what tests it" in said
    assert "16 of 16 test images" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("n_folds=9", "n_folds must be at most the number of patients (or image clusters)"),
        ("ratios=[0]", "ratios must be above 0, at least one, got [0]"),
        ("balance=odd", "balance must be even or as_real, got 'odd'"),
        ("classifiers.network.steps=0", "steps must be at least 1"),
        ("data.root=nowhere", "no folder"),
    ],
)
def test_what_a_user_can_mend_is_told_in_one_line(call, words, change, message, tmp_path):
    code, said = call(main, *words, change)
    assert code == 1
    assert message in said
    assert said.count("error:") == 1
    assert not (tmp_path / "out" / "folds").exists()


def test_one_class_is_refused(call, words, folder):
    for path in (folder / "40x/tumor").iterdir():
        path.unlink()
    code, said = call(main, *words)
    assert code == 1
    assert "a classifier needs at least 2 classes, got normal" in said


@pytest.mark.slow
def test_a_study_ends_with_a_page_and_goes_on_where_it_was(call, folder, words, tmp_path, capfd):
    """Each fold's generator is trained by a process of its own, on the fold's images alone."""
    rng = np.random.default_rng(1)
    for path in folder.rglob("*.png"):  # light or dark, so that there is something to learn
        shift = 60 if "tumor" in str(path) else 120
        image = rng.integers(0, 60, (40, 40, 3), dtype=np.uint8) + shift
        Image.fromarray(image.astype(np.uint8)).save(path)
    small = ["model.generator.width=4", "model.critic.width=4", "trainer=cpu"]
    words += ["gan.model=dcgan", "gan.total_images=8", "gan.batch_size=4"]
    words += ["gan.also=[" + ",".join(f'"{word}"' for word in small) + "]"]
    code, said = call(main, *words)
    assert code == 0, said
    out = tmp_path / "out"
    table = pd.read_csv(out / "utility.csv")
    assert set(table["arm"]) == {"real", "synthetic", "real + synthetic", "real + classical"}
    assert len(table) == 2 * 2 * 4 * (5 + 3 * 2)  # folds, classifiers, arms, scores
    for result in (out / "folds").glob("*/result.json"):
        listed = json.loads((result.parent / "images.json").read_text())
        assert len(listed["files"]) == 8  # fit and tune; the other 8 test
        assert not (result.parent / "gan/scores.json").exists()  # a minute a fold, for nothing
    assert "Nadeau" in (out / "utility.html").read_text()
    assert json.loads((out / "utility.json").read_text())["n_folds"] == 2

    made = {path: path.stat().st_mtime_ns for path in (out / "folds").rglob("*.json")}
    code, said = call(main, *words)
    assert code == 0, said
    assert made == {path: path.stat().st_mtime_ns for path in made}
    code, said = call(main, *words, "seed=1")
    assert code == 1
    assert "seed must be as when" in said
