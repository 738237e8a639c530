"""A prepared folder depends on images and settings alone, and is redone only where needed."""

import os
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import field, preparation, put
from PIL import Image

from mbgan.data import manifest
from mbgan.data import preparation as module
from mbgan.data.fields import Tile
from mbgan.data.folder import Naming, scan
from mbgan.data.quality import Check
from mbgan.data.rendering import render
from mbgan.data.stain import Macenko, Reinhard

WHITE = np.full((48, 48, 3), 250, np.uint8)


@pytest.fixture
def root(tmp_path):
    """Eight fields of two classes at 40x, two blank ones, and a file that is no image."""
    for i in range(8):
        put(tmp_path / "images", f"40x/{'ab'[i % 2]}/{i}.png", field(i))
    for i in (8, 9):
        put(tmp_path / "images", f"40x/a/{i}.png", WHITE - i)
    (tmp_path / "images/40x/b/broken.png").write_text("no image")
    return tmp_path / "images"


@pytest.fixture
def done(monkeypatch):
    """The files that were looked at and those that were written since it was last cleared."""
    done = {"inspect": [], "render": []}
    for name, calls in done.items():
        function = getattr(module, name)
        monkeypatch.setattr(module, name, partial(counted, function, calls))
    return done


def counted(function, calls, path, *rest):
    calls.append(path.name)
    return function(path, *rest)


def clear(done):
    for calls in done.values():
        calls.clear()


def images(out):
    return {p.relative_to(out).as_posix(): p.stat().st_mtime_ns for p in out.rglob("*.png")}


def test_a_second_time_nothing_is_decoded_and_no_image_is_touched(root, tmp_path, done):
    first = preparation(tmp_path / "out").run(scan(root, Naming()))
    before = images(tmp_path / "out")
    assert (len(done["inspect"]), len(done["render"]), len(before)) == (11, 8, 8)
    clear(done)
    second = preparation(tmp_path / "out").run(scan(root, Naming()))
    assert done == {"inspect": [], "render": []}
    assert images(tmp_path / "out") == before == {i: before[i] for i in second["image"] if i}
    pd.testing.assert_frame_equal(second, first)  # the stain afterwards, too


def test_a_changed_file_is_the_only_one_seen_anew_and_a_lost_one_leaves(root, tmp_path, done):
    out = tmp_path / "out"
    preparation(out).run(scan(root, Naming()))
    before = images(out)
    clear(done)
    put(root, "40x/a/2.png", field(50))
    (root / "40x/b/3.png").unlink()
    table = preparation(out).run(scan(root, Naming()))
    assert done == {"inspect": ["2.png"], "render": ["2.png"]}
    assert "40x/b/3.png" not in set(table["name"])
    after = images(out)
    assert len(after.keys() & before.keys()) == 6
    assert set(after) == {image for image in table["image"] if image}
    assert len(after) == 7


