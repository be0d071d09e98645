"""Configuration of the specialist on call. No torch here."""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["off", "rules", "command", "claude"]
Mode = Literal["record", "advise", "apply"]


@dataclass(frozen=True, kw_only=True)
class SpecialistConfig:
    """Who is called when a diagnostic rule raises an alarm, what he may do, and what it may cost."""

    __pydantic_config__ = {"extra": "forbid"}

    kind: Kind = "rules"  # off; rules: built in, offline; command: your program; claude: claude_agent_sdk
    mode: Mode = "apply"  # record: only write the package; advise: ask and record; apply: try remedies, keep what works
    severity: Literal["warn", "error", "fatal"] = "warn"  # least severity of an alarm that is worth a call
    # Caps of one call and of the whole run.
    timeout_seconds: float = 120.0  # of one call, all its turns included
    max_calls: int = 5  # calls in one run
    max_calls_per_rule: int = 2  # calls in one run about one rule
    max_turns: int = 6  # turns of one call (claude)
    max_budget_usd: float = 0.25  # of one call (claude); checked after each turn, so one turn may overshoot
    max_run_budget_usd: float = 1.0  # of all calls of a run (claude)
    max_failures: int = 3  # failed calls in a row after which nobody is called any more
    # Remedies.
    max_remedies: int = 4  # remedies tried in one run
    max_remedies_per_rule: int = 2  # remedies tried against one rule
    rule_cooldown_steps: int = 500  # optimiser steps before the same rule is acted on again
    cooldown_steps: int = 200  # optimiser steps between the end of one trial and the start of the next
    watch_steps: int = 200  # optimiser steps after which a remedy is judged
    max_harm: float = 0.05  # a remedy is rolled back if cross-entropy ends higher than before by more than this share
    sync_every_steps: int = 10  # optimiser steps between agreements of all processes (several devices only)
    # The program behind specialist=command and the model behind specialist=claude.
    command: tuple[str, ...] = ()  # program and arguments; context package on stdin, results package on stdout
    model: str = "claude-sonnet-5"  # name the service knows
    permission_mode: Literal["plan", "dontAsk"] = "plan"  # of the agent; both are read-only here
    max_output_tokens: int = 4096  # of one turn (claude)

    def __post_init__(self) -> None:
        for key in ("timeout_seconds", "max_budget_usd", "max_run_budget_usd"):
            if not getattr(self, key) > 0.0:
                raise ValueError(f"{key}={getattr(self, key)} must be greater than 0.")
        for key in ("max_turns", "max_failures", "watch_steps", "sync_every_steps", "max_output_tokens"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key}={getattr(self, key)} is too small; choose 1 or more.")
        for key in ("max_calls", "max_calls_per_rule", "max_remedies", "max_remedies_per_rule"):
            if getattr(self, key) < 0:
                raise ValueError(f"{key}={getattr(self, key)} is negative; choose 0 or more.")
        for key in ("rule_cooldown_steps", "cooldown_steps", "max_harm"):
            if getattr(self, key) < 0:
                raise ValueError(f"{key}={getattr(self, key)} is negative; choose 0 or more.")
        if self.kind == "command" and not self.command:
            raise ValueError(
                "command=[] names no program; give one, e.g. specialist.command=[python,my_specialist.py]."
            )
