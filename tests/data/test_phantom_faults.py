"""Planted faults: each is what its name says, listed, and the only one of its file."""

import re
from collections import Counter

import numpy as np
import pytest
from PIL import Image, UnidentifiedImageError

from mbgan.data import phantom, phantom_faults
from mbgan.data.phantom import phantom_dir
from mbgan.data.phantom_faults import ADDED, COPIED, SPOILED, Fault, plant_faults, pose, read_faults

SIDE, EACH, MAGNIFICATIONS = 64, 2, ("10x", "100x")
KINDS = [*SPOILED, *ADDED, *COPIED, "same_bytes", "mislabeled"]
WITH_SOURCE = [*COPIED, "same_bytes", "mislabeled"]


def draw(root, pictures=36, classes=("classic", "normal", "nodular")):
    """Write a set of small purple pictures in the layout of `phantom_dir`."""
    rng = np.random.default_rng(0)
    for magnification in MAGNIFICATIONS:
        for i in range(pictures):
            label = classes[i % len(classes)]
            name = f"{magnification}/{label}/patient{i % len(classes) + 1:02d}_{i:04d}"
            for path in (root / name, root / "truth" / name):
                path.parent.mkdir(parents=True, exist_ok=True)
            tissue = rng.uniform(60, 190, (SIDE // 8, SIDE // 8, 1)) * [1.0, 0.6, 1.2]
            picture = Image.fromarray(tissue.astype(np.uint8)).resize((SIDE, SIDE))
            picture.save(root / f"{name}.jpg", quality=93, subsampling=0)
            (root / "truth" / f"{name}.json").write_text("{}")
    return root


def content(root):
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*.[jp][pn]g")}


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    return draw(tmp_path_factory.mktemp("clean"))


@pytest.fixture(scope="module")
def faulty(tmp_path_factory, clean):
    out = tmp_path_factory.mktemp("out") / "faulty"
    plant_faults(clean, out, seed=1, each=EACH)
    return out


@pytest.fixture
def of(clean, faulty):
    """Return the pixels of each planted picture of a kind, and of the picture it comes from."""

    def pairs(kind):
        faults = [f for f in read_faults(faulty) if f.fault == kind]
        assert len(faults) == EACH * len(MAGNIFICATIONS)
        return [
            tuple(
                np.asarray(Image.open(p)) for p in (faulty / f.name, clean / (f.source or f.name))
            )
            for f in faults
        ]

    return pairs


def test_every_file_is_a_clean_picture_or_a_listed_fault(clean, faulty):
    """Precision and recall of checks are counted by this list."""
    before, after = content(clean), content(faulty)
    faults = {f.name for f in read_faults(faulty)}
    assert set(after) == set(before) | faults
    assert {name for name in after if after[name] != before.get(name)} == faults
    kept = {
        p.relative_to(faulty / "truth").with_suffix(".jpg").as_posix()
        for p in (faulty / "truth").rglob("patient*.json")
    }
    assert kept == {name for name in before if name not in faults}


def test_each_fault_is_planted_as_often_as_asked_at_each_magnification(faulty):
    counts = Counter((f.name.split("/")[0], f.fault) for f in read_faults(faulty))
    assert counts == dict.fromkeys([(m, k) for m in MAGNIFICATIONS for k in KINDS], EACH)


def test_no_picture_serves_twice(faulty):
    """A blurred picture of which there is a copy would be a duplicate that nobody listed."""
    faults = read_faults(faulty)
    sources = [f.source for f in faults if f.source]
    assert {f.fault for f in faults if f.source} == set(WITH_SOURCE)
    assert len(set(sources)) == len(sources)
    assert not set(sources) & {f.name for f in faults}


def test_names_do_not_give_the_fault_away(faulty):
    for fault in read_faults(faulty):
        assert re.fullmatch(r"100?x/\w+/patient\d\d_\d{4}\.(jpg|png)", fault.name)
        if fault.source:  # copies are of the same patient
            assert fault.name.rsplit("/")[-1][:9] == fault.source.rsplit("/")[-1][:9]


def test_same_seed_same_bytes_and_another_seed_others(clean, faulty, tmp_path):
    for seed in (1, 2):
        plant_faults(clean, tmp_path / str(seed), seed, EACH)
    assert content(tmp_path / "1") == content(faulty)
    assert read_faults(tmp_path / "1") == read_faults(faulty)
    assert read_faults(tmp_path / "2") != read_faults(faulty)


@pytest.mark.parametrize(
    ("kind", "low", "high"),
    [
        ("gaussian_blur", 1 / (4 * np.pi * 4**2), 1 / (4 * np.pi * 2**2)),
        ("defocus", 1 / (np.pi * 7**2), 1 / (np.pi * 4**2)),
        ("motion_blur", 2 / (3 * 17), 1 / 10),
    ],
)
def test_blur_lowers_the_variance_of_noise_by_its_kernels_power(kind, low, high):
    """White noise through a kernel keeps the share sum(k^2): 1 / (4 pi sigma^2) of a Gaussian, 1 /
    area of a disk; of a line 1 / length, or 2 / 3 of it where it runs between the pixels."""
    noise = np.random.default_rng(0).normal(128, 40, (128, 128, 3)).astype(np.float32)
    for seed in range(10):
        blurred = SPOILED[kind](noise, np.random.default_rng(seed)).astype(float)
        variance = blurred.var() - (0.012 * 128 + 0.6) - 1 / 12  # less the sensor's, and rounding
        assert 0.85 * low < variance / 40**2 < 1.15 * high
        assert blurred.mean() == pytest.approx(128, abs=0.5)


def test_motion_blurs_along_one_direction_only():
    """Of stripes in all directions some stay: those along the motion."""
    y, x = np.mgrid[:64, :64]
    for seed in range(5):
        kept = []
        for t in np.arange(0, np.pi, np.pi / 12):
            wave = 128 + 60 * np.sin(2 * np.pi / 6 * (x * np.cos(t) + y * np.sin(t)))
            light = wave[..., None].repeat(3, 2).astype(np.float32)
            blurred = SPOILED["motion_blur"](light, np.random.default_rng(seed))
            kept.append(blurred[16:48, 16:48].std() / light.std())
        assert max(kept) > 0.75
        assert min(kept) < 0.25


def test_exposure_scales_all_channels_and_clips(of):
    for spoiled, before in of("underexposed"):
        ratio = spoiled.mean((0, 1)) / before.mean((0, 1))
        assert ((ratio > 0.19) & (ratio < 0.36)).all()
        np.testing.assert_allclose(ratio, ratio[0], rtol=0.05)
    for spoiled, before in of("overexposed"):
        green = spoiled[..., 1].mean() / before[..., 1].mean()  # no green here is above 114
        assert 1.68 < green < 2.22
        assert (spoiled[before > 160] > 240).all()


def test_swapped_pictures_have_red_for_blue(of):
    for spoiled, before in of("red_blue_swapped"):
        np.testing.assert_allclose(spoiled[..., ::-1].astype(int), before, atol=12)


def test_gray_pictures_have_no_color_in_one_channel_or_three(of):
    pictures = [spoiled for spoiled, _ in of("grayscale")]
    assert {p.ndim for p in pictures} == {2, 3}
    for picture in pictures:
        assert picture.ndim == 2 or (picture == picture[..., :1]).all()


def test_pen_covers_a_part_with_a_color_that_lacks_another(of):
    for spoiled, _ in of("pen"):
        covered = (spoiled.min(2) < 12) & (spoiled.max(2) > 3 * spoiled.min(2).clip(6))
        assert 0.05 < covered.mean() < 0.6


def test_oversaturation_clips_channels_and_keeps_gray_as_it_is(of):
    for spoiled, before in of("oversaturated"):
        assert np.mean((spoiled == 0) | (spoiled == 255)) > np.mean((before == 0) | (before == 255))
    gray = np.full((4, 4, 3), 90, np.float32)
    assert (SPOILED["oversaturated"](gray, np.random.default_rng(0)) == 90).all()


def test_small_pictures_are_32_pixels_a_side_and_averaged(of):
    for small, before in of("low_resolution"):
        assert small.shape == (32, 32, 3)
        boxes = before.reshape(32, SIDE // 32, 32, SIDE // 32, 3).mean((1, 3))
        np.testing.assert_allclose(small, boxes, atol=12)  # JPEG


def test_blank_pictures_are_bright_and_nearly_even_but_not_of_one_level(faulty):
    blanks = [
        np.asarray(Image.open(faulty / f.name)) for f in read_faults(faulty) if f.fault == "blank"
    ]
    for blank in blanks:
        assert (np.median(blank, (0, 1)) > 225).all()
        assert np.mean(abs(blank - np.median(blank, (0, 1))) < 10) > 0.85
        # Grain between neighbors, of about 2 levels; JPEG takes some.
        assert np.median(abs(np.diff(blank.mean(2), axis=1))) > 0.5


def test_broken_files_cannot_be_decoded(faulty):
    errors = {"truncated": OSError, "empty": UnidentifiedImageError, "text": UnidentifiedImageError}
    for fault in read_faults(faulty):
        if fault.fault in errors:
            with pytest.raises(errors[fault.fault]):
                Image.open(faulty / fault.name).load()
    sizes = {f.fault: (faulty / f.name).stat().st_size for f in read_faults(faulty)}
    assert sizes["empty"] == 0 < sizes["truncated"]


def test_the_eight_poses_are_all_there_are():
    """The group of the square has eight elements; each pose is undone by one of them."""
    picture = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    poses = {pose(picture, i).tobytes() for i in range(8)}
    assert len(poses) == 8
    assert pose(picture, 0).tobytes() == picture.tobytes()
    for i in range(8):
        assert {pose(pose(picture, i), j).tobytes() for j in range(8)} == poses


def test_lossless_copies_have_the_same_pixels_in_the_pose_that_is_claimed(clean, faulty, of):
    files = {
        f.fault: ((faulty / f.name).read_bytes(), (clean / f.source).read_bytes())
        for f in read_faults(faulty)
        if f.source
    }
    assert files["same_bytes"][0] == files["same_bytes"][1]
    assert files["same_pixels"][0] != files["same_pixels"][1]
    for copy, source in of("same_pixels"):
        assert np.array_equal(copy, source)
    for copy, source in of("turned"):
        assert not np.array_equal(copy, source)
        assert any(np.array_equal(copy, pose(source, i)) for i in range(1, 8))


def test_recompressed_copies_differ_by_little(of):
    for copy, source in of("recompressed"):
        difference = abs(copy.astype(float) - source).mean()
        assert 0 < difference < 12


def test_cropped_copies_lack_2_to_6_pixels_a_side():
    """A ramp of 2 levels a pixel that loses l + r of 100 pixels rises by 2 - (l + r) / 50."""
    ramp = np.arange(100)[None, :, None].repeat(100, 0).repeat(3, 2)
    cuts = set()
    for seed in range(40):
        cut = phantom_faults._crop((2 * ramp).astype(np.uint8), np.random.default_rng(seed))
        row = cut[50, :, 0].astype(float)
        slope = (row[90] - row[10]) / 80
        left = row[50] / 2 - 50.5 * slope / 2 + 0.5
        right = 100 * (1 - slope / 2) - left
        cuts |= {round(left), round(right)}
        assert cut.shape == ramp.shape
    assert cuts == {2, 3, 4, 5, 6}


def test_cropped_copies_are_larger_parts_of_the_same_size(of):
    for copy, source in of("cropped"):
        assert copy.shape == source.shape
        assert 1 < abs(copy.astype(float) - source).mean() < source.std()


def test_reworked_copies_are_turned_and_cropped(of):
    for copy, source in of("reworked"):
        near = [abs(pose(source, i).astype(float) - copy).mean() for i in range(8)]
        assert np.argmin(near) != 0
        assert min(near) < 0.8 * near[0]


def test_mislabeled_files_are_the_same_file_under_another_class(clean, faulty):
    for fault in read_faults(faulty):
        if fault.fault == "mislabeled":
            magnification, label, name = fault.name.split("/")
            assert fault.source.split("/")[::2] == [magnification, name]
            assert fault.source.split("/")[1] != label
            assert (faulty / fault.name).read_bytes() == (clean / fault.source).read_bytes()


def test_phantom_is_drawn_with_faults_on_request(tmp_path, monkeypatch):
    """Clean pictures and faults come from one seed, and have folders of their own."""

    def save(job, seed, root):
        for path in (root / job.path, root / "truth" / job.path):
            path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (SIDE, SIDE), (job.number, job.patient, 99)).save(
            root / job.path.with_suffix(".jpg")
        )
        (root / "truth" / job.path.with_suffix(".json")).write_text("{}")

    monkeypatch.setattr(phantom, "_save", save)
    monkeypatch.setattr(phantom.os, "cpu_count", lambda: 1)
    root = phantom_dir(tmp_path, seed=3, counts={"10x": 20}, faults=1)
    drawn = phantom_dir(tmp_path, seed=3, counts={"10x": 20})
    assert {p.name for p in tmp_path.iterdir()} == {root.name, drawn.name}
    assert len(content(drawn)) == 20
    plant_faults(drawn, tmp_path / "again", seed=3, each=1)
    assert content(root) == content(tmp_path / "again")
    assert phantom_dir(tmp_path, seed=3, counts={"10x": 20}, faults=1) == root


def test_a_folder_with_something_in_it_is_not_written_to(clean, tmp_path):
    (tmp_path / "mine.txt").touch()
    with pytest.raises(FileExistsError, match="out must be an empty folder or a new one, got"):
        plant_faults(clean, tmp_path, seed=0, each=1)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_too_few_pictures_or_classes_are_refused_before_anything_is_written(clean, tmp_path):
    with pytest.raises(ValueError, match="each must be at least 1, got 0"):
        plant_faults(clean, tmp_path / "out", seed=0, each=0)
    with pytest.raises(ValueError, match=r"each=3 needs at least 51 pictures .* got 36 at 100?x"):
        plant_faults(clean, tmp_path / "out", seed=0, each=3)
    one = draw(tmp_path / "one", pictures=20, classes=("classic",))
    with pytest.raises(ValueError, match="2 classes or more"):
        plant_faults(one, tmp_path / "out", seed=0, each=1)
    assert not (tmp_path / "out").exists()


def test_truth_is_a_table_of_columns(faulty):
    """Other tools read it without mbgan, as they do the nuclei."""
    faults = read_faults(faulty)
    assert faults == sorted(faults)
    assert list(Fault._fields) == ["name", "fault", "source"]
