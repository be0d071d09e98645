"""`Rule`: the base class of all rules, and `Finding`, what one look at the signals gives."""

from abc import ABC, abstractmethod
from copy import copy
from dataclasses import dataclass, field
from typing import Any, ClassVar

from titans_trm.diagnostics.alert import Evidence, Remedy, Severity
from titans_trm.diagnostics.signals import RunFacts, Signals


@dataclass(frozen=True)
class Finding:
    """The criterion of a rule held at this check; not yet an alert."""

    message: str
    evidence: Evidence = field(default_factory=dict)
    severity: Severity | None = None  # None = the rule's own
    scope: str = ""


ALL = frozenset({"*"})


class Rule(ABC):
    """One thing that can go wrong.

    A subclass looks at one `Signals` at a time and keeps what it must remember in plain attributes named in `memory`
    (numbers, texts, lists, dicts): they go into the checkpoint. It says only whether its criterion holds *now*;
    the engine asks for `needed` of the last `window` checks before it believes it (minimum evidence), and forgets an
    alert after `clear` checks without it (hysteresis).
    """

    id: ClassVar[str]
    severity: ClassVar[Severity] = "warn"
    title: ClassVar[str]  # a few words for tables: "halting head collapsed"
    source: ClassVar[str] = "ours"  # of criterion and threshold; ours: set on calibration runs, see the benchmark
    needed: ClassVar[int] = 3  # checks at which the criterion must hold ...
    window: ClassVar[int] = 4  # ... of the last so many
    clear: ClassVar[int] = 5  # checks without it after which an alert is over
    warm_up: ClassVar[bool] = True  # silent during the warm-up of the run
    explains: ClassVar[frozenset[str]] = frozenset()  # rules that are effects of this one if they follow it; ALL = any
    of_process: ClassVar[bool] = False  # about this process and its clock: begins anew when a run is resumed
    watches: ClassVar[tuple[str, ...]] = ()  # signals without which a check tells nothing; `gate/` = any that begins so
    memory: ClassVar[dict[str, Any]] = {}  # attributes that are saved, with their first values

    def __init__(self, facts: RunFacts, limits: dict[str, float] | None = None) -> None:
        self.facts = facts
        self.limits = {**self.default_limits(), **(limits or {})}
        for name, first in self.memory.items():
            setattr(self, name, copy(first))

    @classmethod
    def default_limits(cls) -> dict[str, float]:
        """Return the thresholds by name; the configuration may replace each."""
        return {}

    @abstractmethod
    def look(self, signals: Signals) -> Finding | None:
        """Return what is wrong at this check, or None. Called where `can_look`, during the warm-up too."""

    def can_look(self, signals: Signals) -> bool:
        """Tell whether this check measured what the rule watches; if not, it counts neither for nor against."""
        return all(
            any(one.startswith(name) for one in signals.values) if name.endswith("/") else name in signals.values
            for name in self.watches
        )

    def remedies(self, finding: Finding) -> tuple[Remedy, ...]:
        """Return what could help, best first."""
        return ()

    def state_dict(self) -> dict[str, Any]:
        """Return what the rule remembers."""
        return {name: getattr(self, name) for name in self.memory}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Remember what was saved."""
        for name in self.memory:
            if name in state:
                setattr(self, name, state[name])
