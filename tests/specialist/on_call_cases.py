"""An alarm at will, and specialists that behave badly on demand."""

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from titans_trm.diagnostics import remedies
from titans_trm.diagnostics.alert import Remedy as Suggestion
from titans_trm.diagnostics.config import DiagnosticsConfig
from titans_trm.diagnostics.engine import Engine
from titans_trm.diagnostics.events import EventLog, broken_lines, read_events
from titans_trm.diagnostics.rule import Finding, Rule
from titans_trm.diagnostics.signals import RunFacts, Signals
from titans_trm.specialist.config import SpecialistConfig
from titans_trm.specialist.on_call import Decision, OnCall
from titans_trm.specialist.outcome import Outcome
from titans_trm.specialist.protocol import ContextPackage, Remedy, ResultsPackage

LEVELS = {"act_diversity_weight": 0.0, "q_head_perturb": None, "act_loss_weight": 0.5, "lr_scale": 1e-3}
CONFIG = {"loss": {"diversity": "off", "diversity_weight": 0.1, "halting_weight": 0.5}, "seed": 0}
QUICK = SpecialistConfig(watch_steps=60, cooldown_steps=20, rule_cooldown_steps=20)


class Collapse(Rule):
    """Fires while the spread of the halting logits is small."""

    id = "act_collapse"
    title = "collapsed"
    needed, window, clear = 2, 2, 2
    warm_up = False
    watches = ("halting/logit_std",)

    def look(self, signals: Signals) -> Finding | None:
        std = signals.values["halting/logit_std"]
        return None if std > 0.1 else Finding(f"no spread ({std:g})", {"halting/logit_std": std})

    def remedies(self, finding: Finding) -> tuple[Suggestion, ...]:
        return remedies.MORE_DIVERSITY, remedies.PERTURB_HALTING_HEAD, remedies.MORE_HALTING_LOSS


class Run:
    """A run of nothing but signals: `step(...)` makes ten optimiser steps."""

    def __init__(self, folder: Path, settings: SpecialistConfig = QUICK, specialist: Any = None) -> None:
        self.folder = folder
        facts = RunFacts(max_steps=10_000)
        self.engine = Engine([Collapse(facts)], facts, DiagnosticsConfig(settle_checks=0, cooldown_steps=0))
        self.events = EventLog(folder / "diagnostics" / "events.jsonl")
        self.said: list[str] = []
        self.on_call = OnCall(folder, settings, CONFIG, self.events, tell=self.said.append, specialist=specialist)
        self.now = 0

    def step(self, std: float, loss: float = 1.0, **more: float) -> Decision | None:
        """Ten steps later: check, decide, and carry out what can be carried out without a model."""
        self.now += 10
        values = {"halting/logit_std": std, "halting/correlation": 0.0, "loss/cross_entropy": loss, **more}
        signals = Signals(self.now, values)
        self.engine.update(signals)
        decision = self.on_call.decide(self.now, self.engine, signals, lambda: LEVELS)
        if decision is not None and decision["do"] == "apply":
            self.on_call.trial_began(decision, {"settings": {}, "rates": [1e-3]}, self.now)
        elif decision is not None:
            self.on_call.trial_ended(decision, self.now)
        return decision

    def until(self, do: str, std: float, loss: float = 1.0, most: int = 40, **more: float) -> Decision:
        """Go on with the same signals until something is decided."""
        for _ in range(most):
            decision = self.step(std, loss, **more)
            if decision is not None:
                assert decision["do"] == do, decision
                return decision
        raise AssertionError(f"{do} was never decided")

    def log(self, *names: str) -> list[dict[str, Any]]:
        """The events of these names; the chain must be whole."""
        assert broken_lines(self.events.path) == []
        return [event for event in read_events(self.events.path) if event["event"] in names]


class Answering:
    """Gives one answer, at once."""

    name, instant = "answering", True

    def __init__(self, *wanted: Remedy, status: str = "diagnosed", outcome: Outcome | None = None) -> None:
        results = ResultsPackage(status=status, remedies=list(wanted))  # type: ignore[arg-type]
        self.outcome = outcome or Outcome("answered", results, {"cost_usd": 0.01})
        self.asked: list[ContextPackage] = []

    def consult(self, context: ContextPackage) -> Outcome:
        self.asked.append(context)
        return self.outcome


class Broken(Answering):
    """Has a bug."""

    name = "broken"

    def consult(self, context: ContextPackage) -> Outcome:
        self.asked.append(context)
        raise ZeroDivisionError("a bug")


class Slow(Answering):
    """Answers when it is let."""

    name, instant = "slow", False

    def __init__(self, *wanted: Remedy) -> None:
        super().__init__(*wanted)
        self.may_answer = threading.Event()
        self.answered = threading.Event()

    def consult(self, context: ContextPackage) -> Outcome:
        self.may_answer.wait(30)
        found = super().consult(context)
        self.answered.set()
        return found


def names(events: list[Mapping[str, Any]]) -> list[str]:
    return [event["event"] for event in events]
