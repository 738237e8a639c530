"""What was seen of images becomes verdicts, clusters and splits, whatever the order of files."""

from base64 import b64encode
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import field
from PIL import Image

from mbgan.data.duplicates import fingerprint
from mbgan.data.folder import ImageFile
from mbgan.data.quality import MEASURES, Check
from mbgan.data.verdicts import AFTER, BEFORE, COLORS, DuplicateRules, decide

SHARES = {"val": 0.25, "test": 0.25}


def seen(name, rgb=None, patient=None, tile="", **measures):
    """A file "magnification/class/..." and the row that its inspection would give."""
    magnification, label, *_ = name.split("/")
    file = ImageFile(
        Path("/images") / name, name, None if magnification == "-" else magnification, label,
        patient,
    )  # fmt: skip
    if rgb is None:
        return file, {"unreadable": "an empty file"}
    mark = asdict(fingerprint(rgb))
    return file, {
        "unreadable": "",
        "tile": tile,
        "width": 48,
        "height": 48,
        "measures": dict.fromkeys(MEASURES, 0.5) | measures,
        "fingerprint": mark | {"structure": b64encode(mark["structure"]).decode()},
        "stain": [0.6, 0.7, 0.3, 0.1, 1.0, 0.1],
    }


def others(n=6, **settings):
    return [seen(f"40x/other/{i}.png", field(100 + i), **settings) for i in range(n)]


def manifest_of(images, checks=None, rules=None, shares=SHARES, seed=0):
    table = decide(images, checks or {}, rules or DuplicateRules(), shares, seed)
    return table.set_index(table["name"] + np.where(table["tile"] != "", "#" + table["tile"], ""))


