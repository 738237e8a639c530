"""Splits: seeded, exact, by class, and never a patient on both sides."""

from collections import Counter
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest

from mbgan.data.folder import ImageFile, find_images
from mbgan.data.splits import assign, check, folds, merge_groups, split, subset

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


QUARTERS = {"val": 0.25, "test": 0.25}


def prepared(case):
    """Labels, magnifications, groups and names of a random data set, in random order."""
    rng = np.random.default_rng(case)
    n_groups = int(rng.integers(3, 60))
    sizes = rng.integers(1, rng.integers(2, 40), n_groups)
    of = rng.permutation(np.repeat(np.arange(n_groups), sizes))
    diagnosis = rng.integers(0, rng.integers(1, 5), n_groups)  # one a patient
    labels = [f"class{diagnosis[g]}" for g in of]
    magnifications = rng.choice(["10x", "100x"], len(of)).tolist()
    return labels, magnifications, [f"patient {g}" for g in of], [f"{i:04}" for i in range(len(of))]


def shuffled(columns, seed):
    order = np.random.default_rng(seed).permutation(len(columns[0]))
    return [[column[i] for i in order] for column in columns]


def test_images_are_joined_by_patient_duplicate_and_file_in_any_number_of_steps():
    """0 and 1: one patient; 1 and 2: duplicates; 2 and 3: one patient; 5 and 6: tiles of a file."""
    patients = ["10", "10", "9", "9", None, None, None, "1"]
    clusters = [0, 1, 1, 2, 3, 5, 4, 6]
    groups = merge_groups(patients, clusters, [*"abcdeff", "g"])
    both, tiles = "patient 9 + 10", "image cluster 4"
    assert groups == [both, both, both, both, "image cluster 3", tiles, tiles, "patient 1"]
    check(groups, ["train"] * 4 + ["val", "test", "test", "val"])


def test_a_duplicate_of_a_patients_image_belongs_to_the_patient():
    assert merge_groups(["7", None], [4, 4], ["a", "b"]) == ["patient 7"] * 2


def test_unknown_patients_join_nothing():
    """Neither None, nor the NaN that pandas makes of it, nor the -1 of unreadable files."""
    nan = float("nan")
    groups = merge_groups([None, None, nan, nan, "3"], [0, 1, 2, -1, -1], "abcde")
    assert groups == [*(f"image cluster {i}" for i in range(3)), "", "patient 3"]


def test_groups_do_not_depend_on_the_order_of_the_images():
    columns = [["10", "10", "9", None, None], [0, 1, 1, 2, 2], [*"abcde"]]
    first = dict(zip(columns[2], merge_groups(*columns), strict=True))
    for order in permutations(range(5)):
        turned = [[column[i] for i in order] for column in columns]
        assert dict(zip(turned[2], merge_groups(*turned), strict=True)) == first


@pytest.mark.parametrize("case", range(60))
def test_whole_groups_are_assigned_to_sides_by_share(case):
    """A share is missed by less than the largest group, whatever the sizes and the classes."""
    labels, magnifications, groups, names = prepared(case)
    shares = [QUARTERS, {"val": 0.1, "test": 0.2}, {"val": 0, "test": 0.4}][case % 3]
    splits = assign(labels, magnifications, groups, names, shares, case)
    check(groups, splits)
    counts, largest = Counter(splits), max(Counter(groups).values())
    assert set(counts) == {"train", *(side for side in shares if shares[side])}
    for side, share in shares.items():
        assert abs(counts[side] - share * len(labels)) <= largest


def test_without_patients_every_class_and_magnification_has_its_share():
    """Of images alone each cell comes within one image of a quarter."""
    cells = [("a", "10x", 100), ("a", "100x", 50), ("b", "10x", 20), ("b", "100x", 9)]
    labels, magnifications = zip(*[cell[:2] for cell in cells for _ in range(cell[2])], strict=True)
    names = [f"{i:04}" for i in range(len(labels))]
    for seed in range(5):
        splits = assign(labels, magnifications, names, names, QUARTERS, seed)
        counts = Counter(zip(labels, magnifications, splits, strict=True))
        for label, magnification, n in cells:
            for side in ("val", "test"):
                assert abs(counts[label, magnification, side] - n / 4) <= 1


