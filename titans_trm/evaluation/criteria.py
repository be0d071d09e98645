"""Whether a run is a success: targets, generalisation gap, latency and size against their limits."""

from dataclasses import dataclass
from math import hypot

from titans_trm.data.spec import LOWER_IS_BETTER
from titans_trm.errors import InputError
from titans_trm.evaluation.config import CriteriaConfig
from titans_trm.evaluation.resampling import UNDEFINED
from titans_trm.evaluation.results import Estimate, Evaluation

_LOWER_IS_BETTER = (*LOWER_IS_BETTER, "cross_entropy", "perplexity", "difficulty_rmse", "mean_supervision_steps")


@dataclass(frozen=True, kw_only=True)
class Criterion:
    """One measured value against its limit."""

    name: str
    rule: str  # in words
    limit: float
    value: float | None  # null: not measured
    ci_low: float | None  # null: no interval
    ci_high: float | None
    ok: bool | None  # the value keeps the limit; null: not measured
    certain: bool | None  # the whole interval is on the same side of the limit as the value; null: no interval
    note: str | None = None  # why it was not measured


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """All criteria of one evaluation: an entry of `evaluation/criteria.json`."""

    criteria: list[Criterion]
    met: bool  # every criterion was measured and keeps its limit
    name: str  # of the criteria
    split: str
    checkpoint_sha256: str
    date: str


def judge(
    result: Evaluation, validation: Evaluation | None, probe: Evaluation | None, config: CriteriaConfig
) -> Verdict:
    """Hold an evaluation against `config`.

    Args:
        result: whose metrics, latency and size are judged.
        validation: of the same checkpoint; null where there is none.
        probe: of the same checkpoint on the clean train probe; null where there is none.
        config: the limits.

    Raises:
        InputError: a target names a metric that the evaluation does not have.
    """
    found = [_target(result, name, bound.at_least, bound.at_most) for name, bound in config.targets.items()]
    if config.gap is not None:
        metric = result.headline if config.gap_metric == "headline" else config.gap_metric
        found.append(_gap(validation, probe, config.gap, metric))
    if config.latency_p95_ms is not None:
        latency = result.cost.latency_adaptive_ms or result.cost.latency_full_ms
        value, note = (latency.p95, None) if latency else (None, "latency was not measured (latency_examples=0)")
        found.append(_at_most("latency_p95_ms", config.latency_p95_ms, _exactly(value), note=note))
    if config.parameters is not None:
        found.append(_at_most("parameters", config.parameters, _exactly(result.cost.parameters)))
    if config.weights_mb is not None:
        found.append(_at_most("weights_mb", config.weights_mb, _exactly(result.cost.weight_bytes / 1e6)))
    return Verdict(
        criteria=found,
        met=all(criterion.ok is True for criterion in found),
        name=config.name,
        split=result.split,
        checkpoint_sha256=result.checkpoint_sha256,
        date=result.date,
    )


def generalisation_gap(validation: Estimate, probe: Estimate) -> Estimate:
    """Return train probe minus validation with the interval of a difference of independent estimates.

    Each end combines the distances of the two estimates to the ends of their own intervals (Zou and Donner 2008, Stat.
    Med. 27:1693; for proportions with Wilson intervals this is Newcombe's method 10).
    """
    ends = (validation.value, validation.ci_low, validation.ci_high, probe.value, probe.ci_low, probe.ci_high)
    if None in ends:
        return UNDEFINED
    val, val_low, val_high, train, train_low, train_high = (float(end) for end in ends if end is not None)
    gap = train - val
    return Estimate(
        value=gap,
        ci_low=gap - hypot(train - train_low, val_high - val),
        ci_high=gap + hypot(train_high - train, val - val_low),
        method=probe.method,
    )


def _target(result: Evaluation, name: str, at_least: float | None, at_most: float | None) -> Criterion:
    if name not in result.metrics:
        raise InputError(
            f"criteria.targets.{name} is not a metric of this evaluation; choose from {', '.join(result.metrics)}."
        )
    estimate = result.metrics[name]
    note = None if estimate.value is not None else "not defined on these examples"
    if at_least is not None:
        return _criterion(name, f"{name} >= {at_least:g}", at_least, estimate, +1, note)
    assert at_most is not None
    return _at_most(name, at_most, estimate, note=note)


def _gap(validation: Evaluation | None, probe: Evaluation | None, limit: float, metric: str) -> Criterion:
    lower = metric in _LOWER_IS_BETTER
    sides = "validation - train probe" if lower else "train probe - validation"
    rule = f"{metric} of {sides} <= {limit:g}"
    if validation is None or probe is None:
        missing = "needs the train probe and the validation of this checkpoint; run evaluate.py split=val"
        return _criterion("generalisation_gap", rule, limit, UNDEFINED, -1, missing)
    if metric not in validation.metrics:
        raise InputError(
            f"criteria.gap_metric={metric} is not a metric of this evaluation; "
            f"choose from {', '.join(validation.metrics)}."
        )
    better, worse = (validation, probe) if lower else (probe, validation)
    gap = generalisation_gap(worse.metrics[metric], better.metrics[metric])
    note = None if gap.value is not None else "not defined on these examples"
    return _criterion("generalisation_gap", rule, limit, gap, -1, note)


def _at_most(name: str, limit: float, estimate: Estimate, *, note: str | None = None) -> Criterion:
    return _criterion(name, f"{name} <= {limit:g}", limit, estimate, -1, note)


def _criterion(name: str, rule: str, limit: float, estimate: Estimate, sign: int, note: str | None) -> Criterion:
    """Return a criterion that wants sign * value >= sign * limit."""
    value, low, high = estimate.value, estimate.ci_low, estimate.ci_high
    ok = None if value is None else bool(sign * value >= sign * limit)
    sides = {sign * end >= sign * limit for end in (low, high) if end is not None}
    return Criterion(
        name=name,
        rule=rule,
        limit=limit,
        value=value,
        ci_low=low,
        ci_high=high,
        ok=ok,
        certain=len(sides) == 1 if sides else None,
        note=note,
    )


def _exactly(value: float | None) -> Estimate:
    return Estimate(value=value, ci_low=None, ci_high=None, method="none")
