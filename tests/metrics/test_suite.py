"""What stands beside each score: interval, p, floor, or the reason why there is none."""

from types import SimpleNamespace

import pytest
import torch

from mbgan.metrics.features import Features
from mbgan.metrics.suite import FULL, Suite, table


def side(n, seed, shift=0.0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 8, generator=generator, dtype=torch.float64) + shift
    return Features(x, x)


@pytest.fixture
def suite():
    return Suite(SimpleNamespace(name="pixels"), floor_splits=4)


def test_every_score_but_the_inception_score_has_its_floor_at_half_of_the_reals(suite):
    result = suite.full(side(40, seed=0), side(40, seed=1))
    assert set(result) == {f"{name}/pixels" for name in FULL}
    for key, score in result.items():
        assert ("floor" in score) != key.startswith("inception_score")
        if "floor" in score:
            assert (score["floor"]["n_each"], score["floor"]["splits"]) == (20, 4)
            low, high = score["floor"]["range"]
            assert low <= score["floor"]["mean"] <= high


def test_kid_has_its_interval_and_p_also_for_unequal_numbers(suite):
    kid = suite.full(side(40, seed=0), side(25, seed=1, shift=1.0))["kid/pixels"]
    assert 0 < kid["interval"][0] < kid["value"] < kid["interval"][1]
    assert (kid["interval_over"], kid["p"] < 0.01) == ("images", True)


def test_patients_are_resampled_as_a_whole_and_never_split_by_the_floor(suite):
    real, fake = side(40, seed=0), side(40, seed=1)
    kid = suite.full(real, fake, patients=["a"] * 30 + ["b"] * 10)["kid/pixels"]
    assert (kid["interval_over"], kid["floor"]["n_each"]) == ("patients", 10)
    part = suite.part(real, fake, torch.arange(40) < 20, patients=[str(i // 5) for i in range(40)])
    assert (part["n"], part["scores"]["kid/pixels"]["interval_over"]) == (20, "patients")


def test_a_score_that_few_images_do_not_have_stands_with_the_reason(suite):
    result = suite.full(side(4, seed=0), side(4, seed=1))
    assert result["kid/pixels"]["value"] is not None
    assert result["density/pixels"]["value"] is None
    assert "need more than 5 images, got 4" in result["density/pixels"]["reason"]
    head = {"magnification": "10x", "images_seen": 1, "checkpoint": "best", "by_condition": {}}
    head |= {"n_real": 4, "n_fake": 4, "extractor": "pixels", "critic_extractor": None}
    lines = table(head | {"extractor_sha256": "0" * 64, "scores": result})
    assert "density/pixels" in lines
    assert "need more than 5 images, got 4" in lines
