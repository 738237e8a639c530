"""Splits: seeded, exact, by class, and never a patient on both sides."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from mbgan.data.folder import ImageFile, find_images
from mbgan.data.splits import split

SHARED = Path(__file__).parents[3] / "shared/data"  # beside the checkout


def image(i, label="a", patient=None):
    return ImageFile(Path(f"/{i:04}.png"), f"{i:04}.png", "10x", label, patient)


def unknown(**counts):
    """Images of classes by count, without patients."""
    labels = [label for label, n in counts.items() for _ in range(n)]
    return [image(i, label) for i, label in enumerate(labels)]


def known(n=120, patients=12, classes=3):
    """Images of patients of one class each, all of equal count."""
    of = [i * patients // n for i in range(n)]
    return [image(i, "abc"[p * classes // patients], str(p)) for i, p in enumerate(of)]


def names(files, indices):
    return {files[i].name for i in indices}


def labels(files, indices):
    return Counter(files[i].label for i in indices)


def patients(files, indices):
    return {files[i].patient for i in indices if files[i].patient}


MIXED = [image(i, "ab"[i % 2], str(i % 7) if i % 3 else None) for i in range(90)]
FOLDERS = {
    "unknown": unknown(a=60, b=30, c=10),
    "known": known(),
    "mixed": MIXED,
    "one": known(patients=1),
}


@pytest.mark.parametrize("files", FOLDERS.values(), ids=FOLDERS)
@pytest.mark.parametrize("n_train", [None, 20])
def test_splits_do_not_depend_on_file_order(files, n_train):
    """Another disk lists files in another order; the same names must train."""
    train, held = split(files, 0.2, 0, n_train)
    turned = [files[i] for i in np.random.default_rng(1).permutation(len(files))]
    train_2, held_2 = split(turned, 0.2, 0, n_train)
    assert names(files, train) == names(turned, train_2)
    assert names(files, held) == names(turned, held_2)
    for side in (train, held, train_2, held_2):
        assert side.dtype == np.int64
        assert (np.diff(side) > 0).all()


@pytest.mark.parametrize("files", FOLDERS.values(), ids=FOLDERS)
def test_the_seed_alone_decides(files):
    first, again, other = (split(files, 0.2, seed)[1].tolist() for seed in (0, 0, 1))
    assert first == again
    assert first != other


@pytest.mark.parametrize("held_out", [0.05, 0.2, 0.35, 0.5, 0.8, 0.95])
@pytest.mark.parametrize("files", FOLDERS.values(), ids=FOLDERS)
def test_no_image_and_no_patient_is_on_both_sides(files, held_out):
    train, held = split(files, held_out, 0)
    assert sorted([*train, *held]) == list(range(len(files)))
    if files is not FOLDERS["one"]:
        assert not patients(files, train) & patients(files, held)


@pytest.mark.parametrize("held_out", [0.1, 0.2, 0.25, 0.33, 0.5, 0.67, 0.8])
def test_with_patients_the_share_is_met_as_closely_as_whole_patients_allow(held_out):
    """Twelve patients of ten images: half a patient is the most that can be missing."""
    _, held = split(known(), held_out, 0)
    assert abs(len(held) - 120 * held_out) <= 10


def test_with_patients_classes_keep_their_shares():
    """12 patients, 3 classes, a quarter held out: one patient of each class."""
    files = known()
    for seed in range(5):
        assert labels(files, split(files, 0.25, seed)[1]) == {"a": 10, "b": 10, "c": 10}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("sizes", "held_out", "expected"),
    [([40, 30, 15, 10, 5], 0.2, 15), ([40, 30, 15, 10, 5], 0.8, 85), ([1, 9, 10], 0.1, 9)],
)
def test_of_unequal_patients_the_nearest_to_the_share_is_held_out(sizes, held_out, expected, seed):
    """One image would be nearer to a tenth of 20, but is too few to score by."""
    of = np.repeat(range(len(sizes)), sizes)
    files = [image(i, "a", str(patient)) for i, patient in enumerate(of)]
    assert len(split(files, held_out, seed)[1]) == expected


def test_a_share_that_whole_patients_cannot_give_is_told(caplog):
    """98 images of one patient, 2 of another: a fifth cannot be had."""
    files = [image(i, "a", "big" if i < 98 else "small") for i in range(100)]
    assert len(split(files, 0.2, 0)[1]) == 2
    assert "held out 2 of 100 images, not a share of 0.2" in caplog.text


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("n_train", [None, 10, 33, 98])
def test_without_patients_counts_are_exact_and_classes_keep_their_shares(seed, n_train):
    """All that does not train is held out, and each class is within one image of its share."""
    files = FOLDERS["unknown"]
    train, held = split(files, 0.2, seed, n_train)
    n = n_train or 80
    assert (len(train), len(held)) == (n, 100 - n)
    for label, count in {"a": 60, "b": 30, "c": 10}.items():
        assert abs(labels(files, train)[label] - count * n / 100) <= 1


@pytest.mark.parametrize("name", ["unknown", "known", "mixed"])
def test_smaller_training_sets_are_parts_of_larger_ones(name):
    """Else a curve over n_train would mix the number of images with their luck."""
    files = FOLDERS[name]
    sides = [set(split(files, 0.2, 3, n)[0].tolist()) for n in (5, 20, 50, None)]
    assert [len(side) for side in sides[:3]] == [5, 20, 50]
    assert sides[0] < sides[1] < sides[2] < sides[3]


def test_with_patients_n_train_leaves_the_held_out_side_as_it_is():
    files = known()
    train, held = split(files, 0.25, 0)
    fewer, same = split(files, 0.25, 0, 30)
    assert held.tolist() == same.tolist()
    assert set(fewer) < set(train)
    assert all(9 <= n <= 11 for n in labels(files, fewer).values())  # of three equal classes
    assert len(labels(files, fewer)) == 3


@pytest.mark.parametrize("patient", [False, True])
def test_classes_of_one_image_do_no_harm(patient):
    files = [image(i, f"class{i}", str(i) if patient else None) for i in range(10)]
    train, held = split(files, 0.3, 0)
    assert len(train) + len(held) == 10
    assert 2 <= len(held) <= 4
    split([*unknown(a=20), image(20, "rare", "7" if patient else None)], 0.2, 0)


def test_one_patient_is_split_by_image_with_a_warning(caplog):
    train, held = split(FOLDERS["one"], 0.2, 0)
    assert (len(train), len(held)) == (96, 24)
    assert "all images are of patient 0: split by image" in caplog.text


@pytest.mark.parametrize("held_out", [0, 1, -0.2, 20, float("nan")])
def test_a_share_outside_0_to_1_is_refused(held_out):
    with pytest.raises(ValueError, match=rf"held_out must be in \(0, 1\), got {held_out}"):
        split(unknown(a=10), held_out, 0)


def test_sides_that_are_too_small_are_refused():
    files = unknown(a=10)
    with pytest.raises(ValueError, match="n_train must be at least 1, got 0"):
        split(files, 0.2, 0, 0)
    with pytest.raises(ValueError, match=r"n_train must be at most 8 \(all images but .*, got 9"):
        split(files, 0.2, 0, 9)
    with pytest.raises(ValueError, match=r"n_train must be at most 90 \(.*patients.*, got 91"):
        split(known(), 0.25, 0, 91)
    with pytest.raises(ValueError, match=r"2 held out, got 9 and 1 of 10 at held_out=0.1; change"):
        split(files, 0.1, 0)
    with pytest.raises(ValueError, match="got 0 and 10 of 10"):
        split(files, 0.99, 0)
    with pytest.raises(ValueError, match="got 0 and 0 of 0"):
        split([], 0.2, 0)
    with pytest.raises(ValueError, match="2 held out, got 1 and 1 of 2"):
        split([image(0, "a", "1"), image(1, "a", "2")], 0.5, 0)
    with pytest.raises(ValueError, match="seed of the split must be from 0 to 4294967295, got -1"):
        split(files, 0.2, -1)


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no real images at {SHARED}")
def test_the_papers_202_images_leave_494_real_ones_to_score_by():
    files = find_images(SHARED / "oral-histology", "400x")
    train, held = split(files, 0.2, 0, n_train=202)
    assert (len(train), len(held)) == (202, 494)
    share = labels(files, train)["normal"] / 202
    np.testing.assert_allclose(share, 201 / 696, atol=1 / 202)
