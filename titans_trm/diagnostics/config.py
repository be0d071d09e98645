"""Configuration of the diagnostics, checked when it is made. No torch here."""

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class DiagnosticsConfig:
    """How closely a run is watched. Thresholds of single rules: `limits`, see docs/diagnostics.md."""

    __pydantic_config__ = {"extra": "forbid"}

    every_steps: int = 10  # optimiser steps between checks; a check costs a few per cent of one step
    warm_up_steps: int = 100  # steps without alarms about learning; twice the learning rate's warm-up if that is longer
    warm_up_share: float = 0.2  # of max_steps: a short run has a shorter warm-up
    settle_checks: int = 2  # checks a believed finding waits for the cause behind it
    storm_steps: int = 100  # steps within which an alert that came earlier counts as an effect of a deeper one
    cooldown_steps: int = 500  # steps before an alert that is over can be raised again
    probe_examples: int = 8  # slots on which memory and gates are looked into: one extra net call per check
    audit_examples: int = 4  # slots whose examples are held against the rules of the task at a check; 0 = none
    disabled: list[str] = field(default_factory=list)  # rules that are left out, by id
    limits: dict[str, dict[str, float]] = field(default_factory=dict)  # thresholds by rule and name, see the docs

    def __post_init__(self) -> None:
        for rule, thresholds in self.limits.items():
            if not isinstance(thresholds, dict) or not all(isinstance(v, int | float) for v in thresholds.values()):
                raise ValueError(f"diagnostics.limits.{rule}={thresholds!r} is not a section of names and numbers.")
        for key in ("every_steps", "probe_examples"):
            if getattr(self, key) < 1:
                raise ValueError(f"diagnostics.{key}={getattr(self, key)} is too small; choose 1 or more.")
        for key in ("audit_examples", "warm_up_steps", "settle_checks", "storm_steps", "cooldown_steps"):
            if getattr(self, key) < 0:
                raise ValueError(f"diagnostics.{key}={getattr(self, key)} is negative; choose 0 or more.")
        if not 0.0 <= self.warm_up_share <= 1.0:
            raise ValueError(f"diagnostics.warm_up_share={self.warm_up_share} is out of range; choose 0 to 1.")
