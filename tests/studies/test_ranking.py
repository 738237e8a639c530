"""Statistics of a comparison: closed forms, and simulated runs with a winner and with none."""

import numpy as np
import pytest
import torch
from scipy.stats import norm, t

from mbgan.metrics.floor import detectable
from mbgan.studies.ranking import (
    Measurement,
    compare_pairs,
    estimate,
    holm,
    probability_of_best,
    smallest_kid_difference,
)


def runs(*values, sd=0.001, seeds=None):
    reach = norm.ppf(0.975) * sd
    seeds = range(len(values)) if seeds is None else seeds
    return [Measurement(s, v, v - reach, v + reach) for s, v in zip(seeds, values, strict=True)]


def test_paired_test_of_three_seeds_has_its_closed_form():
    """Differences 1, 2, 3: t = 2 sqrt(3), 2 degrees of freedom, where p = 1 - t / sqrt(t^2 + 2)."""
    (pair,) = compare_pairs({"b": runs(11, 22, 33), "a": runs(10, 20, 30)})
    assert (pair.a, pair.b, pair.difference, pair.n_pairs) == ("a", "b", -2, 3)
    assert pair.p == pytest.approx(1 - 12**0.5 / 14**0.5)
    assert pair.p_holm == pair.p
    reach = t.ppf(0.975, 2) / 3**0.5
    assert (pair.low, pair.high) == pytest.approx((-2 - reach, -2 + reach))


def test_what_a_seed_does_to_both_models_cancels():
    (plain,) = compare_pairs({"a": runs(1, 2, 4), "b": runs(2, 4, 5)})
    (shifted,) = compare_pairs({"a": runs(101, 2, 54), "b": runs(102, 4, 55)})
    assert (plain.difference, plain.p) == pytest.approx((shifted.difference, shifted.p))


def test_only_seeds_that_both_have_are_paired():
    (pair,) = compare_pairs({"a": runs(1, 2, 9, seeds=[0, 1, 7]), "b": runs(3, 5, seeds=[1, 0])})
    assert (pair.n_pairs, pair.difference) == (2, pytest.approx(-2.5))  # 1 - 5, 2 - 3


@pytest.mark.parametrize(
    ("a", "b", "reason"),
    [
        (runs(1), runs(2), "at least 2 seeds that both have, got 1 seed"),
        (runs(1, 2), runs(2, 3, seeds=[5, 6]), "at least 2 seeds that both have, got no seed"),
        (runs(1, 2), runs(3, 4), "all differences are equal"),
    ],
)
def test_where_nothing_can_be_tested_the_reason_is_said(a, b, reason):
    (pair,) = compare_pairs({"a": a, "b": b})
    assert pair.p is None
    assert pair.p_holm is None
    assert reason in pair.reason


def test_holm_of_equal_p_values_is_bonferroni():
    assert holm([0.01] * 4) == pytest.approx([0.04] * 4)
    assert holm([0.4, 0.6]) == pytest.approx([0.8, 0.8])
    assert holm([]) == []


def test_interval_over_seeds_is_students_and_of_one_seed_its_own():
    found = estimate(runs(1, 2, 3))
    assert found.high - found.mean == pytest.approx(t.ppf(0.975, 2) / 3**0.5)
    assert (found.n_seeds, found.over) == (3, "seeds")
    alone = estimate(runs(5, sd=2))
    assert (alone.high - alone.mean, alone.over) == (pytest.approx(norm.ppf(0.975) * 2), "images")


def test_a_seed_run_twice_counts_once():
    assert estimate(runs(1, 3, 5, seeds=[0, 0, 1])).mean == 3.5
    assert estimate(runs(1, 3, seeds=[0, 0])).n_seeds == 1


def test_probability_of_best_of_two_single_runs_has_its_closed_form():
    found = probability_of_best({"a": runs(1, sd=3), "b": runs(3, sd=4)}, draws=200_000)
    assert found["a"] == pytest.approx(norm.cdf(2 / 5), abs=0.005)
    assert sum(found.values()) == pytest.approx(1)


def test_seeds_that_agree_by_chance_do_not_make_sure():
    """Two seeds a hair apart have next to no spread; their own intervals say how little that is."""
    found = probability_of_best({"a": runs(1, 1.0001, sd=1), "b": runs(1.5, 1.5001, sd=1)})
    assert 0.5 < found["a"] < 0.75


def test_one_seed_is_lent_the_spread_among_seeds_of_others():
    others = {"b": runs(0.5, 1.5, 2.5), "c": runs(1, 2, 3)}
    alone = probability_of_best({"a": runs(1)} | others)["a"]
    steady = probability_of_best({"a": runs(1), "b": runs(1.5), "c": runs(2)})["a"]
    assert steady > 0.99
    assert alone < 0.75


def test_among_models_that_are_equal_a_difference_is_found_in_at_most_5_percent_of_comparisons():
    """4 models, 3 seeds, 6 pairs: without the correction it would be about 20 %."""
    rng, n = np.random.default_rng(0), 2000
    wrong = plain = 0
    for _ in range(n):
        seed_effect = rng.normal(size=3)
        pairs = compare_pairs({c: runs(*(seed_effect + rng.normal(size=3))) for c in "abcd"})
        wrong += min(pair.p_holm for pair in pairs) < 0.05
        plain += min(pair.p for pair in pairs) < 0.05
    assert wrong / n < 0.05 + 2 * (0.05 * 0.95 / n) ** 0.5
    assert plain / n > 0.12


def test_a_known_winner_is_found():
    rng, n = np.random.default_rng(0), 200
    found = 0
    for _ in range(n):
        groups = {c: runs(*rng.normal(size=5)) for c in "abc"} | {"d": runs(*rng.normal(-8, 1, 5))}
        pairs = [p for p in compare_pairs(groups) if p.a == "d" and p.p_holm < 0.05]
        found += len(pairs) == 3 and all(p.difference < 0 for p in pairs)
    assert found / n > 0.9


def test_smallest_difference_is_found_again_from_a_simulated_floor():
    """KIDs of halves of 50 with deviation 0.02: at n = 100 half of that, of which 2.8 sqrt(2)."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(400):
        kids = rng.normal(0, 0.02, 20)
        floor = {"range": [kids.min(), kids.max()], "splits": 20, "n_each": 50}
        found.append(smallest_kid_difference(floor, 100))
    assert np.median(found) == pytest.approx(detectable(0.01), rel=0.05)
    assert smallest_kid_difference({}, 100) is None


def test_ranking_leaves_the_global_random_numbers_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    probability_of_best({"a": runs(1, 2), "b": runs(2, 3)})
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()  # noqa: NPY002
