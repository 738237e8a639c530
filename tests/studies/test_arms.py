import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import field, put
from PIL import Image
from torch import nn

from mbgan.data.folder import ImageFile
from mbgan.studies.arms import Pool, arms_of, measure, pooled, synthetic, wanted
from mbgan.studies.classifiers import LinearProbe, Network, backbone, small_network
from mbgan.studies.ranking import Measurement, pair, resampled_pair
from mbgan.studies.utility_folds import Fold, Material, check_unseen, groups_of, plan
from mbgan.studies.utility_report import pairs, said
from mbgan.studies.utility_scores import comparisons, score


def material(labels, groups):
    """Images of which only classes and groups matter."""
    classes = sorted(set(labels))
    files = [ImageFile(None, f"{i:03d}", None, label, None) for i, label in enumerate(labels)]
    numbers = np.array([classes.index(label) for label in labels])
    return Material(np.zeros((len(labels), 3, 8, 8), np.uint8), files, classes, numbers, groups, "")


def two_classes(n_groups=12, size=3):
    """Groups of several images, two thirds of them of one class."""
    labels = ["rare" if g % 3 == 0 else "usual" for g in range(n_groups) for _ in range(size)]
    return material(labels, [f"patient {g}" for g in range(n_groups) for _ in range(size)])


def folds_of(images, **changes):
    settings = {"n_folds": 4, "n_repeats": 2, "n_inner": 3, "shares": [1.0], "seed": 0}
    return plan(images, **settings | changes)


def test_no_group_is_on_two_sides_of_any_fold():
    """A patient who fits or tunes and tests would flatter whatever remembers patients."""
    images = two_classes()
    folds = folds_of(images, shares=[0.5, 1.0])
    assert len(folds) == 16
    for fold in folds:
        sides = [{images.groups[i] for i in part} for part in (fold.fit, fold.val, fold.test)]
        assert sum(map(len, sides)) == len(set.union(*sides))
        for part in (fold.fit, fold.val, fold.test):
            assert set(images.labels[part]) == {0, 1}
    for repeat in (0, 1):
        tested = [f.test for f in folds if f.repeat == repeat and f.share == 1]
        assert sorted(np.concatenate(tested)) == list(range(36))  # every image once


def test_more_repeats_and_shares_leave_the_folds_that_are_done_as_they_are():
    images = two_classes()
    few = {f.name: f for f in folds_of(images, n_repeats=1)}
    many = {f.name: f for f in folds_of(images, shares=[0.5, 1.0])}
    for name, fold in few.items():
        for side in ("fit", "val", "test"):
            assert np.array_equal(getattr(fold, side), getattr(many[name], side))
        half = many[name.replace("train100", "train50")]
        assert set(half.fit) < set(fold.fit)
        assert np.array_equal(half.test, fold.test)


@pytest.mark.parametrize(
    ("images", "changes", "message"),
    [
        (material(["a"] * 6, list("uvwxyz")), {}, "at least 2 classes, got a;"),
        (
            two_classes(),
            {"n_folds": 5},
            "at most the number of patients .* got 5 where 'rare' has 4",
        ),
        (
            material(["a", "b"] * 3, ["patient 7"] * 6),
            {},
            "must be held out, and all 6 .* patient 7",
        ),
        (
            material(["a", "b"] * 2, ["p1", "p2", "p3", "p4"]),
            {"n_folds": 2},
            "each class needs at least 3 patients .* 'a' has 2; add images of others",
        ),
        (
            material(["a", "b"] * 3, list("uvwxyz")),
            {"n_folds": 2},
            "each class needs 2 patients .* on the training side.* 'a' has 1 there; raise n_folds",
        ),
        (two_classes(), {"shares": [1.5]}, r"train_shares must be in \(0, 1\], .* got \[1.5\]"),
        (two_classes(), {"shares": [0.05]}, r"share of 0.05 \(1 images\) has none of 'rare'"),
        (two_classes(), {"n_inner": 1}, "n_inner must be at least 2, got 1"),
    ],
)
def test_a_study_that_cannot_be_is_refused_in_words(images, changes, message):
    with pytest.raises(ValueError, match=message):
        folds_of(images, **changes)