def compressed(rgb):
    """The image at another size, as after saving it once more for a web page."""
    side = round(len(rgb) * 1.5)
    return np.asarray(Image.fromarray(rgb).resize((side, side), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("mirrored", [False, True])
def test_the_same_pixels_in_any_pose_are_dropped_but_for_the_first(turns, mirrored):
    copy = np.rot90(field(0), turns)
    copy = np.ascontiguousarray(copy[:, ::-1] if mirrored else copy)
    table = manifest_of([seen("40x/a/1.png", copy), seen("40x/a/0.png", field(0)), *others()])
    assert table.loc["40x/a/0.png", ["verdict", "reasons"]].tolist() == ["keep", ""]
    assert table.at["40x/a/1.png", "verdict"] == "drop"
    assert table.at["40x/a/1.png", "reasons"] == "duplicate (of 40x/a/0.png)"
    assert not table["conflict"].any()


def test_of_the_same_pixels_the_first_that_nothing_else_speaks_against_is_kept():
    lost = seen("-/a/0.png", field(0))  # its path tells no magnification
    table = manifest_of([lost, seen("40x/a/1.png", field(0)), *others()])
    assert table.at["40x/a/1.png", "verdict"] == "keep"
    assert "no_magnification" in table.at["-/a/0.png", "reasons"]
    assert "duplicate (of 40x/a/1.png)" in table.at["-/a/0.png", "reasons"]


@pytest.mark.parametrize(
    ("name", "what"),
    [("40x/b/1.png", "40x b"), ("50x/a/1.png", "50x a")],
    ids=["class", "magnification"],
)
def test_one_picture_under_two_labels_is_a_conflict_that_names_the_other(name, what):
    table = manifest_of([seen("40x/a/0.png", field(0)), seen(name, field(0)), *others()])
    assert table["conflict"].sum() == 2
    assert table.at["40x/a/0.png", "reasons"] == f"label_conflict ({name} is {what})"
    assert table.at["40x/a/0.png", "verdict"] == "warn"
    assert "label_conflict (40x/a/0.png is 40x a)" in table.at[name, "reasons"]
    strict = manifest_of(
        [seen("40x/a/0.png", field(0)), seen(name, field(0)), *others()],
        rules=DuplicateRules(conflict="drop"),
    )
    assert (strict["verdict"] == "drop").tolist() == strict["conflict"].tolist()


@pytest.mark.parametrize("copy", ["-/a/1.png", "40x/unknown/1.png", "-/unknown/1.png"])
def test_a_copy_whose_path_does_not_tell_contradicts_nothing(copy):
    table = manifest_of([seen("40x/a/0.png", field(0)), seen(copy, field(0)), *others()])
    assert not table["conflict"].any()
    assert table.at["40x/a/0.png", "verdict"] == "keep"


def test_near_duplicates_warn_of_each_other_and_dropping_them_leaves_the_first():
    images = [seen("40x/a/0.png", field(0)), seen("40x/a/1.jpg", compressed(field(0))), *others()]
    table = manifest_of(images)
    assert table.at["40x/a/0.png", "reasons"] == "near_duplicate (of 40x/a/1.jpg)"
    assert table.at["40x/a/1.jpg", "reasons"] == "near_duplicate (of 40x/a/0.png)"
    assert (table["verdict"] == "warn").sum() == 2
    table = manifest_of(images, rules=DuplicateRules(near="drop"))
    assert table.loc["40x/a/0.png", ["verdict", "reasons"]].tolist() == ["keep", ""]
    assert table.at["40x/a/1.jpg", "verdict"] == "drop"


def test_what_belongs_together_is_on_one_side_whatever_the_seed():
    """A patient at two magnifications, another's near duplicate of one, and tiles of a field."""
    together = [
        seen("40x/a/0.png", field(0), patient="1"),
        seen("100x/a/0.png", field(1), patient="1"),
        seen("100x/a/1.png", field(2), patient="2"),
        seen("40x/a/1.jpg", compressed(field(0)), patient="2"),
        seen("100x/a/1.png", field(3), patient="2", tile="0,0,8,8"),
    ]
    tiles = [seen("40x/a/9.png", field(10 + i), tile=f"{i},0,8,8") for i in range(3)]
    splits = set()
    for seed in range(8):
        table = manifest_of([*together, *tiles, *others(12)], seed=seed)
        assert table.groupby("group")["split"].nunique().max() == 1
        joined = table[table["patient"].notna()]
        assert set(joined["group"]) == {"patient 1 + 2"}
        assert table[table["name"] == "40x/a/9.png"]["group"].nunique() == 1
        splits.add(tuple(table["split"]))
        assert set(table["split"]) == {"train", "val", "test"}
    assert len(splits) > 1  # the seed does decide


def test_empty_images_all_alike_join_nobody():
    """White tiles of every slide have the same pixels; patients are not one for it."""
    white = np.full((48, 48, 3), 255, np.uint8)
    blank = {"blank": Check("background", "drop", above=0.98)}
    images = [seen(f"40x/{i}/{i}.png", field(i), patient=str(i)) for i in range(4)]
    for i in range(4):
        images.append(seen(f"40x/{i}/{i}.png", white, str(i), tile="0,0,8,8", background=1.0))
    table = manifest_of(images, blank)
    assert set(table["group"]) == {f"patient {i}" for i in range(4)}
    assert not table["conflict"].any()
    empty = table[table["tile"] != ""]
    assert (empty["reasons"] == "blank (background 1, over 0.98)").all()


def test_neither_the_order_of_files_nor_of_their_rows_matters():
    images = [
        *others(8),
        seen("40x/a/0.png", field(0)),
        seen("40x/b/1.png", np.ascontiguousarray(field(0)[::-1])),
        seen("40x/b/2.png", compressed(field(100))),
        seen("40x/b/3.png"),
    ]
    before = manifest_of(images)
    for seed in range(3):
        shuffled = [images[i] for i in np.random.default_rng(seed).permutation(len(images))]
        pd.testing.assert_frame_equal(manifest_of(shuffled), before)


def test_each_reason_begins_with_its_check_and_the_worst_decides():
    checks = {
        "dim": Check("dark", "warn", above=0.6),
        "pale": Check("background", "drop", above=0.6),
    }
    both = seen("40x/a/0.png", field(0), dark=0.7, background=0.8)
    table = manifest_of([both, seen("40x/a/1.png", field(1), dark=0.9), *others()], checks)
    assert table.at["40x/a/0.png", "reasons"] == (
        "dim (dark 0.7, over 0.6); pale (background 0.8, over 0.6)"
    )
    assert table["verdict"].tolist() == ["drop", "warn"] + ["keep"] * 6
    assert (table["split"] == "").tolist() == (table["verdict"] == "drop").tolist()


def test_an_unreadable_file_has_a_row_with_its_reason_and_no_numbers():
    row = manifest_of([seen("40x/a/0.png"), *others()]).loc["40x/a/0.png"]
    assert (row["verdict"], row["reasons"]) == ("drop", "unreadable (an empty file)")
    assert (row["cluster"], row["width"], row["sha256"], row["split"]) == (-1, 0, "", "")
    assert row[[*MEASURES, *COLORS, *BEFORE, *AFTER, "um_per_pixel"]].isna().all()


def test_stain_vectors_are_the_densities_at_length_one():
    row = manifest_of(others()).iloc[0]
    vectors = row[BEFORE].to_numpy(float).reshape(2, 3)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1)
    np.testing.assert_allclose(vectors[0], np.array([0.6, 0.7, 0.3]) / 0.94**0.5)


def test_without_a_val_side_there_are_two():
    table = manifest_of(others(8), shares={"val": 0, "test": 0.25})
    assert table["split"].value_counts().to_dict() == {"train": 6, "test": 2}


def test_nothing_kept_is_an_error_that_says_why():
    images = [seen("40x/a/0.png"), seen("-/a/1.png", field(1)), seen("-/a/2.png", field(2))]
    message = (
        r"at least 1 image must be kept, got none of 3: no_magnification \(2\), unreadable \(1\); "
        "change checks, or set naming.magnification"
    )
    with pytest.raises(ValueError, match=message):
        manifest_of(images)


def test_one_patient_cannot_be_on_three_sides():
    with pytest.raises(ValueError, match=r"train, test, val need at least 3 groups .* got 1"):
        manifest_of(others(patient="1"))


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"exact": "zap"}, "duplicates.exact must be keep, warn or drop, got 'zap'"),
        ({"near": None}, "duplicates.near must be keep, warn or drop, got None"),
        ({"threshold": 0}, r"duplicates.threshold must be in \(0, 1\], got 0"),
        ({"threshold": 1.5}, r"duplicates.threshold must be in \(0, 1\], got 1.5"),
    ],
)
def test_a_rule_that_is_none_is_refused_at_once(rule, message):
    with pytest.raises(ValueError, match=message):
        DuplicateRules(**rule)
