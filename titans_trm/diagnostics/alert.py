"""What a rule says when it fires: an `Alert` with its evidence, its place among causes, and a bounded remedy."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Severity = Literal["info", "warn", "error", "fatal"]
SEVERITIES: tuple[Severity, ...] = ("info", "warn", "error", "fatal")

Evidence = dict[str, float | str | list[str]]


@dataclass(frozen=True)
class Change:
    """One bounded change of a configuration value, such as `loss.diversity_weight` times 10, within [0, 10]."""

    key: str  # dotted key of the run's configuration
    op: Literal["set", "multiply", "add"]
    value: float
    low: float  # least value the key may have afterwards
    high: float  # greatest

    def apply(self, current: float) -> float:
        """Return the new value of `key`, kept within [low, high]."""
        changed = {"set": self.value, "multiply": current * self.value, "add": current + self.value}[self.op]
        return min(max(changed, self.low), self.high)


@dataclass(frozen=True)
class Verification:
    """When a remedy counts as having worked: `signal` passes `value` within `within_steps` optimiser steps.

    `guard` is a signal that must not get worse (grow) by more than `guard_share` meanwhile, in windows of the signal
    before and after. Signals are named as in `signals.Signals`.
    """

    signal: str
    op: Literal[">", "<"]
    value: float
    within_steps: int
    guard: str = "loss/cross_entropy"
    guard_share: float = 0.05

    def met_by(self, value: float) -> bool:
        """Tell whether a value of `signal` passes."""
        return value > self.value if self.op == ">" else value < self.value


@dataclass(frozen=True)
class Remedy:
    """What could help: bounded configuration changes, or a named action, or (neither) advice to a person.

    Actions are `perturb_halting_head`, `rollback`, `skip_batches`, `early_stop` and `stop`.
    """

    id: str  # of the allow-list
    advice: str  # what it does and why, one sentence a person can act on
    changes: tuple[Change, ...] = ()
    action: str | None = None
    verification: Verification | None = None  # None: only a person can judge it

    @property
    def automatic(self) -> bool:
        """Whether a program can apply it."""
        return bool(self.changes) or self.action is not None


@dataclass(frozen=True)
class Alert:
    """One alarm: a rule that fired, confirmed, with all that is needed to explain it and to act on it.

    Attributes:
        rule: id of the rule, such as `act_collapse`.
        severity: `info` is worth a line, `warn` costs quality, `error` spoils the run, `fatal` has ended learning.
        step: optimiser step at which the alarm was raised.
        since_step: optimiser step of the first check at which the criterion held.
        message: what is wrong, in plain words.
        evidence: the numbers behind it, by signal name; the limits they crossed under `<name>.limit`.
        scope: the part it is about (a parameter group, a block), `""` for the whole run.
        cause: rule of the active alarm that explains this one, None for a root cause. Only root causes are raised;
            effects are written down under their cause.
        effects: rules that were found to follow from this one so far, in order of appearance.
        remedies: in the order in which they should be tried; all are suggestions.
    """

    rule: str
    severity: Severity
    step: int
    since_step: int
    message: str
    evidence: Evidence = field(default_factory=dict)
    scope: str = ""
    cause: str | None = None
    effects: tuple[str, ...] = ()
    remedies: tuple[Remedy, ...] = ()

    @property
    def is_alarm(self) -> bool:
        """Whether someone should be called: a root cause of severity warn or above."""
        return self.cause is None and at_least(self.severity, "warn")

    def to_dict(self) -> dict[str, Any]:
        """Return plain dicts, lists, texts and numbers, as in `events.jsonl`."""
        plain = asdict(self)
        plain["effects"] = list(self.effects)
        plain["remedies"] = [{**asdict(r), "changes": [asdict(c) for c in r.changes]} for r in self.remedies]
        return plain

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Alert":
        """Rebuild an alert from `to_dict`; keys of an event that are not of an alert are left out."""
        names = cls.__dataclass_fields__
        known = {name: value for name, value in values.items() if name in names}
        known["effects"] = tuple(known.get("effects", ()))
        known["remedies"] = tuple(_remedy(remedy) for remedy in known.get("remedies", ()))
        return cls(**known)


def at_least(severity: Severity, limit: Severity) -> bool:
    """Tell whether `severity` is `limit` or graver."""
    return SEVERITIES.index(severity) >= SEVERITIES.index(limit)


def _remedy(values: Mapping[str, Any]) -> Remedy:
    check = values.get("verification")
    return Remedy(
        id=values["id"],
        advice=values["advice"],
        changes=tuple(Change(**change) for change in values.get("changes", ())),
        action=values.get("action"),
        verification=Verification(**check) if check else None,
    )