@pytest.mark.parametrize(
    ("changes", "inspected", "rendered"),
    [
        ({"seed": 1}, 0, 0),
        ({"shares": {"val": 0, "test": 0.5}}, 0, 0),
        ({"normalizer": Reinhard()}, 0, 8),
        ({"image_size": 16}, 11, 8),
        ({"fields": Tile(24, 24)}, 11, 8),
        ({"checks": {}}, 0, 2),  # the blank ones
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_a_changed_setting_redoes_what_it_must_and_no_more(
    root, tmp_path, done, changes, inspected, rendered
):
    out = tmp_path / "out"
    preparation(out).run(scan(root, Naming()))
    clear(done)
    table = preparation(out, **changes).run(scan(root, Naming()))
    assert (len(done["inspect"]), len(done["render"])) == (inspected, rendered)
    fresh = preparation(tmp_path / "fresh", **changes).run(scan(root, Naming()))
    pd.testing.assert_frame_equal(table, fresh)  # no trace of the earlier settings
    assert images(out).keys() == images(tmp_path / "fresh").keys()


def test_an_interrupted_inspection_goes_on_where_it_stopped(root, tmp_path, done, monkeypatch):
    inspect = module.inspect

    def interrupted(path, *rest):
        if len(done["inspect"]) == 4:
            raise KeyboardInterrupt
        return inspect(path, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(module, "inspect", interrupted)
        with pytest.raises(KeyboardInterrupt):
            preparation(tmp_path / "out").run(scan(root, Naming()))
    started = len(done["inspect"])
    preparation(tmp_path / "out").run(scan(root, Naming()))
    assert started == 4
    assert len(done["inspect"]) == len(set(done["inspect"])) == 11


def test_interrupted_writing_goes_on_where_it_stopped(root, tmp_path, done, monkeypatch):
    write = module.render

    def interrupted(path, *rest):
        if len(done["render"]) == 3:
            raise KeyboardInterrupt
        return write(path, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(module, "render", interrupted)
        with pytest.raises(KeyboardInterrupt):
            preparation(tmp_path / "out").run(scan(root, Naming()))
    assert not (tmp_path / "out/manifest.parquet").exists()  # nobody trains on half of it
    assert len(done["render"]) == 3
    table = preparation(tmp_path / "out").run(scan(root, Naming()))
    assert len(done["render"]) == len(set(done["render"])) == 8
    fresh = preparation(tmp_path / "fresh").run(scan(root, Naming()))
    pd.testing.assert_frame_equal(table, fresh)
    assert not (tmp_path / "out/interrupted.parquet").exists()


def test_an_image_whose_measures_an_interrupt_kept_out_is_measured_again(
    root, tmp_path, monkeypatch
):
    """The file was there and the row knew its name, so that nothing was measured ever after."""
    write = module.render

    def interrupted(path, *rest):
        write(path, *rest)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "render", interrupted)
        with pytest.raises(KeyboardInterrupt):
            preparation(tmp_path / "out").run(scan(root, Naming()))
    table = preparation(tmp_path / "out").run(scan(root, Naming()))
    fresh = preparation(tmp_path / "fresh").run(scan(root, Naming()))
    pd.testing.assert_frame_equal(table, fresh)


def test_a_file_that_changes_while_others_are_read_is_named(root, tmp_path, monkeypatch):
    inspect = module.inspect

    def meddle(path, *rest):
        (root / "40x/a/0.png").touch()
        return inspect(path, *rest)

    os.utime(root / "40x/a/0.png", (0, 0))
    monkeypatch.setattr(module, "inspect", meddle)
    with pytest.raises(ValueError, match=r"40x/a/0.png changed while it was prepared; run "):
        preparation(tmp_path / "out").run(scan(root, Naming()))


def test_the_result_is_one_and_the_same_anywhere_in_any_order_on_any_number_of_cores(
    root, tmp_path
):
    first = preparation(tmp_path / "out").run(scan(root, Naming()))
    moved = shutil.copytree(root, tmp_path / "else/where")
    found = scan(moved, Naming())
    found.files.reverse()
    second = preparation(tmp_path / "there", workers=2).run(found)
    pd.testing.assert_frame_equal(second, first)
    for image in filter(None, first["image"]):
        assert (tmp_path / "there" / image).read_bytes() == (tmp_path / "out" / image).read_bytes()
    again = [manifest.sha256(manifest.read(tmp_path / out)) for out in ("out", "there")]
    assert again == [manifest.sha256(first)] * 2


def test_nothing_of_the_users_is_changed(root, tmp_path):
    before = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in root.rglob("*.png")}
    preparation(tmp_path / "out").run(scan(root, Naming()))
    assert {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in root.rglob("*.png")} == before


@pytest.mark.parametrize("harm", [b"", b"PAR1 of another tool"])
def test_a_damaged_manifest_is_made_anew(root, tmp_path, harm, caplog):
    """What refuses it says to run mbgan.prepare again; so that must help."""
    first = preparation(tmp_path / "out").run(scan(root, Naming()))
    (tmp_path / "out" / manifest.FILE).write_bytes(harm)
    pd.testing.assert_frame_equal(preparation(tmp_path / "out").run(scan(root, Naming())), first)
    assert "writing all images anew" in caplog.text


def test_a_lost_image_is_written_again(root, tmp_path, done):
    table = preparation(tmp_path / "out").run(scan(root, Naming()))
    (tmp_path / "out" / table["image"].iloc[0]).unlink()
    clear(done)
    preparation(tmp_path / "out").run(scan(root, Naming()))
    assert done == {"inspect": [], "render": ["0.png"]}


def test_with_a_target_each_image_comes_out_as_its_normalizer_makes_it(root, tmp_path):
    target = put(tmp_path, "target.png", field(77))
    table = preparation(tmp_path / "out", normalizer=Macenko(), target=target, image_size=48).run(
        scan(root, Naming())
    )
    normalizer = Macenko()
    normalizer.fit(field(77))
    row = table.iloc[0]
    pixels = np.asarray(Image.open(tmp_path / "out" / row["image"]))
    assert np.array_equal(pixels, normalizer(field(0)))
    spread = table[[c for c in table if c.endswith("_after")]].std()
    assert (spread < table[[c for c in table if c.endswith("_before")]].std().max()).all()


def test_a_field_without_stain_is_kept_with_a_warning(root, tmp_path):
    table = preparation(tmp_path / "out", normalizer=Reinhard(), checks={}).run(
        scan(root, Naming())
    )
    blank = table[table["name"].isin(["40x/a/8.png", "40x/a/9.png"])]
    assert blank["verdict"].tolist() == ["warn", "warn"]
    assert blank["reasons"].str.contains(r"unnormalized \(blank: tissue on 0 of").all()
    assert (table["unnormalized"] != "").sum() == 2


def test_tiles_with_little_tissue_are_dropped_and_the_others_share_a_group(tmp_path):
    """Half of each field is glass: of its four tiles two are left."""
    for i in range(6):
        half = np.concatenate([field(i), WHITE], 1)  # [48, 96, 3]
        put(tmp_path / "images", f"40x/a/{i}.png", half)
    checks = {"little_tissue": Check("background", "drop", above=0.5)}
    table = preparation(tmp_path / "out", fields=Tile(24, 24), checks=checks).run(
        scan(tmp_path / "images", Naming())
    )
    assert len(table) == 6 * 8
    x = table["tile"].str.split(",").str[0].astype(int)
    assert ((table["verdict"] == "drop") == (x >= 48)).all()
    assert table[x >= 48]["reasons"].str.startswith("little_tissue (background 1, over").all()
    assert table.groupby("name")["group"].nunique().max() == 1
    assert table[x < 48].groupby("name")["split"].nunique().max() == 1
    assert len(images(tmp_path / "out")) == 6 * 4


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"image_size": 4}, ValueError, "image_size must be at least 8, got 4"),
        ({"workers": 0}, ValueError, "workers must be null or at least 1, got 0"),
        ({"shares": {"val": 0.5, "test": 0.5}}, ValueError, "their sum below 1, got 0.5 and 0.5"),
        ({"shares": {"val": 0.5, "test": 0}}, ValueError, "split.test above 0"),
        ({"shares": {"val": -0.1, "test": 0.5}}, ValueError, "split.val must be at least 0"),
        ({"target": Path("/no.png")}, FileNotFoundError, "stain.target must be an image, got /no"),
    ],
)
def test_a_wrong_setting_is_refused_before_anything_is_done(tmp_path, changes, error, message):
    with pytest.raises(error, match=message):
        preparation(tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


def test_a_target_without_stain_is_refused_by_name(root, tmp_path):
    target = put(tmp_path, "white.png", WHITE)
    with pytest.raises(ValueError, match=r"stain.target must have two stains, got white.png"):
        preparation(tmp_path / "out", normalizer=Macenko(), target=target).run(scan(root, Naming()))


def test_render_is_told_what_was_inspected(root, tmp_path, monkeypatch):
    """A file that changes between the two passes stops the preparation rather than mix them."""

    def changed(path, *rest):
        path.write_bytes((root / "40x/a/0.png").read_bytes())
        return render(path, *rest)

    monkeypatch.setattr(module, "render", changed)
    with pytest.raises(ValueError, match="changed while it was prepared"):
        preparation(tmp_path / "out").run(scan(root, Naming()))
    assert not (tmp_path / "out" / manifest.FILE).exists()
