"""All rules in causal order: of two that appear together, the one that stands first is the likelier cause."""

import difflib

from titans_trm.diagnostics.config import DiagnosticsConfig
from titans_trm.diagnostics.rule import Rule
from titans_trm.diagnostics.rules import data, halting, memory, numeric, optimisation, recursion, system, validation
from titans_trm.diagnostics.signals import RunFacts
from titans_trm.errors import InputError

RULES: tuple[type[Rule], ...] = (
    data.SplitLeak,
    data.InvalidExamples,
    optimisation.RateTooHigh,
    numeric.NonFinite,
    optimisation.NoGradient,
    optimisation.NoUpdate,
    recursion.CarryLost,
    memory.MemoryBlowup,
    memory.GateClosed,
    memory.GateDead,
    memory.GateFlood,
    data.LabelShift,
    recursion.LatentCollapse,
    recursion.LatentDrift,
    optimisation.GradientExplosion,
    optimisation.RateTooLow,
    halting.HaltingTarget,
    halting.HaltingCollapse,
    halting.AlwaysHalts,
    halting.NeverHalts,
    halting.Miscalibrated,
    optimisation.GradientVanishing,
    recursion.NoStepGain,
    recursion.DeadUnits,
    numeric.LossSpike,
    numeric.LossDivergence,
    memory.ForgetSaturated,
    numeric.LossPlateau,
    validation.OverfitGap,
    validation.ValidationRegression,
    system.DataBound,
    system.MemoryNearBudget,
    system.ThroughputDrop,
    numeric.InitialLoss,
    data.ClassImbalance,
    data.DuplicateRows,
    halting.PonderDrift,
    halting.HaltingLossDominates,
    recursion.StepRegress,
    recursion.FixedPointStall,
    memory.SurpriseSaturated,
    memory.InnerLossDivergence,
)


def build_rules(facts: RunFacts, config: DiagnosticsConfig) -> list[Rule]:
    """Return the rules of a run, with the thresholds of its configuration.

    Raises:
        InputError: a rule or threshold of the configuration does not exist.
    """
    known = {rule.id: rule for rule in RULES}
    for name in config.disabled:
        _check("disabled", name, list(known))
    for name, thresholds in config.limits.items():
        _check("limits", name, list(known))
        for threshold in thresholds:
            _check(f"limits.{name}", threshold, list(known[name].default_limits()))
    return [rule(facts, config.limits.get(rule.id)) for rule in RULES if rule.id not in config.disabled]


def _check(key: str, name: str, allowed: list[str]) -> None:
    if name in allowed:
        return
    near = difflib.get_close_matches(name, allowed, n=1)
    question = f" Did you mean {near[0]}?" if near else ""
    raise InputError(f"diagnostics.{key} names {name}, which does not exist.{question} See docs/diagnostics.md.")
