"""`diagnostics/report.md`: what was found, since when, on what evidence, what to do, and what came of it."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from titans_trm.diagnostics.alert import Alert, Remedy, at_least
from titans_trm.diagnostics.catalogue import RULES
from titans_trm.diagnostics.engine import Engine
from titans_trm.diagnostics.events import read_events

TITLES = {rule.id: rule.title for rule in RULES}
_ALERT_EVENTS = ("started", "resumed", "finished", "alert", "effect", "escalated", "cleared")


def write_report(folder: Path, engine: Engine, events: Path | None = None) -> str:
    """Write `report.md` into the run's `diagnostics/` and return its text."""
    others = (
        [event for event in read_events(events, lost=False) if event["event"] not in _ALERT_EVENTS] if events else []
    )
    text = report_text(engine, others)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.md").write_text(text, encoding="utf-8", newline="\n")
    return text


def report_text(engine: Engine, others: Sequence[Mapping[str, Any]] = ()) -> str:
    """Return the report as Markdown; `others` are events that are not the engine's, such as applied remedies."""
    found = engine.diagnosis()
    alarms = [alert for alert in found if alert.is_alarm]
    notes = [alert for alert in found if not alert.is_alarm]
    lines = ["# Diagnosis", "", verdict(engine), "", "![signals](signals.png)", ""]
    for number, alert in enumerate(alarms, start=1):
        lines += [f"## {number}. {TITLES.get(alert.rule, alert.rule)} ({alert.severity})", ""]
        lines += [*explain(alert, engine), ""]
    if notes:
        lines += ["## Notes", "", *(f"- step {note.step}: {note.message} ({note.rule})" for note in notes), ""]
    if others:
        lines += ["## What was done", "", *(f"- step {event['step']}: {_told(event)}" for event in others), ""]
    lines += ["## Rules that looked", "", _looked(engine), ""]
    return "\n".join(lines)


def verdict(engine: Engine) -> str:
    """Return one or two sentences: healthy, or what is wrong first."""
    alarms = [alert for alert in engine.diagnosis() if alert.is_alarm]
    where = f"{engine.checks} checks up to step {engine.last_step}"
    if not alarms:
        return f"Nothing wrong was found in {where}."
    first = alarms[0]
    more = f" {len(alarms) - 1} further finding{'s' if len(alarms) > 2 else ''} below." if len(alarms) > 1 else ""
    return f"First cause: {TITLES.get(first.rule, first.rule)}, since step {first.since_step}.{more}"


def explain(alert: Alert, engine: Engine | None = None) -> list[str]:
    """Return an alert in words: what, since when, evidence, effects, what to do."""
    over = engine is not None and alert.rule not in engine.active
    lines = [
        f"- what: {alert.message}",
        f"- since: step {alert.since_step}, raised at step {alert.step}{'; over by the end' if over else ''}",
        f"- evidence: {evidence(alert)}",
    ]
    if alert.effects:
        lines.append(f"- followed by: {', '.join(TITLES.get(name, name) for name in alert.effects)}")
    lines += [f"- {'try' if index == 0 else 'else'}: {describe(one)}" for index, one in enumerate(alert.remedies)]
    return lines


def evidence(alert: Alert) -> str:
    """Return the numbers behind an alert, each with the limit it crossed."""
    told = []
    for name, value in alert.evidence.items():
        if name.endswith((".limit", ".low")) or isinstance(value, list):
            continue
        limit = alert.evidence.get(f"{name}.limit")
        told.append(f"`{name}` {_number(value)}" + (f" (limit {_number(limit)})" if limit is not None else ""))
    return ", ".join(told) or "see above"


def describe(remedy: Remedy) -> str:
    """Return a remedy in words, with the settings that do it."""
    words = {"set": "to", "multiply": "times", "add": "plus"}
    changes = [f"{c.key} {words[c.op]} {c.value:g} (within {c.low:g} to {c.high:g})" for c in remedy.changes]
    return remedy.advice + (f" [{', '.join(changes)}]" if changes else "")


def clean_bill(engine: Engine) -> list[str]:
    """Return what was looked at and found in order, for a person: one line a subject."""
    subjects = {
        "numbers": ("nonfinite", "loss_spike", "loss_divergence", "loss_plateau"),
        "gradients and updates": ("no_gradient", "no_update", "grad_explode", "grad_vanish", "update_ratio_high"),
        "data": ("split_leak", "invalid_examples", "label_shift", "data_bound"),
        "halting head": ("act_target", "act_collapse", "act_never_halt", "act_always_halt", "act_miscalibrated"),
        "recursion": ("carry_lost", "no_step_gain", "latent_collapse", "latent_drift"),
        "memory": ("memory_blowup", "gate_dead", "gate_closed", "forget_saturated"),
        "validation": ("overfit_gap", "val_regression"),
    }
    alarmed = {alert.rule for alert in engine.alerts if at_least(alert.severity, "warn")}
    lines = []
    for subject, rules in subjects.items():
        seen = [name for name in rules if name in engine.looked]
        wrong = [TITLES[name] for name in rules if name in alarmed]
        state = ", ".join(wrong) if wrong else ("in order" if seen else "not measured in this run")
        lines.append(f"{subject}: {state}")
    return lines


def _looked(engine: Engine) -> str:
    silent = [name for name in engine.rules if name not in engine.looked]
    told = f"{len(engine.looked)} of {len(engine.rules)} rules had the signals they need."
    return told + (f" Without: {', '.join(silent)}." if silent else "")


def _told(event: Mapping[str, Any]) -> str:
    words = event.get("message") or ", ".join(_words(event))
    return f"{event['event']}{' (' + event['rule'] + ')' if event['rule'] else ''}{': ' if words else ''}{words}"


def _words(event: Mapping[str, Any]) -> Iterable[str]:
    for key, value in event.items():
        if key not in ("seq", "step", "event", "rule", "severity", "time", "previous") and not isinstance(value, dict):
            yield f"{key} {value}"


def _number(value: object) -> str:
    if not isinstance(value, float | int):
        return str(value)
    return f"{value:.3g}" if math.isfinite(value) else str(value)
