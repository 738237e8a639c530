"""The manifest comes back as it was written, or is refused in one line that says how to go on."""

import numpy as np
import pandas as pd
import pytest

from mbgan.data import manifest
from mbgan.data.verdicts import AFTER


def table(**columns):
    """Three images, the last of them dropped; columns override."""
    rows = pd.DataFrame(dict.fromkeys(manifest.TEXTS, [""] * 3))
    rows = rows.assign(
        name=["a/0.png", "a/1.png", "b/2.png"],
        image=["images/40x/a/0.png", "images/40x/a/1.png", ""],
        magnification="40x",
        split=["train", "test", ""],
        verdict=["keep", "warn", "drop"],
        **{"class": ["a", "a", "b"]},
        **dict.fromkeys(("width", "height", "cluster"), 7),
        **dict.fromkeys(("um_per_pixel", *AFTER), np.nan),
        patient=pd.Series(["7", None, None], dtype=object),
        conflict=False,
    )
    return rows.assign(**columns)


def test_a_manifest_comes_back_as_it_was_written(tmp_path):
    before = table(reasons=["", "dark (µ; \"x\", 'y'\n)", ""])
    manifest.write(before, tmp_path)
    after = manifest.read(tmp_path)
    pd.testing.assert_frame_equal(after, before, check_dtype=False)
    assert manifest.sha256(after) == manifest.sha256(before)


@pytest.mark.parametrize("patients", [["7", None, None], [None] * 3])
def test_an_unknown_patient_stays_none(tmp_path, patients):
    """NaN, which parquet makes of it, would count as a patient: NaN is true."""
    manifest.write(table(patient=patients), tmp_path)
    assert manifest.read(tmp_path)["patient"].tolist() == patients
    files = manifest.image_files(manifest.read(tmp_path), tmp_path)
    assert [file.patient for file in files] == patients[:2]


def test_a_write_that_fails_leaves_the_old_manifest(tmp_path, monkeypatch):
    manifest.write(table(), tmp_path)

    def fail(self, path, **settings):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(pd.DataFrame, "to_parquet", fail)
    with pytest.raises(OSError, match="disk full"):
        manifest.write(table(split=""), tmp_path)
    assert manifest.read(tmp_path)["split"].tolist() == ["train", "test", ""]


def cut_off(path):
    path.write_bytes(path.read_bytes()[:-500])


def text(path):
    path.write_text("name,image\na,b\n")


def foreign(path):
    pd.DataFrame({"name": ["a"]}).to_parquet(path)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (cut_off, r"manifest.parquet is damaged \(.+\); run mbgan.prepare again"),
        (text, r"manifest.parquet is damaged \(.+\); run mbgan.prepare again"),
        (foreign, "must have the columns of this version of mbgan, got none called tile, image,"),
    ],
)
def test_a_damaged_or_foreign_manifest_is_refused_in_one_line(tmp_path, harm, message):
    manifest.write(table(), tmp_path)
    harm(tmp_path / manifest.FILE)
    with pytest.raises(ValueError, match=message) as error:
        manifest.read(tmp_path)
    assert "\n" not in str(error.value)


def test_a_folder_without_a_manifest_is_told_how_to_get_one(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"make one: python -m mbgan.prepare data.root="):
        manifest.read(tmp_path)


@pytest.mark.parametrize("image", ["../../etc/passwd", "/etc/passwd", "images/../../a.png"])
def test_a_manifest_that_names_files_elsewhere_is_refused(tmp_path, image):
    manifest.write(table(image=["images/0.png", image, ""]), tmp_path)
    with pytest.raises(ValueError, match="must name images below its folder, got '"):
        manifest.read(tmp_path)


@pytest.mark.parametrize("column", ["image", "split", "unnormalized"])
def test_a_manifest_with_an_empty_cell_is_refused(tmp_path, column):
    manifest.write(table(**{column: ["", None, ""]}), tmp_path)
    with pytest.raises(ValueError, match=f"must hold text in every '{column}'"):
        manifest.read(tmp_path)


def test_the_hash_is_of_what_a_training_sees_and_nothing_else():
    """Neither the rows' order, nor what was measured, nor dropped images change a run."""
    same = manifest.sha256(table())
    assert manifest.sha256(table()[::-1]) == same
    assert manifest.sha256(table()[:2]) == same
    assert manifest.sha256(table(reasons="x", width=1, group="y", um_per_pixel=0.5)) == same
    for column, value in {
        "name": ["a/0.png", "a/2.png", "b/2.png"],
        "tile": "0,0,8,8",
        "image": "images/x.png",
        "magnification": "10x",
        "class": "b",
        "conflict": True,
        "patient": "8",
        "split": "val",
    }.items():
        assert manifest.sha256(table(**{column: value})) != same, column


def test_images_are_those_that_were_written_and_a_conflict_has_no_class(tmp_path):
    rows = table(conflict=[False, True, True], tile=["", "0,0,8,8", ""])
    files = manifest.image_files(rows, tmp_path)
    assert [file.path for file in files] == [tmp_path / image for image in rows["image"][:2]]
    assert [file.name for file in files] == ["a/0.png", "a/1.png#0,0,8,8"]
    assert [file.label for file in files] == ["a", "unknown"]
