"""Judge what a specialist asks for: only what was offered, inside bounds, not too often, not twice at once."""

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from titans_trm.specialist.config import SpecialistConfig
from titans_trm.specialist.protocol import ContextPackage, ExpectedEffect, Remedy
from titans_trm.specialist.remedies import REMEDIES, clamp


@dataclass(frozen=True)
class Verdict:
    """A remedy as it may be tried, or why it may not."""

    remedy: Remedy | None
    reason: str  # "ok", "bounded to ..." or why not


@dataclass
class Policy:
    """Limits of one run, with the counts that they are held against; `state_dict` resumes them.

    Args:
        config: the limits.
        metrics: names that a verification may be about.
    """

    config: SpecialistConfig
    metrics: frozenset[str]
    calls: Counter[str] = field(default_factory=Counter)
    remedies: Counter[str] = field(default_factory=Counter)
    acted_at: dict[str, int] = field(default_factory=dict)  # rule -> step of its last trial
    last_trial_end: int | None = None
    failures: int = 0  # calls that failed, in a row
    spent_usd: float = 0.0

    def may_call(self, rule: str) -> str | None:
        """Return why nobody is called about `rule`, or None."""
        config = self.config
        if self.failures >= config.max_failures:
            return f"{self.failures} calls in a row failed (max_failures={config.max_failures})"
        if self.calls.total() >= config.max_calls:
            return f"this run has had its {config.max_calls} calls (max_calls)"
        if self.calls[rule] >= config.max_calls_per_rule:
            return f"{rule} has had its {config.max_calls_per_rule} calls (max_calls_per_rule)"
        if self.spent_usd + config.max_budget_usd > config.max_run_budget_usd and config.kind == "claude":
            return f"a call may cost more than is left of {config.max_run_budget_usd:g} USD (max_run_budget_usd)"
        return None

    def may_act(self, rule: str, step: int) -> str | None:
        """Return why no remedy against `rule` is tried at `step`, or None."""
        config = self.config
        if self.remedies.total() >= config.max_remedies:
            return f"this run has tried its {config.max_remedies} remedies (max_remedies)"
        if self.remedies[rule] >= config.max_remedies_per_rule:
            return f"{rule} has had its {config.max_remedies_per_rule} remedies (max_remedies_per_rule)"
        if rule in self.acted_at and step - self.acted_at[rule] < config.rule_cooldown_steps:
            return f"{rule} was acted on at step {self.acted_at[rule]} (rule_cooldown_steps)"
        if self.last_trial_end is not None and step - self.last_trial_end < config.cooldown_steps:
            return f"the last trial ended at step {self.last_trial_end} (cooldown_steps)"
        return None

    def judge(self, remedy: Remedy, context: ContextPackage) -> Verdict:
        """Return the remedy inside its bounds, or why it is refused."""
        offered = {option.id: option for option in context.allowed_remedies}
        if remedy.id not in offered or remedy.id not in REMEDIES:
            return Verdict(None, f"{remedy.id} was not offered; allowed are {', '.join(offered) or 'none'}")
        kind, option = REMEDIES[remedy.id], offered[remedy.id]
        reason = "ok"
        value = remedy.value
        if kind.op == "act":
            value = None
        elif value is None or not math.isfinite(value):
            return Verdict(None, f"{remedy.id} needs a finite value, not {value}")
        else:
            bounded = clamp(kind, value, option.current)
            if bounded != value:
                reason = f"bounded from {value:g} to {bounded:g}"
            if kind.op == "set" and option.current is not None and math.isclose(bounded, option.current):
                return Verdict(None, f"{kind.key} is {bounded:g} already")
            value = bounded
        effect = remedy.expected_effect or option.effect or kind.effect
        if effect.metric not in self.metrics:
            return Verdict(None, f"{effect.metric} is not measured; known are {', '.join(sorted(self.metrics))}")
        effect = ExpectedEffect(
            metric=effect.metric,
            direction=effect.direction,
            min_delta=max(effect.min_delta, 0.0),
            reach=effect.reach,
            within_steps=min(max(effect.within_steps, 1), self.config.watch_steps),
        )
        accepted = Remedy(id=remedy.id, value=value, rationale=remedy.rationale, expected_effect=effect)
        return Verdict(accepted, reason)

    def called(self, rule: str) -> None:
        """Count a call."""
        self.calls[rule] += 1

    def answered(self, ok: bool, usd: float = 0.0) -> None:
        """Count the end of a call."""
        self.failures = 0 if ok else self.failures + 1
        self.spent_usd += usd

    def acted(self, rule: str, step: int) -> None:
        """Count a trial."""
        self.remedies[rule] += 1
        self.acted_at[rule] = step

    def trial_ended(self, step: int) -> None:
        """Start the cool-down."""
        self.last_trial_end = step

    def state_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "calls": dict(self.calls),
            "remedies": dict(self.remedies),
            "acted_at": dict(self.acted_at),
            "last_trial_end": self.last_trial_end,
            "failures": self.failures,
            "spent_usd": self.spent_usd,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue counting."""
        self.calls, self.remedies = Counter(state["calls"]), Counter(state["remedies"])
        self.acted_at, self.last_trial_end = dict(state["acted_at"]), state["last_trial_end"]
        self.failures, self.spent_usd = state["failures"], state["spent_usd"]