@pytest.fixture
def photographed(tmp_path):
    """Eight fields of eight patients, their folds, and the files."""
    files = []
    for i in range(8):
        path = put(tmp_path, f"40x/{'ab'[i % 2]}/{i}.png", field(i, 96))
        files.append(ImageFile(path, path.name, "40x", "ab"[i % 2], str(i // 2)))
    images = Material(
        np.zeros((8, 3, 8, 8), np.uint8), files, ["a", "b"], np.arange(8) % 2, groups_of(files), ""
    )
    fold = Fold(0, 0, 1.0, np.arange(4), np.arange(4, 6), np.array([6, 7]))
    return images, fold, tmp_path


def test_a_generator_that_saw_test_images_is_refused(photographed):
    images, fold, _ = photographed
    check_unseen(images, [fold], images.files[:6], "RUN")  # what fits and tunes
    with pytest.raises(ValueError, match=r"generator must not have seen .* RUN .* 1 of 2 test"):
        check_unseen(images, [fold], images.files[:7], "RUN")


@pytest.mark.parametrize("how", ["copied", "turned", "recompressed"])
def test_a_test_image_is_known_under_another_name_and_pose(photographed, how):
    """By content: a path or a file's hash would let a renamed or turned copy pass."""
    images, fold, root = photographed
    copy = root / "elsewhere" / "x.jpg"
    copy.parent.mkdir()
    with Image.open(images.files[6].path) as image:
        if how == "copied":
            shutil.copy(images.files[6].path, copy.with_suffix(".png"))
        elif how == "turned":
            image.rotate(90).save(copy.with_suffix(".png"))
        else:
            image.save(copy, quality=80)
    seen = [ImageFile(next(copy.parent.iterdir()), "x", None, "a", None)]
    with pytest.raises(ValueError, match=r"1 of 2 test images .* patients .* of 1 more"):
        check_unseen(images, [fold], seen, "RUN")


def test_a_generator_that_saw_another_image_of_a_test_patient_is_refused(photographed):
    images, fold, _ = photographed
    only = Fold(0, 0, 1.0, fold.fit, fold.val, np.array([6]))  # 7 is of the same patient
    with pytest.raises(ValueError, match=r"0 of 1 test images and others .* of 1 more"):
        check_unseen(images, [only], [images.files[7]], "RUN")


def test_the_corrected_t_test_has_its_closed_form():
    """Nadeau & Bengio 2003: error^2 = (1/J + n_test/n_train) s^2; at 2 d.f. p is elementary."""
    found = resampled_pair([1.0, 2.0, 3.0], test_share=0.5)
    error = (1 / 3 + 1 / 2) ** 0.5  # s = 1
    t = 2 / error
    assert found.p == pytest.approx(1 - t / (2 + t**2) ** 0.5)
    reach = error * 0.95 * (2 / (1 - 0.95**2)) ** 0.5
    assert (found.low, found.high) == pytest.approx((2 - reach, 2 + reach))


def test_without_overlap_the_corrected_test_is_the_paired_t_test():
    values = [0.1, -0.2, 0.5, 0.3]
    runs = [[Measurement(i, v, v, v) for i, v in enumerate(side)] for side in (values, [0.0] * 4)]
    plain, found = pair("a", runs[0], "b", runs[1]), resampled_pair(values, 1e-12)
    assert (found.p, found.low) == pytest.approx((plain.p, plain.low))
    assert resampled_pair(values, 0.25).p > plain.p


def test_equal_folds_have_no_test_and_too_few_are_refused():
    assert resampled_pair([0.0, 0.0], 0.25).p is None
    with pytest.raises(ValueError, match="at least 2 of them, got 1"):
        resampled_pair([0.1], 0.25)


def test_scores_of_known_predictions():
    y = np.array([0, 0, 0, 1])
    p = np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.2, 0.8]])
    found = score(p, y, ["usual", "rare"])
    assert found["recall/usual"] == pytest.approx(2 / 3)
    assert found["balanced_accuracy"] == pytest.approx((2 / 3 + 1) / 2)
    assert found["auroc"] == 1
    assert found["f1/rare"] == pytest.approx(2 / 3)
    assert found["brier"] == pytest.approx(2 * (0.01 + 0.01 + 0.36 + 0.04) / 4)
    assert found["ece"] == pytest.approx((2 * 0.1 + 0.6 + 0.2) / 4)


class Pixels(LinearProbe):
    """A linear probe on pixels."""

    def __init__(self):
        super().__init__(None, [0.001], 300, "")

    def look(self, images):
        return images.flatten(1).double() / 255


