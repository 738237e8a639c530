"""A training takes the split of a prepared folder as it is, and refuses one that does not hold."""

import shutil

import numpy as np
import pytest
from conftest import field, preparation, put

from mbgan.data import manifest
from mbgan.data.datamodule import FolderDataModule, PreparedDataModule
from mbgan.data.folder import Naming, scan


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Twelve patients with two fields each at 40x, one of them at 100x too; and a conflict."""
    root = tmp_path_factory.mktemp("made")
    for i in range(24):
        put(root / "images", f"40x/{'ab'[i % 4 // 2]}/patient{i // 2}_{i}.png", field(i))
    put(root / "images", "40x/b/patient0_copy.png", field(0)[::-1])
    put(root / "images", "100x/a/patient0.png", field(50))
    preparation(root / "out").run(scan(root / "images", Naming()))
    return root


@pytest.fixture
def prepared(made, tmp_path):
    """The prepared folder, to be changed."""
    return shutil.copytree(made / "out", tmp_path / "prepared")


def module(root, **changes):
    settings = {
        "magnification": "40x",
        "image_size": 16,
        "batch_size": 4,
        "cache_dir": root.parent / "cache",
    }
    data = PreparedDataModule(root=root, **settings | changes)
    data.setup()
    return data


def edit(root, **columns):
    """Change the manifest: each column by a function of the table."""
    table = manifest.read(root)
    manifest.write(table.assign(**columns), root)


def test_each_side_is_what_the_manifest_says_whatever_the_order_of_its_rows(prepared):
    table = manifest.read(prepared).sample(frac=1, random_state=0)
    manifest.write(table, prepared)
    data = module(prepared)
    table = table[table["magnification"] == "40x"]
    sides = {"train": data.train_files, "val": data.held_out_files, "test": data.test_files}
    for side, files in sides.items():
        assert {f.name for f in files} == set(table["name"][table["split"] == side])
    assert len(data.train) + len(data.held_out) + len(data.test) == 24
    assert len(data.train) == len(data.train_files)
    seen = [{f.patient for f in files} for files in sides.values()]
    assert not seen[0] & seen[1] | seen[0] & seen[2] | seen[1] & seen[2]


def test_pixels_are_those_of_the_prepared_images(prepared):
    """Image and name stay together on every side: a field shrunk by area is its own mean."""
    data = module(prepared, image_size=1)
    for rows, files in ((data.train, data.train_files), (data.test, data.test_files)):
        pixels = rows[np.arange(len(rows))].reshape(len(rows), 3)
        for pixel, file in zip(pixels, files, strict=True):
            number = int(file.name.split("_")[-1].removesuffix(".png"))
            assert np.abs(pixel - field(number).mean((0, 1))).max() < 2


def test_an_image_of_two_classes_has_none(prepared):
    data = module(prepared)
    files = [*data.train_files, *data.held_out_files, *data.test_files]
    assert [f.name for f in files if f.label == "unknown"] == ["40x/a/patient0_0.png"]


def test_fewer_training_images_are_part_of_more_and_the_other_sides_stay(prepared):
    whole = module(prepared)
    names = {n: {f.name for f in module(prepared, n_train=n).train_files} for n in (2, 5, 8)}
    assert [len(some) for some in names.values()] == [2, 5, 8]
    assert names[2] < names[5] < names[8] < {f.name for f in whole.train_files}
    few = module(prepared, n_train=2)
    assert [f.name for f in few.test_files] == [f.name for f in whole.test_files]
    assert few.sha256 == whole.sha256  # the same data, fewer of them


def test_more_training_images_than_there_are_are_refused(prepared):
    n = len(module(prepared).train)
    with pytest.raises(ValueError, match=f"n_train must be from 1 to {n}, got 99"):
        module(prepared, n_train=99)


def test_without_a_val_side_the_test_side_picks_the_best(made, tmp_path):
    out = tmp_path / "out"
    preparation(out, shares={"val": 0, "test": 0.25}).run(scan(made / "images", Naming()))
    data = module(out)
    assert [f.name for f in data.held_out_files] == [f.name for f in data.test_files]
    assert len(data.train) + len(data.test) == 24


def test_the_hash_tells_another_split_and_other_pixels_but_not_another_place(made, tmp_path):
    """A resumed run is held to its data by this hash."""
    hashes = {}
    for name, changes in {
        "first": {},
        "moved": {},
        "seed": {"seed": 1},
        "size": {"image_size": 24},
        "shares": {"shares": {"val": 0, "test": 0.25}},
    }.items():
        preparation(tmp_path / name / "out", **changes).run(scan(made / "images", Naming()))
        hashes[name] = module(tmp_path / name / "out").sha256
    assert hashes["first"] == hashes.pop("moved")
    assert len(set(hashes.values())) == 4


def test_the_hash_tells_an_image_that_was_retouched(prepared):
    before, image = module(prepared).sha256, manifest.read(prepared)["image"].iloc[-1]
    put(prepared, image, field(99, side=32))
    assert module(prepared).sha256 != before


def test_a_patient_on_two_sides_is_refused(prepared):
    table = manifest.read(prepared)
    of_one = table.index[(table["patient"] == "3") & (table["split"] != "")]
    other = "test" if table.at[of_one[0], "split"] != "test" else "train"
    edit(prepared, split=table["split"].where(table.index != of_one[0], other))
    with pytest.raises(ValueError, match=r"patient '3' is in both .*; rebuild the splits with mbg"):
        module(prepared)


def test_a_patient_who_is_corrected_in_the_manifest_is_checked_too(prepared):
    """The manifest's groups are older than the correction: they do not hold any more."""
    table = manifest.read(prepared)
    patients = [table["patient"][table["split"] == side].iloc[-1] for side in ("train", "test")]
    edit(prepared, patient=table["patient"].replace(*patients))
    with pytest.raises(ValueError, match=f"patient {patients[1]!r} is in both"):
        module(prepared)


