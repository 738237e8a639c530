"""Each file is looked at once; what it holds is kept until the file or a setting changes."""

import os
from pathlib import Path

import numpy as np
import pytest
from conftest import field, put
from PIL import Image, TiffImagePlugin

from mbgan.data.duplicates import fingerprint
from mbgan.data.fields import Squash, Tile
from mbgan.data.folder import Naming, scan
from mbgan.data.inspection import Journal, inspect, on_all_cores
from mbgan.data.quality import measure


def described(text):
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[270] = text
    return {"tiffinfo": tags}


RESOLUTIONS = {
    "dots per inch, TIFF": ("a.tif", {"dpi": (50_800, 50_800)}, 0.5),
    "dots per inch, PNG": ("a.png", {"dpi": (101_600, 101_600)}, 0.25),
    "OME": ("a.tif", described('<OME><Pixels PhysicalSizeX="0.325" SizeX="48"/></OME>'), 0.325),
    "Aperio": ("a.tif", described("Aperio Image Library|AppMag = 20|MPP = 0.4990|x"), 0.499),
    "OME before dots": ("a.tif", described('PhysicalSizeX="0.2"') | {"dpi": (25_400,) * 2}, 0.2),
    "a screen's": ("a.png", {"dpi": (72, 72)}, None),
    "a printer's": ("a.jpg", {"dpi": (300, 300)}, None),
    "nothing": ("a.png", {}, None),
}


@pytest.mark.parametrize(("name", "settings", "expected"), RESOLUTIONS.values(), ids=RESOLUTIONS)
def test_microns_per_pixel_are_what_the_file_says_of_a_microscope(
    tmp_path, name, settings, expected
):
    """25,400 microns are an inch; 72 and 300 dots on it are no microscope's."""
    (row,) = inspect(put(tmp_path, name, field(0), **settings), Squash(), 32)
    assert row["um_per_pixel"] == (expected and pytest.approx(expected, rel=1e-4))


def test_tiles_are_measured_each_by_itself(tmp_path):
    rgb = field(0, side=64)
    rows = inspect(put(tmp_path, "a.png", rgb), Tile(size=30, stride=30), 16)
    assert [row["tile"] for row in rows] == ["2,2,30,30", "32,2,30,30", "2,32,30,30", "32,32,30,30"]
    part = np.ascontiguousarray(rgb[32:62, 2:32])
    assert rows[2]["measures"] == pytest.approx(measure(part))
    assert rows[2]["fingerprint"]["pixels_sha256"] == fingerprint(part).pixels_sha256
    assert len({row["sha256"] for row in rows}) == 1  # of the file
    assert {(row["width"], row["height"]) for row in rows} == {(64, 64)}


def test_a_field_too_small_for_a_tile_says_so(tmp_path):
    (row,) = inspect(put(tmp_path, "a.png", field(0)[:, :20]), Tile(size=30, stride=30), 16)
    assert row["unreadable"] == "20 x 48 gives no tile"
    assert (row["width"], row["height"]) == (20, 48)


def test_the_same_pixels_look_the_same_with_or_without_an_alpha_channel(tmp_path):
    opaque = np.dstack([field(0), np.full((48, 48), 255, np.uint8)])
    (plain,) = inspect(put(tmp_path, "a.png", field(0)), Squash(), 32)
    (rgba,) = inspect(put(tmp_path, "b.png", opaque), Squash(), 32)
    assert (plain["mode"], rgba["mode"]) == ("RGB", "RGBA")
    differs = {"mode", "sha256"}
    assert {k: v for k, v in plain.items() if k not in differs} == {
        k: v for k, v in rgba.items() if k not in differs
    }


def test_what_is_no_image_gives_one_row_with_the_reason(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    assert inspect(tmp_path / "a.png", Squash(), 32) == [{"unreadable": "an empty file"}]


@pytest.fixture
def files(tmp_path):
    for i in range(5):
        put(tmp_path / "images", f"40x/a/{i}.png", field(i))
    return scan(tmp_path / "images", Naming()).files


def names(files):
    return [Path(file.name).stem for file in files]


def rows_of(files):
    return ((file, [{"unreadable": file.name}]) for file in files)


def test_the_journal_knows_a_file_until_it_changes(files, tmp_path):
    journal = Journal(tmp_path / "journal.sqlite", "settings")
    assert names(journal.missing(files)) == list("01234")
    list(journal.record(rows_of(files)))
    assert journal.missing(files) == []
    files[1].path.write_bytes(b"other")
    stat = files[3].path.stat()
    os.utime(files[3].path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert names(journal.missing(files)) == ["1", "3"]
    assert names(Journal(journal.path, "others").missing(files)) == list("01234")


def test_a_stop_in_the_middle_keeps_what_was_done(files, tmp_path):
    def stopped(results):
        for i, result in enumerate(results):
            if i == 3:
                raise KeyboardInterrupt
            yield result

    journal = Journal(tmp_path / "journal.sqlite", "settings")
    with pytest.raises(KeyboardInterrupt):
        list(journal.record(stopped(rows_of(files))))
    assert names(journal.missing(files)) == ["3", "4"]


def test_the_journal_gives_back_what_it_was_given_and_forgets_lost_files(files, tmp_path):
    journal = Journal(tmp_path / "journal.sqlite", "settings")
    list(journal.record(rows_of(files)))
    found = sorted(journal.read(files[1:]), key=lambda pair: pair[0].name)
    assert found == [(file, {"unreadable": file.name}) for file in files[1:]]
    assert names(journal.missing(files)) == ["0"]


def test_every_job_is_answered_once_under_its_own_number():
    jobs = [(i, 2) for i in range(10)]
    assert sorted(on_all_cores(pow, jobs, 1)) == [(i, i**2) for i in range(10)]


def test_one_image_that_cannot_be_read_stops_no_other(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "0.png")
    (tmp_path / "1.png").write_text("no image")
    jobs = [(tmp_path / f"{i}.png", Squash(), 8) for i in range(2)]
    rows = dict(on_all_cores(inspect, jobs, 1))
    assert [bool(rows[i][0]["unreadable"]) for i in range(2)] == [False, True]
