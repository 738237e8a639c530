"""The drawn data set: reproducible, laid out like the paper's, and true to its list of nuclei."""

import json
import logging
from collections import defaultdict

import numpy as np
import pytest
from PIL import Image

from mbgan.data import phantom, phantom_tissue
from mbgan.data.phantom import COUNTS, PATIENTS, draw_image, phantom_dir, plan, read_truth, transmit
from mbgan.data.phantom_cells import CELL, KINDS, SIDE, measure, outlines, thin


def ellipse(x, y, a, b, angle):
    """Return one cell of a single ellipse, lengths in um."""
    cell = np.zeros(1, CELL)
    for name, value in zip(("x", "y", "a", "b", "angle"), (x, y, a, b, angle), strict=True):
        cell[name] = value
    cell["reach"], cell["kind"] = np.sqrt(a * b), "tumor"
    return cell


FLAT = (np.zeros((SIDE, SIDE), np.float32),) * 2


def hematoxylin_of(picture):
    """Deconvolve a picture with the stain vectors of Ruifrok & Johnston 2001."""
    density = -np.log((picture.astype(float) + 1) / 256)
    return density @ np.linalg.pinv(phantom.RUIFROK)[:, 0]


def test_beer_lambert_of_a_known_concentration_is_exact():
    """Two of hematoxylin and one of eosin dim green light by exp(-(2 * od_H + od_E))."""
    c_h, c_e = np.full((1, 1), 2.0, np.float32), np.full((1, 1), 1.0, np.float32)
    light = np.array([200.0, 240.0, 250.0])
    stains = np.array([[0.65, 0.704, 0.286], [0.072, 0.99, 0.105]])
    expected = [200 * np.exp(-1.372), 240 * np.exp(-2.398), 250 * np.exp(-0.677)]
    np.testing.assert_allclose(transmit(c_h, c_e, stains, light)[0, 0], expected, rtol=1e-5)


def test_clear_glass_transmits_all_light():
    nothing = np.zeros((2, 2), np.float32)
    light = np.array([240.0, 230.0, 250.0])
    picture = transmit(nothing, nothing, phantom.RUIFROK, light)
    np.testing.assert_allclose(picture, np.broadcast_to(light, (2, 2, 3)))


def test_outlines_of_a_circle_are_distances_to_it():
    """A circle of 20 um: the center is 20 um inside, a point 23 um off is 3 um outside."""
    first, second, who = outlines(ellipse(256, 256, 20, 20, 0), 1.0, 6.0, FLAT)
    np.testing.assert_allclose(first[256, [256, 266, 276, 279]], [-20, -10, 0, 3], atol=2e-3)
    assert who[256, 256] == 0
    assert who[10, 10] == -1
    assert (second > 100).all()


def test_truth_of_a_lone_ellipse_is_the_ellipse():
    """Moments of the visible pixels give back what was asked for, in pixels of the picture."""
    cell = ellipse(200, 300, 40, 24, 0.5)  # um; at 1 um per canvas pixel 2 um per picture pixel
    first, _, who = outlines(cell, 1.0, 6.0, FLAT)
    (nucleus,) = measure(cell, np.where(first < 0, who, -1), 2.0)
    found = nucleus.x, nucleus.y, nucleus.a, nucleus.b, nucleus.angle
    np.testing.assert_allclose(found, (99.75, 149.75, 20, 12, 0.5), rtol=0.01, atol=0.02)
    assert nucleus.area == pytest.approx(np.pi * 20 * 12, rel=0.01)


def test_hidden_remnants_are_not_listed():
    label = np.full((SIDE, SIDE), -1)
    label[5, 5:8] = 0  # 3 canvas pixels are 0.75 px^2
    assert measure(ellipse(5, 5, 3, 3, 0), label, 1.0) == []


def test_nuclei_at_the_border_are_marked_as_cut():
    """Their ellipse is that of a part: size statistics may want to leave them out."""
    cells = np.concatenate([ellipse(5, 200, 20, 20, 0), ellipse(200, 200, 20, 20, 0)])
    first, _, who = outlines(cells, 1.0, 6.0, FLAT)
    at_border, whole = measure(cells, np.where(first < 0, who, -1), 2.0)
    assert (at_border.cut, whole.cut) == (True, False)
    assert at_border.area < 0.7 * whole.area


def test_thin_keeps_the_earlier_of_two_that_press():
    """Placed cells come first in the list: a sheet must give way to a vessel, never the reverse."""
    cells = np.concatenate([ellipse(x, 50, 4, 4, 0) for x in (50, 55, 60, 90)])
    assert thin(cells)["x"].tolist() == [50, 60, 90]  # 60 stays: its only rival went