def test_a_split_that_is_none_is_refused(prepared):
    edit(prepared, split=lambda table: table["split"].replace("test", "Test"))
    with pytest.raises(ValueError, match="a split must be train, test, val or empty, got 'Test'"):
        module(prepared)


def test_another_magnification_is_answered_with_those_there_are(prepared):
    with pytest.raises(FileNotFoundError, match=r"'7x' in .*; there are 40x \(24\), 100x \(1\)"):
        module(prepared, magnification="7x")


def test_too_few_images_of_a_magnification_are_refused_with_their_numbers(prepared):
    """Patients stay whole, so that a side may get none of a magnification."""
    edit(prepared, split="train")
    message = "at least 1 image to train on, and 2 each .*, got train 24, val 0, test 0 of magn"
    with pytest.raises(ValueError, match=message):
        module(prepared)


def test_images_are_not_enlarged(prepared):
    message = "image_size must be at most 32, the size of the images in .*, got 64; prepare them la"
    with pytest.raises(ValueError, match=message):
        module(prepared, image_size=64)


def test_a_damaged_image_is_named_with_the_way_out(prepared):
    image = sorted((prepared / "images/40x").rglob("*.png"))[5]
    image.write_bytes(image.read_bytes()[:60])
    with pytest.raises(ValueError, match=r"delete it and run mbgan.prepare again") as error:
        module(prepared)
    assert str(image) in str(error.value)


def test_a_lost_image_is_named(prepared):
    for image in (prepared / "images/40x").rglob("*.png"):
        image.unlink()
    with pytest.raises(ValueError, match=r"images/40x/a/patient0_0-.* is damaged \(no such file"):
        module(prepared)


def test_a_folder_as_it_is_and_a_prepared_one_are_not_taken_for_each_other(made):
    settings = {"magnification": "40x", "image_size": 16, "batch_size": 4, "cache_dir": "unused"}
    with pytest.raises(ValueError, match=r"was prepared by mbgan.prepare; use it with data=prepar"):
        FolderDataModule(
            held_out=0.2, patient_pattern=None, split_seed=0, root=made / "out", **settings
        ).setup()
    with pytest.raises(FileNotFoundError, match=r"make one: python -m mbgan.prepare data.root="):
        PreparedDataModule(root=made / "images", **settings).setup()


def test_conditions_are_named_and_each_image_has_the_number_of_its_own(prepared):
    data = module(prepared, condition="class")
    assert data.conditions == ["a", "b"]
    for rows, files in ((data.train, data.train_files), (data.test, data.test_files)):
        assert [data.conditions[i] for i in rows.conditions] == [f.label for f in files]
    assert module(prepared).conditions == []


def test_an_image_in_the_stream_keeps_its_condition(prepared):
    """Turned or not, an image's pixels sum to the same."""
    data = module(prepared, condition="class")
    own = {x.sum(): y for x, y in zip(data.train[:], data.train.conditions, strict=True)}
    images, numbers = data.stream(batch_size=2 * len(data.train)).batch(3)
    assert [own[x.sum().item()] for x in images] == numbers.tolist()


