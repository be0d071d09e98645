"""One storm, one alarm: evidence before belief, causes before effects, and the same after a resume."""

import json
from typing import Any

import pytest

from titans_trm.diagnostics.alert import Alert, Change, Remedy, Verification
from titans_trm.diagnostics.config import DiagnosticsConfig
from titans_trm.diagnostics.engine import Engine, Update
from titans_trm.diagnostics.rule import Finding, Rule
from titans_trm.diagnostics.signals import RunFacts, Signals

FACTS = RunFacts(max_steps=10_000)


class Above(Rule):
    """Fires while a signal named like the rule is above 0; 2 and more is graver."""

    severity = "warn"
    needed, window, clear, warm_up = 2, 3, 2, False
    memory = {"seen": 0}
    seen: int

    def look(self, signals: Signals) -> Finding | None:
        self.seen += 1
        value = signals.values.get(self.id, 0.0)
        if not value:
            return None
        return Finding(f"{self.id} is {value}", {self.id: value}, severity={0.5: "info", 2.0: "error"}.get(value))

    def remedies(self, finding: Finding) -> tuple[Remedy, ...]:
        check = Verification("cause", "<", 1.0, 100)
        return (
            Remedy("lr_scale", "halve the rate", (Change("optimizer.lr", "multiply", 0.5, 0.0, 1.0),), None, check),
        )


class Cause(Above):
    id, title = "cause", "cause"
    explains = frozenset({"middle"})


class Middle(Above):
    id, title = "middle", "middle"
    explains = frozenset({"effect"})


class Effect(Above):
    id, title = "effect", "effect"


class Other(Above):
    id, title = "other", "other"
    warm_up = True


class Deadly(Above):
    id, title, severity = "deadly", "deadly", "fatal"
    needed, window = 1, 1


def engine(**options: Any) -> Engine:
    config = DiagnosticsConfig(**{"settle_checks": 1, "warm_up_steps": 0, "cooldown_steps": 100, **options})
    return Engine([rule(FACTS) for rule in (Deadly, Cause, Middle, Effect, Other)], FACTS, config)


def feed(machine: Engine, *rows: dict[str, float], start: int = 0) -> list[Update]:
    return [machine.update(Signals(10 * (start + i + 1), row)) for i, row in enumerate(rows)]


def raised(updates: list[Update]) -> list[tuple[int, str]]:
    return [(alert.step, alert.rule) for update in updates for alert in update.raised]


def test_one_observation_is_no_evidence() -> None:
    assert raised(feed(engine(), {"other": 1.0}, {}, {}, {}, {"other": 1.0}, {}, {}, {})) == []


def test_enough_evidence_raises_once_and_knows_since_when() -> None:
    machine = engine()
    updates = feed(machine, {}, *[{"other": 1.0}] * 6)
    assert raised(updates) == [(40, "other")]
    alert = machine.active["other"]
    assert (alert.since_step, alert.message, alert.evidence) == (20, "other is 1.0", {"other": 1.0})
    assert alert.is_alarm


def test_a_fatal_finding_does_not_wait() -> None:
    assert raised(feed(engine(settle_checks=5), {"deadly": 1.0})) == [(10, "deadly")]


def test_a_symptom_waits_for_its_cause_and_only_the_cause_calls() -> None:
    machine = engine(settle_checks=2)
    updates = feed(machine, {"effect": 1.0}, *[{"effect": 1.0, "cause": 1.0}] * 6)
    assert [rule for _, rule in raised(updates)] == ["cause"]
    assert machine.active["effect"].cause == "cause", "explained through middle, which never fired"
    assert machine.active["cause"].effects == ("effect",)
    assert [alert.rule for alert in machine.diagnosis()] == ["cause"]


def test_an_effect_that_comes_later_is_written_down_and_calls_nobody() -> None:
    machine = engine()
    feed(machine, *[{"cause": 1.0}] * 4)
    updates = feed(machine, *[{"cause": 1.0, "effect": 1.0}] * 6, start=4)
    assert raised(updates) == []
    effects = [alert for update in updates for alert in update.effects]
    assert [(alert.rule, alert.cause) for alert in effects] == [("effect", "cause")]


def test_a_cause_that_shows_late_takes_over_what_it_explains() -> None:
    machine = engine()
    updates = feed(machine, *[{"effect": 1.0}] * 4, *[{"effect": 1.0, "cause": 1.0}] * 4)
    assert [rule for _, rule in raised(updates)] == ["effect", "cause"]
    assert [alert.rule for alert in machine.diagnosis()] == ["cause"]
    late = engine(storm_steps=10)
    feed(late, *[{"effect": 1.0}] * 10, *[{"effect": 1.0, "cause": 1.0}] * 4)
    assert [alert.rule for alert in late.diagnosis()] == ["effect", "cause"], "a hundred steps apart: two storms"


