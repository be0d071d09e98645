"""How a consultation ended. Whatever happens to a specialist, this comes back: nothing is raised into training."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from titans_trm.specialist.protocol import ContextPackage, ResultsPackage

Ending = Literal["answered", "timeout", "api_error", "malformed", "budget", "unavailable", "failed", "denied"]
Approve = Callable[[ResultsPackage], bool]


@dataclass(frozen=True)
class Outcome:
    """The answer of a specialist, or why there is none."""

    ending: Ending
    results: ResultsPackage
    details: dict[str, Any] = field(default_factory=dict)  # seconds, turns, cost_usd, tool calls, versions

    @property
    def ok(self) -> bool:
        """Whether a valid answer came."""
        return self.ending == "answered"


class Specialist(Protocol):
    """Whoever answers a context package. `instant` ones take milliseconds and run in the step that calls them."""

    name: str
    instant: bool

    def consult(self, context: ContextPackage) -> Outcome:
        """Answer; never raise."""
        ...


def failed(ending: Ending, reason: str, **details: Any) -> Outcome:
    """Return an outcome without an answer."""
    return Outcome(ending, ResultsPackage(status="failed", reason=reason), details)