def test_an_image_of_no_known_class_is_left_out_where_classes_are_told_apart(prepared):
    files = {f.name for f in module(prepared).train_files + module(prepared).test_files}
    data = module(prepared, condition="class")
    known = {f.name for f in data.train_files + data.test_files}
    assert files - known <= {"40x/a/patient0_0.png"}
    assert len(data.train) + len(data.held_out) + len(data.test) == 23


def images(tmp_path, **counts):
    """A folder with so many images of each class, at 40x and at 100x."""
    for label, n in counts.items():
        for i in range(n):
            put(tmp_path / "images", f"{('40x', '100x')[i % 2]}/{label}/{i}.png", field(i))
    return tmp_path / "images"


def plain(root, **changes):
    settings = {
        "magnification": "40x",
        "image_size": 16,
        "batch_size": 4,
        "cache_dir": root.parent / "cache",
        "held_out": 0.4,
        "patient_pattern": None,
        "split_seed": 0,
    }
    data = FolderDataModule(root=root, **settings | changes)
    data.setup()
    return data


@pytest.mark.parametrize("split_seed", range(5))
def test_the_only_image_of_a_class_trains(tmp_path, split_seed):
    data = plain(images(tmp_path, a=20, rare=1), condition="class", split_seed=split_seed)
    assert data.conditions == ["a", "rare"]
    assert np.bincount(data.train.conditions).tolist() == [len(data.train) - 1, 1]


def test_two_images_train_and_it_is_said_what_to_expect(tmp_path, caplog):
    data = plain(images(tmp_path, a=8), n_train=2)
    assert len(data.train) == 2
    assert "2 training images: expect copies of them" in caplog.text
    caplog.clear()
    plain(images(tmp_path, b=60), n_train=20)
    assert "expect" not in caplog.text


def test_magnifications_train_together_if_they_are_told_apart(tmp_path):
    root = images(tmp_path, a=12, b=8)
    data = plain(root, magnification="40x+100x", condition="magnification")
    assert data.conditions == ["100x", "40x"]
    assert len(data.train) + len(data.held_out) == 20
    both = plain(root, magnification="40x+100x", condition="both")
    assert both.conditions == ["100x/a", "100x/b", "40x/a", "40x/b"]
    for condition in ("none", "class"):
        with pytest.raises(ValueError, match=r"several magnifications \(40x\+100x\) need"):
            plain(root, magnification="40x+100x", condition=condition)
    with pytest.raises(FileNotFoundError, match="no images of magnification '10x'"):
        plain(root, magnification="40x+10x", condition="magnification")


def test_prepared_magnifications_train_together(prepared):
    with pytest.raises(FileNotFoundError, match="no images of magnification '10x'"):
        module(prepared, magnification="10x+40x", condition="magnification")
    edit(prepared, split=lambda t: t["split"].where(t["magnification"] != "100x", "train"))
    data = module(prepared, magnification="40x+100x", condition="magnification")
    assert data.conditions == ["100x", "40x"]
    assert len(data.train) + len(data.held_out) + len(data.test) == 25


def test_nothing_to_tell_apart_is_refused_with_the_way_out(tmp_path):
    root = images(tmp_path, a=12)
    with pytest.raises(ValueError, match=r"needs at least 2 to tell apart .*, got a; use model"):
        plain(root, condition="class")
    with pytest.raises(ValueError, match="must be one of none, class, magnification, both, got 'x"):
        plain(root, condition="x")
    for i in range(4):
        put(tmp_path / "flat", f"40x/{i}.png", field(i))
    with pytest.raises(ValueError, match=r"needs images whose class is known, got none in .*flat"):
        plain(tmp_path / "flat", condition="class")


def test_a_class_that_nobody_trains_on_is_left_out_and_named(prepared, caplog):
    names = {f.name for f in module(prepared).test_files[:2]}
    edit(prepared, **{"class": lambda t: t["class"].where(~t["name"].isin(names), "other")})
    data = module(prepared, condition="class")
    assert data.conditions == ["a", "b"]
    assert not names & {f.name for f in data.test_files}
    assert len(data.test) == len(data.test_files) == len(module(prepared).test_files) - 2
    assert "left out, as none of them trains: other" in caplog.text


def test_workers_are_at_most_the_cores(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("mbgan.data.datamodule.cpu_count", lambda: 3)
    root = images(tmp_path, a=60)
    assert plain(root, num_workers=3).num_workers == 3
    assert "cores" not in caplog.text
    assert plain(root, num_workers=8).num_workers == 3
    assert "data.num_workers=8 is more than the cores: using 3" in caplog.text