@pytest.mark.parametrize("magnification", ["10x", "100x"])
def test_same_seed_same_picture_and_another_seed_another(magnification):
    """Runs on different machines must be able to speak of the same data."""
    first, nuclei = draw_image(magnification, "classic", 1, 3, seed=5)
    again, nuclei_again = draw_image(magnification, "classic", 1, 3, seed=5)
    assert first.shape == (256, 256, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, again)
    assert nuclei == nuclei_again
    assert not np.array_equal(first, draw_image(magnification, "classic", 1, 3, seed=6)[0])
    assert not np.array_equal(first, draw_image(magnification, "classic", 1, 4, seed=5)[0])


def test_seed_changes_the_tissue_and_not_only_its_stain(monkeypatch):
    slide = phantom._slide(1, seed=5)
    monkeypatch.setattr(phantom, "_slide", lambda patient, seed: slide)
    nuclei = [draw_image("100x", "classic", 1, 3, seed)[1] for seed in (5, 5, 6)]
    assert nuclei[0] == nuclei[1]
    assert nuclei[0] != nuclei[2]


def test_slides_differ_between_patients_and_seeds():
    """Stain is what a classifier may cheat by: it must go with the patient."""
    slides = [phantom._slide(patient, seed) for patient in (1, 2) for seed in (0, 1)]
    assert len({s.stains.tobytes() for s in slides}) == 4
    assert len({s.light.tobytes() for s in slides}) == 4
    assert np.array_equal(phantom._slide(1, 0).stains, phantom._slide(1, 0).stains)


def test_set_has_the_same_bytes_on_any_number_of_cores(tmp_path, monkeypatch):
    counts = {"10x": 3, "100x": 2}
    sets = []
    for cores in (1, 3):
        monkeypatch.setattr(phantom.os, "cpu_count", lambda cores=cores: cores)
        root = phantom_dir(tmp_path / str(cores), seed=1, counts=counts)
        files = sorted(p for p in root.rglob("*") if p.is_file())
        sets.append({str(p.relative_to(root)): p.read_bytes() for p in files})
    assert sets[0] == sets[1]
    assert len(sets[0]) == 10  # a picture and its truth each


def test_plan_is_the_papers():
    """11 patients, one class each, at both magnifications; 202 and 153 pictures."""
    jobs = plan()
    classes, places = defaultdict(set), defaultdict(set)
    for job in jobs:
        classes[job.patient].add(job.label)
        places[job.patient].add(job.magnification)
    assert {m: sum(j.magnification == m for j in jobs) for m in COUNTS} == {"10x": 202, "100x": 153}
    assert len(classes) == 11
    assert all(len(c) == 1 for c in classes.values())
    assert all(p == set(COUNTS) for p in places.values())
    assert len({j.path for j in jobs}) == len(jobs)


def test_every_class_has_patients_to_split():
    """A class of one patient cannot be in train and test both."""
    labels = list(PATIENTS.values())
    assert set(labels) == set(phantom.CLASSES)
    assert all(labels.count(c) >= 2 for c in phantom.CLASSES)


def test_five_pictures_already_show_five_classes():
    assert {j.label for j in plan({"10x": 5})} == set(phantom.CLASSES)


@pytest.mark.parametrize("label", phantom.CLASSES)
@pytest.mark.parametrize("magnification", ["10x", "100x"])
def test_listed_nuclei_are_in_the_picture_and_bluer_than_what_surrounds_them(magnification, label):
    """Morphology scores are checked against this list: it must describe what is to be seen."""
    patient = next(p for p, c in PATIENTS.items() if c == label)
    picture, nuclei = draw_image(magnification, label, patient, 0, seed=0)
    blue = hematoxylin_of(picture)
    y, x = np.mgrid[:256, :256]
    covered = np.zeros((256, 256), bool)
    centers = []
    for n in nuclei:
        assert 0 <= n.x <= 255
        assert 0 <= n.y <= 255
        assert n.a >= n.b > 0
        assert n.kind in KINDS
        i, j = (slice(max(int(v - n.a), 0), int(v + n.a) + 2) for v in (n.y, n.x))
        dx, dy = x[i, j] - n.x, y[i, j] - n.y
        u = dx * np.cos(n.angle) + dy * np.sin(n.angle)
        v = dy * np.cos(n.angle) - dx * np.sin(n.angle)
        covered[i, j] |= (u / n.a) ** 2 + (v / n.b) ** 2 < 1
        centers.append(blue[round(n.y), round(n.x)])
    share = np.mean(np.array(centers) > blue[~covered].mean())
    assert share > 0.95, f"only {share:.0%} of {len(nuclei)} nuclei are bluer than the background"
    assert sum(n.area for n in nuclei) == pytest.approx(
        sum(np.pi * n.a * n.b for n in nuclei), rel=0.06
    )
    # What is blue in the picture is what the list says, within its blur.
    split = (blue[covered].mean() + blue[~covered].mean()) / 2
    assert (blue > split).mean() == pytest.approx(covered.mean(), rel=0.2, abs=0.02)