def blobs(labels, seed):
    """Noise [N, 3, 8, 8] that is a little brighter in half its pixels, by class."""
    x = np.random.default_rng(seed).normal(128, 40, (len(labels), 3, 8, 8))
    x[:, :, :4] += 5 * (2 * labels[:, None, None, None] - 1)
    return torch.from_numpy(x.clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("planted", ["perfect", "useless"])
def test_perfect_synthetic_images_raise_the_score_and_useless_ones_do_not(planted):
    labels = np.tile([0, 1], 210)
    real, classifier = blobs(labels, 0), Pixels()
    fold = Fold(0, 0, 1.0, np.arange(10), np.arange(10, 20), np.arange(20, 420))
    arms = [arm for arm in arms_of([40]) if "classical" not in arm.name]
    counts = wanted(labels[fold.fit], 40, "even")
    drawn = np.repeat([0, 1], counts)
    shown = drawn if planted == "perfect" else np.random.default_rng(1).permutation(drawn)
    pool = Pool(blobs(shown, 2), drawn, [0, 0])
    rows = measure(
        *(arms, {"pixels": classifier}, {"pixels": classifier.look(real)}, labels, fold),
        *({"synthetic": pool}, "even", ["a", "b"], 0),
    )
    found = {r["arm"]: r["value"] for r in rows if r["score"] == "balanced_accuracy"}
    gain = found["real + synthetic"] - found["real"]
    assert gain > 0.1 if planted == "perfect" else gain < 0.02


class Recorder:
    """A classifier that notes what it is given and predicts by chance."""

    settings = (1.0, 2.0)

    def __init__(self):
        self.calls = []

    def look(self, images):
        return images

    def fit(self, x, y, setting, seed):
        self.calls.append((len(x), len(y), setting, seed))
        return lambda x: np.full((len(x), 2), 0.5)


def test_arms_share_folds_tuning_and_random_numbers():
    labels = np.tile([0, 1], 20)
    fold = Fold(0, 0, 1.0, np.arange(20), np.arange(20, 30), np.arange(30, 40))
    pools = {
        key: pooled([torch.zeros(30, 3, 8, 8)] * 2, [0, 0]) for key in ("synthetic", "classical")
    }
    recorder, images = Recorder(), torch.zeros(40, 3, 8, 8)
    arms = arms_of([0.5, 2])
    rows = measure(
        *(arms, {"r": recorder}, {"r": images}, labels, fold, pools, "even", ["a", "b"], 7),
    )
    assert [call[0] for call in recorder.calls[::2]] == [20, 20, 30, 60, 30, 60]
    assert {call[2:] for call in recorder.calls} == {(1.0, 7), (2.0, 7)}
    assert len(recorder.calls) == 2 * len(arms)
    assert {(row["n_train"], row["n_test"]) for row in rows} == {(30, 10)}


def test_images_that_test_neither_fit_nor_tune():
    """A classifier that is right on one side only, by its setting: the inner part must choose."""
    labels = np.tile([0, 1], 20)
    fold = Fold(0, 0, 1.0, np.arange(20), np.arange(20, 30), np.arange(30, 40))
    pool = pooled([torch.full((10,), 100.0)] * 2, [0, 0])  # an image is its own number here
    fitted = set()

    class Partial:
        settings = (1.0, 2.0)

        def look(self, images):
            return images

        def fit(self, x, y, setting, seed):
            fitted.update(x.tolist())

            def predict(x):
                right = labels[x.long()] if (setting == 1) == (x[0] < 30) else 1 - labels[x.long()]
                return np.eye(2)[right]

            return predict

    rows = measure(
        *(arms_of([1]), {"p": Partial()}, {"p": torch.arange(40.0)}, labels, fold),
        *({"synthetic": pool, "classical": pool}, "even", ["a", "b"], 0),
    )
    assert {row["setting"] for row in rows} == {1}
    assert {row["value"] for row in rows if row["score"] == "balanced_accuracy"} == {0}
    assert fitted == {*range(20), 100}


def test_a_network_takes_as_many_steps_on_few_images_as_on_many():
    """Epochs would give the arms with more images a larger budget."""
    seen = []

    class Counted(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = small_network(2, 2)

        def forward(self, x):
            seen.append(len(x))
            return self.inner(x)

    network = Network(lambda k: Counted(), [0.01], steps=5, batch_size=4, weight_decay=0.0)
    for n in (6, 60):
        network.fit(torch.zeros(n, 3, 16, 16, dtype=torch.uint8), np.arange(n) % 2, 0.01, 0)
    assert seen == [4] * 10


def test_a_network_learns_classes_that_a_color_tells_apart():
    labels = np.tile([0, 1], 30)
    images = torch.from_numpy(np.where(labels, 200, 60).astype(np.uint8)).view(-1, 1, 1, 1)
    images = images.repeat(1, 3, 16, 16)
    network = Network(lambda k: small_network(k, 4), [0.01], 60, 16, 0.01)
    predict = network.fit(images, labels, 0.01, 0)
    assert (predict(images).argmax(1) == labels).all()


@pytest.mark.parametrize(("library", "name"), [("timm", "resnet10t"), ("torchvision", "resnet18")])
def test_a_backbone_takes_weights_of_its_own_architecture_only(tmp_path, library, name):
    tensors = {
        k: torch.ones_like(v)
        for k, v in backbone(7, library, name, None, None).network.state_dict().items()
    }
    torch.save(tensors, tmp_path / "w.pt")
    network = backbone(2, library, name, str(tmp_path / "w.pt"), 32)
    assert network(torch.zeros(2, 3, 16, 16)).shape == (2, 2)
    first = next(network.network.parameters())
    assert (first == 1).all()
    torch.save({"x": torch.ones(1)}, tmp_path / "w.pt")
    with pytest.raises(ValueError, match="weights must be those of"):
        backbone(2, library, name, str(tmp_path / "w.pt"), None)


def test_a_generator_of_copies_is_given_up_in_words():
    from conftest import TinyGenerator

    with pytest.raises(ValueError, match=r"reject_copies left 0 of \d+ .* reject_copies=false"):
        synthetic(TinyGenerator(), [[0]], [4], 0, accept=lambda x: torch.zeros(len(x), dtype=bool))


def test_rejected_images_are_replaced_and_counted():
    from conftest import TinyGenerator

    torch.manual_seed(0)
    everything = synthetic(TinyGenerator(), [[0]], [32], 0)
    half = synthetic(TinyGenerator(), [[0]], [8], 0, accept=lambda x: torch.arange(len(x)) % 2 == 1)
    assert len(half.images) == 8
    assert half.rejected == [8]
    assert everything.rejected == [0]


def folds_table(values, shares=(1.0,)):
    """A table of scores: of each score and arm, its values over folds."""
    return pd.DataFrame(
        {
            **{"train_share": share, "classifier": "c", "repeat": 0, "fold": fold, "title": title},
            **{"score": score, "n_train": 8, "n_test": 2, "value": value},
        }
        for share in shares
        for score, arms in values.items()
        for title, folds in arms.items()
        for fold, value in enumerate(folds)
    )


def test_arms_are_compared_with_real_and_with_as_many_classical_ones():
    titles = {"real": 0.5, "real + synthetic x 1": 0.8, "real + classical x 1": 0.6}
    arms = {
        title: [value + 0.01 * fold * value for fold in range(5)] for title, value in titles.items()
    }
    found = comparisons(folds_table({"balanced_accuracy": arms, "ece": arms}))
    words = {(row["score"], row["a"], row["b"]): row["word"] for row in found}
    key = ("real + synthetic x 1", "real + classical x 1")
    assert words[("balanced_accuracy", *key)] == "better"
    assert words[("ece", *key)] == "worse"  # of a calibration error, less is better
    assert len(found) == 6


def test_a_difference_that_the_correction_takes_away_is_called_so():
    """Its interval leaves out 0, so that "not told apart" alone would seem a mistake."""
    arms = {"real": [0.5] * 5, "real + synthetic x 1": [0.58, 0.52, 0.58, 0.54, 0.56]}
    arms["real + classical x 1"] = [0.5, 0.52, 0.48, 0.51, 0.49]
    first = comparisons(folds_table({"balanced_accuracy": arms}))[0]
    assert first["low"] > 0
    assert first["p"] < 0.05 <= first["p_holm"]
    assert first["word"] == "not told apart once corrected"


def test_the_answer_is_of_all_images_and_names_the_rarest_class():
    arms = {"real": [0.5, 0.6, 0.5], "real + synthetic x 1": [0.7, 0.8, 0.8]}
    arms["real + classical x 1"] = [0.5, 0.7, 0.6]
    scores = dict.fromkeys(("balanced_accuracy", "auroc", "recall/rare", "recall/usual"), arms)
    found = comparisons(folds_table(scores, shares=(0.5, 1.0)))
    answer = pairs({"comparisons": found, "rarest": "rare"})
    assert list(answer) == ["balanced_accuracy", "recall/rare"]
    (row,) = answer["recall/rare"]["real + synthetic x 1 less real"].values()
    assert row["train_share"] == 1
    assert said(row).startswith("+0.233 (")