def test_a_rare_class_is_spread_before_a_frequent_one():
    """Three small patients of one class go to three sides, whatever 30 others do to the counts."""
    groups = [f"patient {i}" for i in range(33) for _ in range(3 if i < 3 else 20)]
    labels = ["rare" if i < 9 else "frequent" for i in range(len(groups))]
    names = [f"{i:04}" for i in range(len(groups))]
    for seed in range(20):
        splits = assign(labels, ["10x"] * len(names), groups, names, QUARTERS, seed)
        assert set(splits[:9]) == {"train", "val", "test"}


@pytest.mark.parametrize("case", range(10))
def test_assignment_depends_on_names_and_seed_alone(case):
    """Neither on the order of rows nor on what duplicate clusters happen to be called."""
    columns = prepared(case)
    first = dict(zip(columns[3], assign(*columns, QUARTERS, 0), strict=True))
    turned = shuffled(columns, case)
    renamed = {group: f"image cluster {i}" for i, group in enumerate(dict.fromkeys(turned[2]))}
    turned[2] = [renamed[group] for group in turned[2]]
    assert dict(zip(turned[3], assign(*turned, QUARTERS, 0), strict=True)) == first


def test_seeds_deal_patients_anew_also_where_all_differ_in_size():
    sizes = [51, 40, 33, 19, 21, 7, 9, 5, 14, 49, 40]  # of 11 patients of three classes
    of = np.repeat(np.arange(11), sizes)
    labels, groups = [f"class{i % 3}" for i in of], [f"patient {i}" for i in of]
    names, magnifications = [f"{i:04}" for i in range(len(of))], ["10x"] * len(of)
    splits = {tuple(assign(labels, magnifications, groups, names, QUARTERS, s)) for s in range(10)}
    assert len(splits) >= 4
    repeats = {tuple(np.unique(of[test])) for _, test in folds(labels, groups, 3, 10, 0)}
    assert len(repeats) >= 10  # of 30; scikit-learn's StratifiedGroupKFold deals 6


def test_what_whole_patients_cannot_give_is_told(caplog):
    """Two patients of a class cannot be on three sides; one holds most of the images."""
    groups = ["patient 1"] * 90 + [f"patient {i}" for i in range(2, 6) for _ in range(5)]
    labels = ["a"] * 100 + ["b"] * 10
    names = [f"{i:04}" for i in range(110)]
    splits = assign(labels, ["10x"] * 110, groups, names, QUARTERS, 0)
    lost = ({"train", "val", "test"} - set(splits[100:])).pop()
    assert (
        f"no images of b at 10x in {lost}: to be in train and test and val, a class" in caplog.text
    )
    assert "train holds 90 of 110 images, not a share of 0.5: patients stay whole" in caplog.text


def test_a_side_is_never_empty():
    """Three patients on three sides, though a hundredth of 71 images is not one."""
    groups = [*["patient 1"] * 40, *["patient 2"] * 30, "patient 3"]
    names = [f"{i:04}" for i in range(71)]
    for seed in range(10):
        splits = assign(["a"] * 71, ["10x"] * 71, groups, names, {"val": 0.01, "test": 0.25}, seed)
        assert Counter(splits) == {"train": 40, "test": 30, "val": 1}


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({"val": -0.1, "test": 0.5}, r"each at least 0, got \{'val': -0.1, 'test': 0.5\}"),
        ({"val": float("nan")}, "shares must .*nan"),
        ({"held_out": 0.5}, "shares must be of test and val"),
        ({"val": 0.5, "test": 0.5}, r"shares must leave images to train on, got .*; sum below 1"),
        (QUARTERS, r"train, test, val need at least 3 groups \(.*\), got 2; set the share of val"),
    ],
)
def test_shares_that_cannot_be_had_are_refused(shares, message):
    with pytest.raises(ValueError, match=message):
        assign([*"aaaa"], ["10x"] * 4, ["1", "1", "2", "2"], [*"abcd"], shares, 0)


def test_a_group_on_two_sides_is_refused_and_dropped_images_do_not_count():
    groups = ["patient 7", "patient 7", "image cluster 12", "image cluster 12"]
    check(groups, ["train", "", "test", "test"])
    way_out = "; rebuild the splits with mbgan.prepare"
    with pytest.raises(ValueError, match=f"patient '7' is in both train and test{way_out}"):
        check(groups, ["train", "test", "val", "val"])
    with pytest.raises(ValueError, match=f"image cluster '12' is in both val and train{way_out}"):
        check(groups, ["train", "train", "val", "train"])
    with pytest.raises(ValueError, match=f"be train, test, val or empty, got 'Train'{way_out}"):
        check(groups, ["Train", "", "val", "val"])