def test_large_cell_nuclei_are_larger_than_classic_ones():
    """Pathologists tell the classes apart by it, so the truth's numbers must."""
    median = {}
    for label, kind, patient in [("classic", "tumor", 1), ("large_cell", "large", 4)]:
        _, nuclei = draw_image("10x", label, patient, 0, seed=0)
        median[label] = np.median([n.area for n in nuclei if n.kind == kind])
    assert median["large_cell"] > 1.6 * median["classic"]


def test_set_is_drawn_once_with_its_truth_beside_it(tmp_path, caplog):
    """A second run must not wait again, and a folder reader must find pictures only."""
    with caplog.at_level(logging.INFO):
        root = phantom_dir(tmp_path, counts={"100x": 2})
        written = {p: p.stat().st_mtime_ns for p in root.rglob("*")}
        assert phantom_dir(str(tmp_path), counts={"100x": 2}) == root
    assert {p: p.stat().st_mtime_ns for p in root.rglob("*")} == written
    assert caplog.text.count("drawing the phantom data set: 2 images into") == 1
    image = root / "100x" / "classic" / "patient01_0000.jpg"
    with Image.open(image) as opened:
        assert opened.size == (256, 256)
    assert read_truth(image) == draw_image("100x", "classic", 1, 0, seed=0)[1]
    suffixes = {p.suffix for p in root.rglob("*") if p.is_file()}
    assert suffixes == {".jpg", ".json"}


def test_seeds_and_counts_have_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr(phantom, "_save", lambda job, seed, root: None)
    roots = {
        phantom_dir(tmp_path, seed, counts)
        for seed, counts in [(0, {"10x": 1}), (1, {"10x": 1}), (0, {"10x": 2}), (0, {"100x": 1})]
    }
    assert len(roots) == 4


def test_interrupted_drawing_leaves_nothing_behind(tmp_path, monkeypatch):
    """Half a data set under the final name would be trained on as if it were whole."""
    save, done = phantom._save, []

    def interrupted(job, seed, root):
        if done:
            raise KeyboardInterrupt
        done.append(job)
        save(job, seed, root)

    monkeypatch.setattr(phantom, "_save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        phantom_dir(tmp_path, counts={"100x": 3})
    assert list(tmp_path.iterdir()) == []


def test_loser_of_a_race_takes_the_winners_set(tmp_path, monkeypatch):
    """Two processes that draw at once must both end well, with one set and no leftovers."""
    save = phantom._save
    name = phantom_dir(tmp_path / "name", counts={"100x": 1}).name

    def overtaken(job, seed, root):
        save(job, seed, root)
        (tmp_path / name).mkdir()
        (tmp_path / name / "winner").touch()

    monkeypatch.setattr(phantom, "_save", overtaken)
    root = phantom_dir(tmp_path, counts={"100x": 1})
    assert [p.name for p in root.iterdir()] == ["winner"]
    assert {p.name for p in tmp_path.iterdir()} == {"name", name}


def test_truth_is_a_table_of_columns(tmp_path):
    """Other tools read it without mbgan: pandas.DataFrame(json.load(...)) is the table."""
    root = phantom_dir(tmp_path, counts={"100x": 1})
    table = json.loads((root / "truth/100x/classic/patient01_0000.json").read_text())
    assert list(table) == ["x", "y", "a", "b", "angle", "area", "kind", "cut"]
    assert {len(column) for column in table.values()} == {len(table["x"])}


def test_unknown_magnification_says_which_there_are(tmp_path):
    with pytest.raises(ValueError, match=r"magnification must be '10x' or '100x' .* got '40x'"):
        draw_image("40x", "classic", 1, 0, seed=0)
    with pytest.raises(ValueError, match=r"got '400x'; images of your own \(data=folder\)"):
        phantom_dir(tmp_path, counts={"400x": 3})


def test_unknown_label_says_which_there_are():
    with pytest.raises(ValueError, match=r"label must be one of normal, .* got 'anaplastic'"):
        draw_image("10x", "anaplastic", 1, 0, seed=0)


def test_counts_below_one_are_rejected_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match=r"counts must be at least 1, got 0 for '10x'; leave"):
        phantom_dir(tmp_path / "cache", counts={"10x": 0})
    assert not (tmp_path / "cache").exists()


def test_scale_gives_nuclei_their_size_in_pixels():
    """A nucleus of 8 um: 3-5 px across at 10x, 25-40 px across at 100x."""
    for magnification, low, high in [("10x", 3, 5), ("100x", 25, 40)]:
        across = 2 * KINDS["tumor"].radius / phantom_tissue.UM_PER_PIXEL[magnification]
        assert low < across < high
