"""Paired tests against scipy and closed forms, and how often they are wrong."""

import numpy as np
import pytest
from scipy import stats

from titans_trm.evaluation.resampling import Intervals
from titans_trm.evaluation.significance import (
    grouped_t_test,
    holm,
    mcnemar_test,
    paired_bootstrap,
    paired_t_test,
    seed_interval,
    wilcoxon_test,
)

RNG = np.random.default_rng(0)


def test_tests_over_seeds_are_those_of_scipy() -> None:
    one, other = RNG.normal(size=8), RNG.normal(0.5, size=8)
    assert paired_t_test(one, other) == stats.ttest_rel(one, other).pvalue
    assert wilcoxon_test(one, other) == stats.wilcoxon(one, other).pvalue


def test_what_is_not_defined_is_none_and_equal_is_one() -> None:
    assert paired_t_test([0.5], [0.4]) is None and wilcoxon_test([], []) is None
    assert paired_t_test([0.5, 0.6], [0.5, 0.6]) == 1.0 == wilcoxon_test([0.5, 0.6], [0.5, 0.6])
    assert paired_t_test([0.6, 0.75], [0.5, 0.65]) == pytest.approx(0.0, abs=1e-9)
    with pytest.raises(ValueError, match="2 and 1 values cannot be paired"):
        paired_t_test([0.5, 0.6], [0.5])


def test_mcnemar_is_the_binomial_test_of_discordant_pairs() -> None:
    one = np.array([True] * 14 + [False] * 4 + [True] * 50)
    other = np.array([False] * 14 + [True] * 4 + [True] * 50)
    assert mcnemar_test(one, other) == stats.binomtest(14, 18).pvalue == mcnemar_test(other, one)
    assert mcnemar_test(one, one) == 1.0


def test_the_paired_bootstrap_of_single_examples_agrees_with_students_test() -> None:
    one, other = RNG.normal(0.3, size=100), RNG.normal(size=100)
    estimate, p = paired_bootstrap(one, other, Intervals([str(number) for number in range(100)]))
    expected = stats.ttest_rel(one, other)
    assert estimate.value == pytest.approx((one - other).mean()) and p == pytest.approx(expected.pvalue)
    interval = expected.confidence_interval()
    assert (estimate.ci_low, estimate.ci_high) == pytest.approx((interval.low, interval.high), abs=0.04)


def test_groups_count_once_in_the_paired_bootstrap() -> None:
    one, other = RNG.normal(0.2, size=50), RNG.normal(size=50)
    _, p = paired_bootstrap(one, other, Intervals([str(number) for number in range(50)]))
    copied = Intervals([str(number) for number in np.arange(50).repeat(6)])
    _, again = paired_bootstrap(one.repeat(6), other.repeat(6), copied)
    assert again == pytest.approx(p)


def test_equal_and_constant_differences_in_the_paired_bootstrap() -> None:
    intervals = Intervals(["a", "b", "c"])
    assert paired_bootstrap(np.ones(3), np.ones(3), intervals)[1] == 1.0
    assert paired_bootstrap(np.ones(3), np.zeros(3), intervals)[1] == 0.0


def test_false_alarms_are_as_rare_as_the_level_says() -> None:
    """Two models of equal skill on grouped examples: at 5 % at most about one in twenty differs."""
    rng = np.random.default_rng(5)
    group = np.arange(80).repeat(3)
    found, repeats = 0, 300
    intervals = Intervals([str(number) for number in group])
    for _ in range(repeats):
        skill = rng.random(80)[group]
        effect = 0.3 * rng.normal(size=(2, 80))[:, group]
        right = rng.random((2, 240)) < np.clip(skill + effect, 0, 1)
        found += grouped_t_test(right[0].astype(float), right[1].astype(float), intervals) < 0.05
    assert 0.02 < found / repeats < 0.05 + 2 * (0.05 * 0.95 / repeats) ** 0.5


def test_holm_equals_its_definition() -> None:
    adjusted = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert adjusted == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})
    assert holm({"a": 0.6, "b": 0.9}) == {"a": 1.0, "b": 1.0} and holm({}) == {}
    assert list(adjusted) == ["a", "b", "c", "d"]


def test_the_interval_over_seeds_is_students() -> None:
    values = [0.91, 0.94, 0.9, 0.97]
    found = seed_interval(values, 0.9)
    low, high = stats.t.interval(0.9, 3, loc=np.mean(values), scale=stats.sem(values))
    assert (found.value, found.ci_low, found.ci_high) == pytest.approx((np.mean(values), low, high))
    single = seed_interval([0.9])
    assert (single.value, single.ci_low, single.method) == (0.9, None, "none")
