"""The desk of a run: alarms in, decisions out. Knows nothing of Lightning; never waits and never touches the model."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from titans_trm.diagnostics.alert import Alert
from titans_trm.diagnostics.engine import Engine
from titans_trm.diagnostics.events import EventLog
from titans_trm.diagnostics.signals import Signals
from titans_trm.specialist.audit import Audit, digest
from titans_trm.specialist.config import SpecialistConfig
from titans_trm.specialist.context import context_of_alarm
from titans_trm.specialist.desk import Desk
from titans_trm.specialist.expert import make_specialist
from titans_trm.specialist.outcome import Outcome, Specialist, failed
from titans_trm.specialist.policy import Policy
from titans_trm.specialist.process import Case, State
from titans_trm.specialist.protocol import ContextPackage, Remedy
from titans_trm.specialist.remedies import REMEDIES, Levels
from titans_trm.specialist.trial import HARM_METRIC, Recorder, Trial

Decision = dict[str, Any]  # plain values: {"do": "apply" | "keep" | "roll_back", ...}; all processes carry it out
_PATIENCE_SECONDS = 5.0  # at the end of a run, for a call under way
_RIVALS = 3  # root causes that a package names


class OnCall:
    """Decide what is done about a run's alarms.

    Args:
        folder: the run folder.
        settings: who is asked, what he may do, what it may cost.
        config: the run's configuration as plain values.
        events: the run's `diagnostics/events.jsonl`.
        facts: of the run, for the package.
        tell: shows a line to the person at the screen.
        specialist: who answers; None = the one of `settings`.
    """

    def __init__(
        self,
        folder: Path,
        settings: SpecialistConfig,
        config: Mapping[str, Any],
        events: EventLog,
        *,
        facts: Mapping[str, Any] | None = None,
        tell: Callable[[str], None] = lambda line: None,
        specialist: Specialist | None = None,
    ) -> None:
        self.settings = settings
        self.config = config
        self.facts = dict(facts or {})
        self.trial: Trial | None = None
        self.history: list[dict[str, Any]] = []  # remedies that were tried, and what came of them
        self._tell = tell
        self._audit = Audit(folder, events)
        self._desk = Desk(specialist or make_specialist(settings))
        self._policy = Policy(settings, frozenset())
        self._recorder = Recorder()
        self._cases: dict[int, tuple[Case, Alert, ContextPackage]] = {}
        self._candidates: dict[str, tuple[int, list[Remedy]]] = {}  # by rule: what may still be tried
        self._seen_step = -1
        self._follows = False
        self._said: set[tuple[str, str]] = set()  # refusals that were written down already

    def decide(
        self, step: int, engine: Engine, signals: Signals | None, levels: Callable[[], Levels]
    ) -> Decision | None:
        """Take answers in, look at the newest signals, ask where that is due; return what is to be done now.

        Args:
            step: optimiser step.
            engine: of the diagnostics.
            signals: the newest; None before the first check.
            levels: reads the current values of the remedies' keys.
        """
        self._take_answers(step)
        if signals is None or signals.step == self._seen_step or HARM_METRIC not in signals.values:
            return None
        self._seen_step = signals.step
        self._recorder.add(signals.values)
        self._policy.metrics |= set(signals.values)
        if self.trial is not None:
            fresh = signals.values[HARM_METRIC]
            verdict = self.trial.judge(step, self._recorder, engine.active, self.settings.max_harm, fresh)
            if verdict is None:
                return None
            do = "keep" if verdict.keep else "roll_back"
            return {"do": do, "reason": verdict.reason, "before": verdict.before, "after": verdict.after}
        for alert in engine.standing(self.settings.severity):
            decision = self._next_trial(alert.rule, step)
            if decision is None:
                self._ask(alert, engine, step, signals, levels)
                self._take_answers(step)
                decision = self._next_trial(alert.rule, step)
            if decision is not None:
                return decision
        return None

    def trial_began(self, decision: Decision, old: Mapping[str, Any], step: int) -> None:
        """Start watching; `old` is what the levers were set to before."""
        remedy = Remedy.model_validate(decision["remedy"])
        self.trial = Trial.start(decision["rule"], remedy, step, self._recorder, old, decision["number"])
        self._policy.acted(decision["rule"], step)
        self._step_case(decision["number"], State.APPLY)
        data = {"number": decision["number"], "remedy": decision["remedy"], "old": dict(old)}
        self._event("remedy_applied", step, decision["rule"], data)
        value = "" if remedy.value is None else f" = {remedy.value:g}"
        what = REMEDIES[remedy.id].what
        self._tell(f"{self._desk.specialist.name} against {decision['rule']}: {what}{value}; on trial")

    def trial_ended(self, decision: Decision, step: int) -> None:
        """Write down how the trial ended, and start the cool-down."""
        trial, self.trial = self.trial, None
        assert trial is not None
        self._policy.trial_ended(step)
        self._recorder.forget()
        kept = decision["do"] == "keep"
        record = {"rule": trial.rule, "remedy": trial.remedy["id"], "value": trial.remedy.get("value")}
        outcome = {"step": trial.started, "outcome": "kept" if kept else "rolled_back", "reason": decision["reason"]}
        self.history.append(record | outcome)
        data = {"number": trial.number, "remedy": trial.remedy} | {n: v for n, v in decision.items() if n != "do"}
        self._event("remedy_verified" if kept else "remedy_rolled_back", step, trial.rule, data)
        end = "kept" if kept else "rolled back"
        self._tell(f"{trial.remedy['id']} against {trial.rule}: {end}, {decision['reason']}")
        if kept:
            self._candidates.pop(trial.rule, None)
        self._finish_case(trial, kept)

    def follow(self) -> None:
        """Write nothing: the first process does."""
        self._follows = True

    def failed(self, reason: str, step: int) -> None:
        """Nobody is asked any more; training goes on."""
        self._policy.failures = self.settings.max_failures
        self._event("specialist_failed", step, "", {"reason": reason})

    def close(self, step: int) -> None:
        """Give a call under way a moment, write down what came, leave."""
        if self._desk.in_flight:
            self._desk.close(_PATIENCE_SECONDS)
        self._take_answers(step)
        for number, (case, _, _) in list(self._cases.items()):
            if case.state is State.CONSULT:
                self._close(number, failed("failed", "the run ended first"), step)
        self.abandon()

    def abandon(self) -> None:
        """Leave at once."""
        self._desk.close(0.0)

    def state_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "policy": self._policy.state_dict(),
            "recorder": self._recorder.state_dict(),
            "trial": None if self.trial is None else self.trial.state_dict(),
            "history": self.history,
            "candidates": {
                rule: [number, [remedy.to_dict() for remedy in remedies]]
                for rule, (number, remedies) in self._candidates.items()
            },
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue; calls that were under way are lost."""
        self._policy.load_state_dict(state["policy"])
        self._recorder.load_state_dict(state["recorder"])
        self.trial = None if state["trial"] is None else Trial(**state["trial"])
        self.history = list(state["history"])
        self._candidates = {
            rule: (number, [Remedy.model_validate(remedy) for remedy in remedies])
            for rule, (number, remedies) in state["candidates"].items()
        }

    def _ask(self, alert: Alert, engine: Engine, step: int, signals: Signals, levels: Callable[[], Levels]) -> None:
        """Hand a package in, unless he is at it already or a limit says no."""
        under_way = any(case.state is State.CONSULT and a.rule == alert.rule for case, a, _ in self._cases.values())
        if under_way or alert.rule in self._candidates:
            return
        why = self._policy.may_call(alert.rule)
        if why is not None:
            self._say_once("not_called", alert.rule, why, step)
            return
        case = Case()
        case.to(State.GATHER)
        context = context_of_alarm(
            alert,
            self.config,
            self.settings,
            rivals=engine.standing(self.settings.severity)[:_RIVALS],
            levels=levels(),
            measurements=signals.values,
            facts=self.facts | {"step": step},
            history=self.history,
        )
        number = self._audit.open(context)
        self._cases[number] = (case, alert, context)
        self._policy.called(alert.rule)
        self._event("package_built", step, alert.rule, {"number": number, "sha256": digest(context)})
        if self.settings.mode == "record":
            self._candidates[alert.rule] = (number, [])
            self._close(number, failed("denied", "specialist.mode=record: nobody was asked"), step)
            return
        case.to(State.CONSULT)
        self._event("call_started", step, alert.rule, {"number": number, "specialist": self._desk.specialist.name})
        if not self._desk.submit(number, context):
            self._close(number, failed("failed", "too many calls wait already"), step)

    def _take_answers(self, step: int) -> None:
        """Check what came back and judge the remedies in it."""
        for number, outcome in self._desk.collect():
            case, alert, context = self._cases[number]
            self._policy.answered(outcome.ok, float(outcome.details.get("cost_usd") or 0.0))
            if not outcome.ok:
                self._close(number, outcome, step)
                continue
            case.to(State.CHECK)
            case.to(State.MEASURE)  # an alarm's answer claims nothing about code: its remedies are measured by trial
            case.to(State.JUDGE)
            accepted = self._judged(number, alert, context, outcome, step)
            self._candidates[alert.rule] = (number, accepted if self.settings.mode == "apply" else [])
            names = f", to try: {', '.join(remedy.id for remedy in accepted)}" if accepted else ""
            self._tell(f"{self._desk.specialist.name} on {alert.rule}: {outcome.results.status}{names}")
            self._close(number, outcome, step, to_try=bool(accepted) and self.settings.mode == "apply")

    def _judged(self, number: int, alert: Alert, context: ContextPackage, outcome: Outcome, step: int) -> list[Remedy]:
        accepted = []
        for remedy in outcome.results.remedies:
            verdict = self._policy.judge(remedy, context)
            data = {"number": number, "remedy": (verdict.remedy or remedy).to_dict(), "reason": verdict.reason}
            self._event("result_validated" if verdict.remedy else "result_rejected", step, alert.rule, data)
            if verdict.remedy is not None:
                accepted.append(verdict.remedy)
        return accepted

    def _close(self, number: int, outcome: Outcome, step: int, *, to_try: bool = False) -> None:
        """Write down how the call ended; the case stays open while there is something to try."""
        case, alert, _ = self._cases[number]
        if not to_try:
            case.to(State.RECORD)
            del self._cases[number]
        self._audit.close(number, outcome, path=[str(state) for state in case.path])
        data = {"number": number, "ending": outcome.ending, "status": outcome.results.status}
        details = {name: outcome.details[name] for name in ("seconds", "turns", "cost_usd") if name in outcome.details}
        why = outcome.results.reason or outcome.results.escalation
        self._event("call_finished", step, alert.rule, data | details | ({"reason": why} if why else {}))

    def _next_trial(self, rule: str, step: int) -> Decision | None:
        """Return the decision to try the next remedy against `rule`, if there is one and it may be tried now."""
        number, remedies = self._candidates.get(rule, (0, []))
        if not remedies:
            if rule in self._policy.acted_at:
                self._candidates.pop(rule, None)  # all tried, and it stands: he may be asked again
            return None
        why = self._policy.may_act(rule, step)
        if why is not None:
            self._say_once("remedy_waits", rule, why, step)
            return None
        return {"do": "apply", "rule": rule, "number": number, "remedy": remedies.pop(0).to_dict()}

    def _finish_case(self, trial: Trial, kept: bool) -> None:
        self._step_case(trial.number, State.WATCH)
        self._step_case(trial.number, State.KEEP if kept else State.ROLL_BACK)
        self._step_case(trial.number, State.RECORD)
        case, _, _ = self._cases.pop(trial.number, (None, None, None))
        more: dict[str, Any] = {} if case is None else {"path": [str(state) for state in case.path]}
        if not self._follows:
            self._audit.add(trial.number, **more, trials=[one for one in self.history if one["rule"] == trial.rule])

    def _step_case(self, number: int, state: State) -> None:
        """Move an open case on; a further remedy of the same answer belongs to a case that is recorded already."""
        if number in self._cases:
            self._cases[number][0].to(state)

    def _say_once(self, event: str, rule: str, why: str, step: int) -> None:
        if (rule, why) not in self._said:
            self._said.add((rule, why))
            self._event(event, step, rule, {"reason": why})

    def _event(self, event: str, step: int, rule: str, data: Mapping[str, Any]) -> None:
        if not self._follows:
            self._audit.event(event, step=step, rule=rule, data=data)
