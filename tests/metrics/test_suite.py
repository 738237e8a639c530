"""What stands beside each score: interval, p, floor, or the reason why there is none."""

from types import SimpleNamespace

import pytest
import torch

from mbgan.metrics.features import Features
from mbgan.metrics.suite import (
    FULL,
    Pair,
    Sample,
    Score,
    Suite,
    Training,
    among_halves,
    half_splits,
    verdict,
)


def side(n, seed, shift=0.0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 8, generator=generator, dtype=torch.float64) + shift
    images = torch.randint(0, 256, (n, 3, 16, 16), generator=generator, dtype=torch.uint8)
    return Sample(images, Features(x, x))


def training(sample):
    return Training(sample.images, sample.seen.features[None])


@pytest.fixture
def suite():
    return Suite(SimpleNamespace(name="pixels"), floor_splits=4)


def test_every_score_has_an_interval_around_it_and_its_floor_at_half_of_the_reals(suite):
    result = suite.full(side(40, seed=0), side(40, seed=1), training(side(30, seed=2)))
    of_memorization = ("authenticity", "fld_gap", "copy_test")
    features = {f"{name}/pixels" for name in (*FULL, "fid_8_axes", *of_memorization)}
    assert set(result) == features | {"ms_ssim", "histology"}
    assert 0 <= result["copy_test/pixels"]["p"] <= 1
    for score in (result[key] for key in features - {"copy_test/pixels"}):
        assert (score["floor"]["n_each"], score["floor"]["splits"]) == (20, 4)
        low, high = score["floor"]["range"]
        assert low <= score["floor"]["mean"] <= high
        assert score["interval"][0] <= score["value"] <= score["interval"][1]
        assert score["interval_over"] == "images"


def test_the_interval_of_a_mean_is_that_of_students_t():
    """Halves of n images lie as far from their mean, s / sqrt n, as it lies from the truth."""
    pair = Pair(side(100, seed=0).seen, side(400, seed=1).seen)
    mean = Score(lambda pair: float(pair.fake.features[:, 0].mean()), low=-torch.inf)
    value = mean.of(pair)
    low, high = among_halves(mean, value, half_splits(pair, None, 400))["interval"]
    expected = 1.96 * float(pair.fake.features[:, 0].std()) / 400**0.5
    assert (high - low) / 2 == pytest.approx(expected, rel=0.12)
    assert (low + high) / 2 == pytest.approx(value)


def test_an_interval_does_not_leave_the_range_of_its_score():
    pair = Pair(side(40, seed=0).seen, side(40, seed=1).seen)
    share = Score(lambda pair: float((pair.fake.features[:, 0] < 1.9).double().mean()), high=1.0)
    found = among_halves(share, share.of(pair), half_splits(pair, None, 20))
    assert found["interval"][1] == 1.0


def test_the_floor_stands_beside_fakes_at_the_same_number_of_images(suite):
    """FID of half the images is larger by its bias, on both sides of the comparison alike."""
    fid = suite.full(side(40, seed=0), side(40, seed=1))["fid/pixels"]
    assert fid["floor"]["of_fakes"] > 1.2 * fid["value"]
    low, high = fid["floor"]["range"]
    assert 0.5 * low < fid["floor"]["of_fakes"] < 2 * high


def test_kid_has_its_interval_and_p_also_for_unequal_numbers(suite):
    kid = suite.full(side(40, seed=0), side(25, seed=1, shift=1.0))["kid/pixels"]
    assert 0 < kid["interval"][0] < kid["value"] < kid["interval"][1]
    assert (kid["interval_over"], kid["p"] < 0.01) == ("images", True)


def test_patients_are_resampled_as_a_whole_and_never_split_by_the_floor(suite):
    real, fake = side(40, seed=0), side(40, seed=1)
    result = suite.full(real, fake, patients=["a"] * 30 + ["b"] * 10)
    for key in ("kid/pixels", "precision/pixels"):
        assert (result[key]["interval_over"], result[key]["floor"]["n_each"]) == ("patients", 10)


