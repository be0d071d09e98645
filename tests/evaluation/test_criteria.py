"""Verdicts: limits, certainty, the gap against Newcombe's published example."""

import dataclasses

import pytest
from evaluation_cases import estimate, evaluation

from titans_trm.errors import InputError
from titans_trm.evaluation.config import Bound, CriteriaConfig
from titans_trm.evaluation.criteria import generalisation_gap, judge
from titans_trm.evaluation.results import Estimate
from titans_trm.evaluation.statistics import wilson_interval


def with_accuracy(value: float | None, half: float = 0.02):
    return evaluation(metrics={"exact_accuracy": estimate(value, half)})


def only(**criteria):
    return CriteriaConfig(**({"gap": None} | criteria))


@pytest.mark.parametrize(
    ("value", "bound", "ok", "certain"),
    [
        (0.90, Bound(at_least=0.85), True, True),
        (0.90, Bound(at_least=0.89), True, False),
        (0.90, Bound(at_least=0.91), False, False),
        (0.90, Bound(at_least=0.95), False, True),
        (0.90, Bound(at_most=0.95), True, True),
        (0.90, Bound(at_most=0.90), True, False),
        (None, Bound(at_least=0.5), None, None),
    ],
)
def test_a_target_is_met_by_the_value_and_certain_by_the_interval(value, bound, ok, certain) -> None:
    verdict = judge(with_accuracy(value), None, None, only(targets={"exact_accuracy": bound}))
    (criterion,) = verdict.criteria
    assert (criterion.ok, criterion.certain, verdict.met) == (ok, certain, ok is True)


def test_size_and_latency_are_held_against_their_limits() -> None:
    result = evaluation()
    config = only(latency_p95_ms=26.0, parameters=141_000, weights_mb=0.5)
    verdict = judge(result, None, None, config)
    assert [one.ok for one in verdict.criteria] == [True, True, False] and not verdict.met
    cost = dataclasses.replace(result.cost, latency_full_ms=None)
    (latency,) = judge(evaluation(cost=cost), None, None, only(latency_p95_ms=26.0)).criteria
    assert latency.ok is None and "not measured" in str(latency.note)


def test_the_gap_is_newcombes_difference_of_two_proportions() -> None:
    """Newcombe 1998, Stat. Med. 17:873, table II, method 10: 56/70 - 48/80 is 0.2 [0.0524, 0.3339]."""
    sides = []
    for right, n in ((48, 80), (56, 70)):
        low, high = wilson_interval(right, n)
        sides.append(Estimate(value=right / n, ci_low=low, ci_high=high, method="wilson"))
    gap = generalisation_gap(*sides)
    assert (gap.value, gap.ci_low, gap.ci_high) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)


def test_a_gap_needs_both_sides() -> None:
    config = CriteriaConfig()
    (unknown,) = judge(evaluation(), evaluation(), None, config).criteria
    assert unknown.ok is None and "run evaluate.py split=val" in str(unknown.note)
    (fine,) = judge(evaluation(), with_accuracy(0.90), with_accuracy(0.93), config).criteria
    assert fine.ok is True and fine.certain is False
    (wide,) = judge(evaluation(), with_accuracy(0.60), with_accuracy(0.99), config).criteria
    assert wide.ok is False and wide.certain is True
    (undefined,) = judge(evaluation(), with_accuracy(None), with_accuracy(0.99), config).criteria
    assert undefined.ok is None and "not defined" in str(undefined.note)


def test_unknown_metrics_and_impossible_limits_are_named() -> None:
    with pytest.raises(InputError, match=r"criteria.targets.accuracy is not a metric.*exact_accuracy"):
        judge(evaluation(), None, None, only(targets={"accuracy": Bound(at_least=1.0)}))
    with pytest.raises(InputError, match=r"criteria.gap_metric=f1 is not a metric"):
        judge(evaluation(), evaluation(), evaluation(), CriteriaConfig(gap_metric="f1"))
    with pytest.raises(ValueError, match="either at_least or at_most"):
        Bound(at_least=0.5, at_most=0.9)
    with pytest.raises(ValueError, match=r"gap=0\.0 must be greater than 0"):
        CriteriaConfig(gap=0.0)