@pytest.mark.parametrize("case", range(20))
def test_folds_test_every_image_once_a_repeat_and_never_beside_its_group(case):
    labels, _, groups, _ = prepared(case + 100)
    of_class = [len({g for g, k in zip(groups, labels, strict=True) if k == c}) for c in {*labels}]
    if (n_folds := min(5, *of_class, 5)) < 2:
        labels, n_folds = ["a"] * len(labels), 3
    dealt = list(folds(labels, groups, n_folds, 2, case))
    assert len(dealt) == 2 * n_folds
    for repeat in (dealt[:n_folds], dealt[n_folds:]):
        assert sorted(np.concatenate([test for _, test in repeat])) == list(range(len(labels)))
    for train, test in dealt:
        assert sorted([*train, *test]) == list(range(len(labels)))
        assert not {groups[i] for i in train} & {groups[i] for i in test}
        assert {labels[i] for i in test} == set(labels)  # of patients with one diagnosis each
        assert abs(len(test) - len(labels) / n_folds) <= max(Counter(groups).values())


@pytest.mark.parametrize(
    ("seed", "sizes"),
    [
        (40, [17, 22, 1, 21, 13, 28, 1, 2, 14, 21, 3, 27, 21, 14, 2]),
        (106, [16, 29, 13, 2, 7, 4, 24, 14, 6, 28, 7, 5, 3, 10, 8]),
        (126, [9, 1, 3, 28, 20, 2, 25, 29, 2, 4, 4, 3, 21, 24, 25]),
    ],
)
def test_a_deal_that_leaves_a_class_out_of_a_fold_is_not_the_last(seed, sizes):
    """Five patients a class for five folds; at these seeds the first deal is not good enough."""
    of = np.repeat(np.arange(15), sizes)
    labels = [f"class{i % 3}" for i in of]
    for _, test in folds(labels, [f"{i:02}" for i in of], 5, 1, seed):
        assert len({labels[i] for i in test}) == 3


def test_folds_depend_on_groups_not_on_the_order_of_images():
    columns = prepared(3)
    turned = shuffled(columns, 0)
    for (_, test), (_, test_2) in zip(
        folds(["a"] * len(columns[0]), columns[2], 3, 2, 0),
        folds(["a"] * len(columns[0]), turned[2], 3, 2, 0),
        strict=True,
    ):
        assert {columns[3][i] for i in test} == {turned[3][i] for i in test_2}


@pytest.mark.parametrize(
    ("n_folds", "n_repeats", "message"),
    [
        (1, 1, "n_folds must be at least 2, got 1"),
        (2, 0, "n_repeats must be at least 1, got 0"),
        (3, 1, r"of each class, got 3 where 'rare' has 2; lower n_folds, or leave that class out"),
    ],
)
def test_folds_that_cannot_be_had_are_refused_at_once(n_folds, n_repeats, message):
    """Not when the first is asked for."""
    with pytest.raises(ValueError, match=message):
        folds(["a", "a", "a", "rare", "rare"], [*"12345"], n_folds, n_repeats, 0)


@pytest.mark.parametrize("seed", range(3))
def test_subsets_are_nested_keep_class_shares_and_depend_on_names_alone(seed):
    labels = ["a"] * 60 + ["b"] * 30 + ["c"] * 10
    names_ = [f"{i:04}" for i in range(100)]
    turned_labels, turned = shuffled([labels, names_], 1)
    before = set[str]()
    for n in (1, 10, 50, 51, 100):
        chosen = subset(labels, names_, n, seed)
        assert (np.diff(chosen) > 0).all()
        found = {names_[i] for i in chosen}
        assert len(found) == n
        assert before < found
        assert {turned[i] for i in subset(turned_labels, turned, n, seed)} == found
        for label, count in {"a": 60, "b": 30, "c": 10}.items():
            assert abs(sum(labels[i] == label for i in chosen) - count * n / 100) <= 1
        before = found
    assert not np.array_equal(
        subset(labels, names_, 50, seed), subset(labels, names_, 50, seed + 9)
    )


@pytest.mark.parametrize("n", [0, 3])
def test_a_subset_of_no_image_or_of_more_than_there_are_is_refused(n):
    with pytest.raises(ValueError, match=rf"n_train must be from 1 to 2, got {n}; null takes all"):
        subset(["a", "b"], ["1", "2"], n, 0)
