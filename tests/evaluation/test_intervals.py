"""Intervals by group: against scipy and closed forms, copies that add nothing, and coverage by simulation."""

import numpy as np
import pytest
from scipy import stats

from titans_trm.evaluation import resampling
from titans_trm.evaluation.resampling import UNDEFINED, Intervals
from titans_trm.evaluation.results import Estimate
from titans_trm.evaluation.statistics import clustered_wilson_interval, wilson_interval

RNG = np.random.default_rng(0)


def ends(estimate: Estimate) -> tuple[float, float]:
    assert estimate.ci_low is not None and estimate.ci_high is not None
    return estimate.ci_low, estimate.ci_high


def keys(groups: np.ndarray) -> list[str]:
    return [f"group {group}" for group in groups]


def test_the_interval_of_a_mean_is_that_of_scipy() -> None:
    values = RNG.exponential(size=120)
    ours = Intervals(keys(np.arange(120)), seed=1).means(values)[0]
    theirs = stats.bootstrap((values,), np.mean, n_resamples=5000, rng=2).confidence_interval
    assert ours.value == pytest.approx(values.mean())
    assert ends(ours) == pytest.approx((theirs.low, theirs.high), abs=0.03)


def test_intervals_are_the_same_for_the_same_seed() -> None:
    values = RNG.normal(size=50)
    found = [Intervals(keys(np.arange(50)), seed=seed).means(values)[0] for seed in (1, 1, 2)]
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize("copies", [2, 5])
def test_copies_of_examples_make_nothing_more_certain(copies: int) -> None:
    values, right = RNG.normal(size=60), RNG.random(60) < 0.7
    once = Intervals(keys(np.arange(60)))
    often = Intervals(keys(np.arange(60).repeat(copies)))
    assert ends(often.means(values.repeat(copies))[0]) == pytest.approx(ends(once.means(values)[0]))
    narrow, wide = ends(once.proportion(right)), ends(often.proportion(right.repeat(copies)))
    assert wide[0] <= narrow[0] and narrow[1] <= wide[1]
    assert wide == pytest.approx(narrow, abs=0.01)


def test_groups_of_one_give_the_plain_wilson_interval() -> None:
    right = RNG.random(80) < 0.9
    assert ends(Intervals(keys(np.arange(80))).proportion(right)) == wilson_interval(float(right.sum()), 80)


def test_all_right_in_few_groups_is_as_uncertain_as_few_examples() -> None:
    assert clustered_wilson_interval(np.array([5.0, 5.0]), np.array([5, 5])) == wilson_interval(2, 2)
    assert clustered_wilson_interval(np.array([3.0]), np.array([6])) == wilson_interval(0.5, 1)


def test_two_groups_that_disagree_leave_nearly_everything_open() -> None:
    low, high = clustered_wilson_interval(np.array([3.0, 1.0]), np.array([3, 2]))
    assert 0.0 < low < 0.05 and 0.95 < high < 1.0


def test_many_groups_are_put_together_at_random_without_changing_the_interval(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resampling, "_MOST_UNITS", 300)
    values = RNG.normal(size=4000)
    low, high = ends(Intervals(keys(np.arange(4000))).means(values)[0])
    half = 1.96 * values.std(ddof=1) / 4000**0.5
    assert (high - low) / 2 == pytest.approx(half, rel=0.15)
    assert (low + high) / 2 == pytest.approx(values.mean(), abs=0.2 * half)


def test_means_of_some_examples_leave_the_others_out() -> None:
    values, some = np.arange(10.0), np.arange(10) < 4
    estimate = Intervals(keys(np.arange(10))).means(values, of=some)[0]
    assert estimate.value == 1.5 and ends(estimate)[1] <= 3.0


def test_one_group_gives_a_value_without_an_interval() -> None:
    single = Intervals(keys(np.zeros(5, dtype=int)))  # it says nothing of others
    assert single.means(np.arange(5.0)) == [Estimate(value=2.0, ci_low=None, ci_high=None, method="none")]


def test_what_is_not_defined_has_no_value() -> None:
    many = Intervals(keys(np.arange(5)))
    assert many.means(np.arange(5.0), of=np.zeros(5, dtype=bool)) == [UNDEFINED]
    assert many.proportion(np.zeros(0, dtype=bool), np.zeros(0, dtype=int)) == UNDEFINED
    with pytest.raises(ValueError, match="1 example or more"):
        Intervals([])


def test_a_constant_has_an_interval_of_no_width() -> None:
    estimate = Intervals(keys(np.arange(9))).means(np.full(9, 2.5))[0]
    assert (estimate.value, *ends(estimate)) == (2.5, 2.5, 2.5)


REPEATS = 600  # standard error of a coverage of 95 %: 0.9 points; benchmarks/interval_coverage.py has more


@pytest.mark.parametrize("skewed", [False, True])
def test_bootstrap_intervals_cover_the_truth_as_often_as_they_say(
    skewed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resampling, "_RESAMPLES", 400)
    rng = np.random.default_rng(3)
    group = np.arange(120).repeat(rng.integers(1, 4, size=120))
    covered = 0
    for seed in range(REPEATS):
        effect = rng.exponential(size=120) - 1 if skewed else rng.normal(size=120)
        low, high = ends(Intervals(keys(group), seed=seed).means(effect[group] + rng.normal(size=len(group)))[0])
        covered += low <= 0.0 <= high
    assert covered / REPEATS == pytest.approx(0.95, abs=0.02 + 2 * 0.009)


@pytest.mark.parametrize("share", [0.5, 0.95])
def test_wilson_intervals_by_group_cover_the_truth_as_often_as_they_say(share: float) -> None:
    rng = np.random.default_rng(4)
    group = np.arange(120).repeat(rng.integers(1, 4, size=120))
    covered = 0
    for _ in range(REPEATS):
        chance = rng.beta(4 * share, 4 * (1 - share), size=120)
        low, high = ends(Intervals(keys(group)).proportion(rng.random(len(group)) < chance[group]))
        covered += low <= share <= high
    assert covered / REPEATS == pytest.approx(0.95, abs=0.02 + 2 * 0.009)