def test_a_note_does_not_hide_an_alarm() -> None:
    machine = engine()
    updates = feed(machine, *[{"cause": 0.5, "effect": 1.0}] * 6)
    assert [rule for _, rule in raised(updates)] == ["cause", "effect"]
    assert machine.active["effect"].cause is None


class First(Above):
    id, title = "first", "first"
    explains = frozenset({"second"})


class Second(Above):
    id, title = "second", "second"
    explains = frozenset({"first"})


def test_of_two_that_explain_each_other_the_first_in_causal_order_is_raised() -> None:
    config = DiagnosticsConfig(settle_checks=1, warm_up_steps=0)
    machine = Engine([First(FACTS), Second(FACTS)], FACTS, config)
    assert [rule for _, rule in raised(feed(machine, *[{"first": 1.0, "second": 1.0}] * 5))] == ["first"]
    assert machine.active["second"].cause == "first"
    late = Engine([First(FACTS), Second(FACTS)], FACTS, config)
    updates = feed(late, *[{"second": 1.0}] * 4, *[{"first": 1.0, "second": 1.0}] * 4)
    assert [rule for _, rule in raised(updates)] == ["second"], "the alarm that stands explains the other"


def test_unrelated_alerts_are_both_raised_in_causal_order() -> None:
    assert [rule for _, rule in raised(feed(engine(), *[{"other": 1.0, "effect": 1.0}] * 4))] == ["effect", "other"]


def test_an_alert_escalates_clears_and_rests() -> None:
    machine = engine()
    feed(machine, *[{"other": 1.0}] * 4)
    (update,) = feed(machine, {"other": 2.0}, start=4)
    assert [alert.severity for alert in update.escalated] == ["error"]
    quiet = feed(machine, {}, {}, {}, start=5)
    assert [alert.rule for update in quiet for alert in update.cleared] == ["other"]
    assert machine.active == {}
    assert raised(feed(machine, *[{"other": 1.0}] * 6, start=8)) == [], "rests for 100 steps"
    assert len(raised(feed(machine, *[{"other": 1.0}] * 8, start=14))) == 1


def test_rules_with_a_warm_up_are_silent_during_it() -> None:
    machine = engine(warm_up_steps=50)
    assert raised(feed(machine, *[{"other": 1.0, "effect": 1.0}] * 5)) == [(30, "effect")]
    assert raised(feed(machine, *[{"other": 1.0}] * 4, start=5)) == [(80, "other")]


def test_the_warm_up_of_a_short_run_is_short_and_covers_that_of_the_rate() -> None:
    config = DiagnosticsConfig(warm_up_steps=100, warm_up_share=0.2)
    assert Engine([], RunFacts(max_steps=10_000), config).warm_up_steps == 100
    assert Engine([], RunFacts(max_steps=200), config).warm_up_steps == 40
    assert Engine([], RunFacts(max_steps=200, warmup_steps=30), config).warm_up_steps == 60


def test_the_end_of_the_run_ends_the_waiting() -> None:
    machine = engine(settle_checks=10)
    assert raised(feed(machine, *[{"effect": 1.0}] * 3)) == []
    assert [alert.rule for alert in machine.finish().raised] == ["effect"]


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_restored_engine_goes_on_as_if_nothing_had_happened(cut: int) -> None:
    rows: list[dict[str, float]] = [{}, {"effect": 1.0}, {"effect": 1.0, "other": 1.0}, *[{"cause": 1.0}] * 3, {}, {}]
    rows += [{"other": 2.0}, {"other": 1.0}, {"other": 1.0}, {"deadly": 1.0}, {"effect": 1.0}, {"effect": 1.0}]
    whole = engine()
    feed(whole, *rows)
    first, second = engine(), engine()
    feed(first, *rows[:cut])
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    feed(second, *rows[cut:], start=cut)
    assert second.state_dict() == whole.state_dict()
    assert second.alerts == whole.alerts


def test_an_alert_survives_json() -> None:
    machine = engine()
    feed(machine, *[{"cause": 1.0, "effect": 1.0}] * 5)
    for alert in machine.alerts:
        assert Alert.from_dict(json.loads(json.dumps({**alert.to_dict(), "seq": 1, "event": "alert"}))) == alert


def test_a_change_stays_within_its_bounds() -> None:
    assert Change("loss.diversity_weight", "multiply", 10.0, 0.0, 10.0).apply(0.1) == 1.0
    assert Change("loss.diversity_weight", "multiply", 10.0, 0.0, 10.0).apply(5.0) == 10.0
    assert Change("x", "add", -3.0, -2.0, 2.0).apply(0.0) == -2.0
    assert Change("x", "set", 1.0, 0.0, 2.0).apply(7.0) == 1.0


def test_a_verification_passes_on_its_side_only() -> None:
    assert Verification("a", ">", 1.0, 10).met_by(1.5) and not Verification("a", ">", 1.0, 10).met_by(float("nan"))
    assert Verification("a", "<", 1.0, 10).met_by(0.5) and not Verification("a", "<", 1.0, 10).met_by(1.5)