def test_the_floor_of_a_memorization_score_is_that_of_held_out_images(suite):
    """Copies are not authentic; held-out images, of the same distribution, mostly are."""
    real, train = side(60, seed=0), side(60, seed=1)
    scores = suite.full(real, train, training(train))
    assert scores["authenticity/pixels"]["value"] == 0
    assert scores["authenticity/pixels"]["floor"]["mean"] > 0.3
    assert scores["copy_test/pixels"]["p"] < 1e-6


def test_the_verdict_names_copies_or_says_why_nobody_can_tell():
    real, train = side(60, seed=0), side(60, seed=1)
    assert verdict(real, train, training(train))["verdict"] == "copying"
    assert verdict(real, side(60, seed=2), training(train))["verdict"] == "fine"
    one = verdict(real, side(60, seed=2), training(train.part([0])))
    assert (one["verdict"], one["n_train"]) == (None, 1)
    assert "at least 2 images" in one["reason"]


def test_a_score_that_few_images_do_not_have_stands_with_the_reason(suite):
    result = suite.full(side(4, seed=0), side(4, seed=1))
    assert result["kid/pixels"]["value"] is not None
    assert result["density/pixels"]["value"] is None
    assert "need more than 5 images, got 4" in result["density/pixels"]["reason"]
    assert result["histology"]["value"] is None
    assert "at least 64 px" in result["histology"]["reason"]


def test_fid_along_axes_knows_only_the_training_images_axes(suite):
    """Nothing is seen of a difference that the training images do not have."""
    real, fake, train = (side(24, seed=s) for s in range(3))
    fake.seen.features[:, 0] += 10
    train.seen.features[:, 0] *= 2
    seen = suite.full(real, fake, training(train))["fid_5_axes/pixels"]
    assert seen["value"] == pytest.approx(100, rel=0.2)
    train.seen.features[:, 0] = 0
    blind = suite.full(real, fake, training(train))
    assert blind["fid_5_axes/pixels"]["value"] < 20


def test_pixel_diversity_stands_beside_the_reals_own(suite):
    """Fakes of one image are all alike, and surely more so than noise is."""
    real, fake = side(40, seed=0), side(40, seed=1)
    fake.images[:] = fake.images[0].clone()
    found = suite.full(real, fake)["ms_ssim"]
    assert found["value"] == pytest.approx(1)
    assert found["interval"] == pytest.approx([1, 1])
    assert found["floor"]["mean"] < 0.1
    assert found["p"] < 1e-6
    few = suite.full(side(3, seed=0), fake)["ms_ssim"]
    assert (few["value"], few["reason"]) == (
        None,
        "pairs need at least 4 images on each side, got n_real=3, n_fake=40",
    )


def test_an_extractor_without_classes_trains_without_the_inception_score(suite):
    real, fake = (side(8, seed=s).seen for s in range(2))
    found = suite.scores(*(Features(x.features, x.features[:, :0]) for x in (real, fake)))
    assert set(found) == {"kid/pixels", "fid/pixels", "diversity/pixels"}


def test_equal_real_images_have_no_diversity_to_compare_with(suite):
    real = side(40, seed=0)
    real.seen.features[:] = 1.0
    found = suite.full(real, side(40, seed=1))["diversity/pixels"]
    assert found == {
        "value": None,
        "reason": "no number: the features of one side are all equal",
    }


def test_fewer_images_than_features_are_noted_beside_fid(suite):
    assert "bias" in suite.full(side(8, seed=0), side(40, seed=1))["fid/pixels"]["note"]
    assert "note" not in suite.full(side(9, seed=0), side(40, seed=1))["fid/pixels"]


@pytest.mark.parametrize(("setting", "rule"), [("max_images", 2), ("nucleus_px", 2)])
def test_settings_out_of_range_are_refused(setting, rule):
    with pytest.raises(ValueError, match=f"metrics.{setting} must be null or at least {rule}"):
        Suite(SimpleNamespace(name="pixels"), **{setting: 1})
