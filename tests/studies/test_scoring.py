"""Folders of images against each other: what is scored, what is refused, and what a person gets."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import field, put
from jsonschema import validate
from torch import nn

from mbgan import evaluate
from mbgan.data.folder import Naming
from mbgan.metrics.features import Features
from mbgan.metrics.suite import Suite
from mbgan.studies import score_sheet, scoring

SCHEMA = json.loads((Path(scoring.__file__).parent / "scores.schema.json").read_text())


class Colors(nn.Module):
    """Features of an image: the mean color of each of its quarters."""

    name, sha256, fingerprint = "colors", "0" * 64, "0" * 64

    def __init__(self):
        super().__init__()
        self.seen = []

    def extract(self, x):
        self.seen.append(x)
        parts = nn.functional.adaptive_avg_pool2d(x.double() / 64, 2).flatten(1)
        return Features(parts, parts)


def fields(root, seeds, side=64, classes=("tumor",), magnification="40x"):
    for i in seeds:
        put(root, f"{magnification}/{classes[i % len(classes)]}/{i:03d}.png", field(i, side))
    return str(root)


@pytest.fixture
def scored(tmp_path):
    """Score folders by the colors of their images."""

    def run(folders, magnification=None, image_size=None, max_images=None, extractor=None):
        suite = Suite(extractor or Colors(), max_images, floor_splits=3, nucleus_px=8)
        return scoring.score_folders(
            folders, magnification, image_size, Naming(), suite, tmp_path / "cache"
        )

    return run


def test_folders_of_one_kind_score_as_real_against_real_and_copies_are_named(scored, tmp_path):
    real = fields(tmp_path / "real", range(40))
    train = fields(tmp_path / "train", range(100, 140))
    fresh = fields(tmp_path / "fresh", range(200, 240))
    result = scored({"real": real, "fake": fresh, "train": train}).result
    validate(json.loads(json.dumps(result)), SCHEMA)
    low, high = result["scores"]["kid/colors"]["interval"]
    assert low < 0 < high
    assert result["memorization"]["verdict"] == "fine"
    assert (
        scored({"real": real, "fake": train, "train": train}).result["memorization"]["verdict"]
        == "copying"
    )
    assert "memorization" not in scored({"real": real, "fake": fresh}).result


def test_a_second_evaluation_extracts_the_fakes_alone(scored, tmp_path):
    folders = {
        name: fields(tmp_path / name, range(start, start + n))
        for name, start, n in (("real", 0, 10), ("train", 100, 12), ("fake", 200, 8))
    }
    first, second = Colors(), Colors()
    results = [scored(folders, extractor=extractor).result for extractor in (first, second)]
    assert sorted(map(len, first.seen)) == [8, 10, *[12] * 8]
    assert list(map(len, second.seen)) == [8]
    assert rounded(results[0]) == rounded(results[1])


def rounded(result):
    """The last bits of a sum depend on where in memory its terms lie."""
    return json.loads(json.dumps(result), parse_float=lambda digits: round(float(digits), 12))


def test_classes_that_both_have_are_scored_by_themselves(scored, tmp_path):
    real = fields(tmp_path / "real", range(24), classes=("normal", "tumor"))
    fake = fields(tmp_path / "fake", range(100, 112), classes=("tumor",))
    result = scored({"real": real, "fake": fake}).result
    validate(json.loads(json.dumps(result)), SCHEMA)
    assert list(result["by_condition"]) == ["tumor"]
    assert (result["by_condition"]["tumor"]["n_real"], result["n_real"]) == (12, 24)


def test_magnifications_are_never_pooled(scored, tmp_path):
    real = fields(tmp_path / "real", range(6))
    fields(tmp_path / "real", range(6, 12), magnification="10x")
    fake = fields(tmp_path / "fake", range(100, 106))
    with pytest.raises(ValueError, match=r"never scored together, got .*; set magnification=10x"):
        scored({"real": real, "fake": fake})
    result = scored({"real": real, "fake": fake}, magnification="40X").result
    assert (result["n_real"], result["magnification"]) == (6, "40x")


def test_fakes_of_several_sizes_are_refused_with_the_way_out(scored, tmp_path):
    real, fake = fields(tmp_path / "real", range(6)), fields(tmp_path / "fake", range(5))
    fields(tmp_path / "fake", [7], side=32)
    with pytest.raises(ValueError, match=r"64 x 64 \(5\), 32 x 32 \(1\); image_size=64 scales"):
        scored({"real": real, "fake": fake})
    assert scored({"real": real, "fake": fake}, image_size=48).result["image_size"] == 48


def test_an_empty_side_is_named_and_so_is_one_folder_for_both(scored, tmp_path):
    real = fields(tmp_path / "real", range(6))
    with pytest.raises(ValueError, match=r"must be different folders, got .*real for both"):
        scored({"real": real, "fake": real})
    (tmp_path / "fake").mkdir()
    with pytest.raises(FileNotFoundError, match="fake must be a folder of at least 2 images"):
        scored({"real": real, "fake": str(tmp_path / "fake")})
    with pytest.raises(FileNotFoundError, match=r"fake must be a folder of images, got .*nowhere"):
        scored({"real": real, "fake": str(tmp_path / "nowhere")})


def test_scores_do_not_depend_on_the_names_of_images(scored, tmp_path):
    real = fields(tmp_path / "real", range(20))
    fake = fields(tmp_path / "fake", range(100, 120))
    for i, seed in enumerate(np.random.default_rng(0).permutation(range(100, 120))):
        put(tmp_path / "other", f"40x/tumor/{i:03d}.png", field(int(seed), 64))
    a, b = (scored({"real": real, "fake": f}).result for f in (fake, str(tmp_path / "other")))
    for key in ("kid/colors", "precision/colors", "histology/hematoxylin"):
        assert a["scores"][key]["value"] == pytest.approx(b["scores"][key]["value"], rel=1e-9)


def test_what_is_written_holds_every_score_once(scored, tmp_path):
    real = fields(tmp_path / "real", range(12), classes=("normal", "tumor"))
    fake = fields(tmp_path / "fake", range(100, 112), classes=("normal", "tumor"))
    train = fields(tmp_path / "train", range(50, 60))
    found = scored({"real": real, "fake": fake, "train": train})
    score_sheet.write(found, tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"scores.csv", "scores.png", "nearest.png", "real_and_generated.png"}
    rows = pd.read_csv(tmp_path / "out/scores.csv", keep_default_na=False)
    assert not rows.duplicated(["condition", "score"]).any()
    assert set(rows["condition"]) == {"", "normal", "tumor"}
    kid = rows[(rows["condition"] == "") & (rows["score"] == "kid/colors")].iloc[0]
    assert float(kid["value"]) == pytest.approx(found.result["scores"]["kid/colors"]["value"])
    text = score_sheet.table(found.result)
    assert "n_real 12, n_fake 12, extractor colors (000000000000)" in text
    assert "copies of 10 training images:" in text


def test_the_table_says_a_reason_once_and_what_rounding_leaves_of_zero_as_zero(scored, tmp_path):
    real = fields(tmp_path / "real", range(12))
    for i in range(12):
        put(tmp_path / "fake", f"{i}.png", np.full((64, 64, 3), 200, np.uint8))
    result = scored({"real": real, "fake": str(tmp_path / "fake")}).result
    result["scores"]["kid/colors"]["value"] = -1e-13
    text = score_sheet.table(result)
    assert text.count("under 2 images on a side have it") == 1
    assert re.search(r"kid +0 ", text)
    assert "…" not in text


def test_the_gallery_shows_each_training_image_in_its_nearest_pose(scored, tmp_path):
    for i in range(8):
        rgb = field(i, 64)
        put(tmp_path / "train", f"{i}.png", rgb)
        put(tmp_path / "fake", f"{i}.png", np.ascontiguousarray(np.rot90(rgb)))
    real = fields(tmp_path / "real", range(20, 30))
    folders = {"fake": str(tmp_path / "fake"), "train": str(tmp_path / "train"), "real": real}
    found = scored(folders)
    match = score_sheet.nearest_pose(found.train.features, found.fake.seen.features)
    shown = score_sheet.turned(found.train.images, match, torch.arange(8))
    assert torch.equal(shown, found.fake.images)


def test_evaluate_scores_two_folders_from_the_command_line(call, tmp_path):
    folders = [f"real={fields(tmp_path / 'real', range(6))}"]
    folders.append(f"fake={fields(tmp_path / 'fake', range(100, 108))}")
    more = ["extractor=efficientnet_lite0", "image_size=32", "metrics.floor_splits=2"]
    code, err = call(
        evaluate.main, *folders, *more, f"out={tmp_path}/out", f"cache_dir={tmp_path}/cache"
    )
    assert code == 0, err
    result = json.loads((tmp_path / "out/scores.json").read_text())
    validate(result, SCHEMA)
    assert (result["n_real"], result["n_fake"], result["image_size"]) == (6, 8, 32)
    assert "40x, 32 px; n_real 6, n_fake 8, extractor efficientnet_lite0 (" in err


def test_an_encoder_without_its_file_is_asked_for_by_the_name_that_a_user_types(call, tmp_path):
    folders = [f"{side}={fields(tmp_path / side, range(6))}" for side in ("real", "fake")]
    code, err = call(evaluate.main, *folders, "extractor=local")
    assert code == 1
    assert err.startswith("error: extractor.weights must be given, as in extractor.weights=VALUE")


@pytest.mark.parametrize("arguments", [[], ["run=a", "real=b", "fake=c"], ["real=b"]])
def test_evaluate_asks_for_a_run_or_two_folders(call, arguments):
    code, err = call(evaluate.main, *arguments)
    assert (code, err.count("\n")) == (1, 1)
    assert "evaluate needs run=RUN, or real=DIR fake=DIR" in err
