"""Every rule fires on what it is for, through the engine, and stays silent on the healthy case that looks like it."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from titans_trm.diagnostics.catalogue import RULES, build_rules
from titans_trm.diagnostics.config import DiagnosticsConfig
from titans_trm.diagnostics.engine import Engine
from titans_trm.diagnostics.report import explain
from titans_trm.diagnostics.rule import ALL
from titans_trm.diagnostics.signals import RunFacts, Signals
from titans_trm.errors import InputError

Values = dict[str, float]
Make = Callable[[int], Values]  # check number, from 0 -> signals; the fault strikes at check STRIKE

STRIKE, CHECKS = 30, 60
FACTS = RunFacts(max_steps=600, vocab_size=6, max_supervision_steps=4, batch_size=64)
CONVEX = replace(FACTS, gate="convex")


def healthy(check: int) -> Values:
    """Signals of a run that learns: loss falls, the head follows, everything else is steady."""
    loss = 0.2 + 1.5 * 0.93**check
    solved = min(0.4, 0.02 * check)
    wobble = 1.0 + 0.1 * ((check * 7) % 5 - 2)
    groups = ("embedding", "block0.attention", "block0.memory", "block0.mlp", "head", "act_head")
    return {
        "loss/total": loss + 0.2,
        "loss/cross_entropy": loss,
        "loss/cross_entropy_max": loss * 1.1 * wobble,
        "loss/halting": 0.3,
        "loss/nonfinite": 0.0,
        "halting/cross_entropy": 0.3,
        "grad/norm": wobble,
        "grad/norm_max": 1.5 * wobble,
        "solve/exact": solved,
        "solve/last": min(1.0, solved + 0.02),
        "solve/gain": 0.05 * wobble,
        "solve/first": loss,
        "halting/probability": solved,
        "halting/logit_mean": -5.0 + 0.15 * check,
        "halting/logit_std": 0.3 * wobble,
        "halting/finished": 100.0,
        "update/median": 0.005,
        "update/total": 0.05 * (check + 1),
        "latent/z_rms": 1.0,
        "latent/y_rms": 1.0,
        "latent/spread": 0.3,
        "latent/change": 0.1,
        "latent/reset": 0.0,
        "memory/block0/norm": 1.0,
        "memory/block0/write": 3.0 * wobble,
        "memory/block0/inner_loss": 40.0 * wobble,
        "memory/block0/theta": 0.5,
        "memory/block0/alpha": 0.01,
        "memory/block0/eta": 0.5,
        "gate/block0/std": 0.2,
        "gate/block0/closed": 0.0,
        "gate/block0/open": 0.0,
        "mlp/block0/dead": 0.0,
        "labels/shift": 0.02,
        "labels/shift_limit": 0.1,
        "labels/entropy": 1.386,
        "labels/invalid": 0.0,
        "time/step": 0.1 * wobble,
        "time/wait": 0.01,
        "system/memory": 0.5,
        "lr": 1e-3,
        **{f"grad/{group}": 0.1 * wobble for group in groups},
        **{f"weight/{group}": 5.0 for group in groups},
        **{f"update/{group}": 0.005 for group in groups},
    }


def run(
    change: Make | None = None,
    *,
    facts: RunFacts = FACTS,
    names: dict[str, list[str]] | None = None,
    first: Values | None = None,
    vals: Callable[[int], Values] | None = None,
    limits: dict[str, dict[str, float]] | None = None,
    strike: int = STRIKE,
) -> Engine:
    """Feed a run, changed from check `strike` on, and return the engine."""
    config = DiagnosticsConfig(limits=limits or {})
    engine = Engine(build_rules(facts, config), facts, config)
    engine.update(Signals(0, {"data/leak": 0.0, "data/leaked": 0.0, "data/duplicates": 0.0, "data/imbalance": 1.0,
                              "data/majority": 0.25, "data/label_entropy": 1.386, **(first or {})}))  # fmt: skip
    for check in range(CHECKS):
        values = healthy(check)
        struck = check >= strike
        values |= change(check) if change is not None and struck else {}
        engine.update(Signals(10 * (check + 1), values, names or {} if struck else {}))
        if check % 10 == 9:
            val = {"val/exact_accuracy": values["solve/exact"], "val/cross_entropy": values["loss/cross_entropy"]}
            val |= {"val/num_examples": 500.0, "val/mean_supervision_steps_adaptive": 3.0}
            val |= vals(check) if vals is not None and struck else {}
            engine.update(Signals(10 * (check + 1), val))
    engine.finish()
    return engine


def fixed(**values: float) -> Make:
    return lambda _: {name.replace("__", "/"): value for name, value in values.items()}


def named(values: Values) -> Make:
    return lambda _: values


def test_a_healthy_run_is_left_alone() -> None:
    engine = run()
    assert engine.alerts == []
    assert set(engine.looked) == set(engine.rules), "every rule had what it watches, and was silent"


STUCK = {"solve/exact": 0.4, "halting/logit_mean": -1.0}  # in the band where the head must tell answers apart
HALF = {"solve/exact": 0.4, "solve/last": 0.4, "halting/probability": 0.4}  # the head knows it
CASES: dict[str, Make] = {
    "nonfinite": fixed(loss__nonfinite=3.0),
    "invalid_examples": fixed(labels__invalid=1.0),
    "update_ratio_high": named({"update/median": 0.5}),
    "memory_blowup": named({"memory/block0/write": 100.0}),
    "gate_closed": named({"gate/block0/closed": 1.0}),
    "gate_dead": named({"gate/block0/std": 1e-4}),
    "label_shift": named({"labels/shift": 0.8}),
    "carry_lost": named({"latent/reset": 1.0}),
    "latent_collapse": named({"latent/spread": 1e-5}),
    "latent_drift": named({"latent/z_rms": 20.0}),
    "grad_explode": named({"grad/norm_max": 400.0}),
    "act_target": named({"loss/halting": 0.693}),
    "act_collapse": named({**STUCK, "halting/logit_std": 1e-3}),
    "act_always_halt": named({**STUCK, "halting/probability": 0.99, "halting/logit_mean": 5.0}),
    "act_never_halt": named({**STUCK, "halting/probability": 0.001, "halting/logit_mean": -7.0}),
    "act_miscalibrated": named({**STUCK, "halting/probability": 0.85, "halting/logit_mean": 1.7}),
    "grad_vanish": named({"grad/block0.attention": 1e-9}),
    "no_step_gain": named({"solve/gain": 1e-4, **HALF}),
    "dead_units": named({"mlp/block0/dead": 0.8}),
    "loss_spike": lambda check: {"loss/cross_entropy_max": 5.0} if check == STRIKE else {},
    "loss_divergence": named({"loss/cross_entropy": 1.2, "solve/first": 1.2}),
    "forget_saturated": named({"memory/block0/alpha": 0.99}),
    "loss_plateau": named({"loss/cross_entropy": 0.37, **HALF}),
    "data_bound": named({"time/wait": 0.3}),
    "memory_near_budget": named({"system/memory": 0.97}),
    "throughput_drop": named({"time/step": 0.3}),
    "act_loss_dominates": named({"loss/total": 0.2}),
    "step_regress": named({"solve/gain": -0.2}),
    "fixed_point_stall": named({"latent/change": 1e-6, **HALF}),
    "surprise_saturated": named({"memory/block0/theta": 0.999}),
    "inner_loss_divergence": named({"memory/block0/inner_loss": 4000.0}),
}


@pytest.mark.parametrize("rule", CASES)
def test_a_rule_fires_on_what_it_is_for_and_is_named_first(rule: str) -> None:
    engine = run(CASES[rule])
    found = engine.diagnosis()
    assert found and found[0].rule == rule, [alert.rule for alert in engine.alerts]
    alert = found[0]
    assert alert.since_step >= 10 * STRIKE
    assert alert.message.endswith(".") and alert.evidence
    assert all(isinstance(line, str) for line in explain(alert, engine))
    if alert.is_alarm:
        assert alert.remedies, "an alarm says what to do"


@pytest.mark.parametrize("rule", ["memory_blowup", "inner_loss_divergence"])
def test_a_remedy_for_the_memory_has_not_worked_while_its_alarm_stands(rule: str) -> None:
    alert = run(CASES[rule]).active[rule]
    (name, ill), (_, limit) = [(name, value) for name, value in alert.evidence.items() if name.startswith("memory/")]
    for remedy in alert.remedies[:2]:
        check = remedy.verification
        assert check is not None and (check.signal, check.value) == (name, limit)
        assert isinstance(ill, float) and not check.met_by(ill)
        assert check.met_by(healthy(STRIKE)[name]), "as it was before"


def test_a_memory_out_of_bounds_from_the_start_must_come_below_the_bound_for_any_time() -> None:
    alert = run(named({"memory/block0/write": 1e6}), strike=0).active["memory_blowup"]
    check = alert.remedies[0].verification
    assert check is not None and not check.met_by(1e6) and check.met_by(9e3)


def test_a_memory_that_is_used_more_and_more_does_not_blow_up() -> None:
    """Like `experiment=text`: dozens of times as much is written after twenty checks, while the loss falls."""
    used = run(lambda check: {"memory/block0/write": 0.5 * 1.3 ** min(check, 17)}, strike=0)
    assert "memory_blowup" not in {alert.rule for alert in used.alerts}


def test_every_rule_has_its_case() -> None:
    elsewhere = {"split_leak", "no_gradient", "no_update", "gate_flood", "update_ratio_low", "overfit_gap", "init_loss",
                 "val_regression", "class_imbalance", "duplicate_rows", "ponder_drift"}  # fmt: skip
    assert {rule.id for rule in RULES} == set(CASES) | elsewhere


def test_ids_and_titles_are_unique_and_causes_exist() -> None:
    ids = [rule.id for rule in RULES]
    assert len(set(ids)) == len(ids) == len({rule.title for rule in RULES})
    for rule in RULES:
        assert rule.explains <= {*ids, *ALL}, f"{rule.id} explains what does not exist"
        assert 1 <= rule.needed <= rule.window and rule.__doc__


@pytest.mark.parametrize("rule", ["no_gradient", "no_update"])
def test_parameters_that_do_not_learn_are_named_with_their_part(rule: str) -> None:
    name = "recursion.net.blocks.0.memory.qkv.weight"
    engine = run(names={"no_grad" if rule == "no_gradient" else "no_update": [name]})
    alert = engine.diagnosis()[0]
    assert (alert.rule, alert.scope) == (rule, "block0.memory")
    assert name in alert.message


def test_a_parameter_that_rests_once_is_no_fault() -> None:
    config = DiagnosticsConfig()
    engine = Engine(build_rules(FACTS, config), FACTS, config)
    for check in range(20):
        names = {"no_update": ["head.weight"], "no_grad": ["act_head.bias"]} if check % 3 else {}
        engine.update(Signals(10 * (check + 1), healthy(check), names))
    assert engine.alerts == []


def test_frozen_weights_at_rate_zero_and_a_head_without_loss_are_expected() -> None:
    assert run(named({"lr": 0.0}), names={"no_update": ["head.weight"]}).alerts == []
    silent = RunFacts(max_steps=600, vocab_size=6, batch_size=64, halting_weight=0.0)
    unread = ["act_head.weight", "register"]  # in text only the head reads the register
    assert run(names={"no_grad": unread}, facts=silent).alerts == []
    assert [alert.rule for alert in run(names={"no_grad": unread}).alerts] == ["no_gradient"]


def test_a_head_that_rightly_says_not_yet_to_all_may_have_a_tiny_gradient() -> None:
    def vanished(values: Values) -> list[str]:
        return [alert.scope for alert in run(named(values)).alerts if alert.rule == "grad_vanish"]

    tiny = {"grad/act_head": 1e-9}
    sure = {"halting/cross_entropy": 1e-6}
    assert vanished(tiny) == ["act_head"]
    assert vanished(tiny | sure) == []
    assert vanished(tiny | sure | {"grad/block0.attention": 1e-9}) == ["block0.attention"]


def test_skipped_steps_of_a_gradient_scaler_are_normal_but_broken_weights_are_not() -> None:
    scaled = RunFacts(max_steps=600, vocab_size=6, batch_size=64, scaled_gradients=True)
    assert run(fixed(loss__nonfinite=1.0), facts=scaled).alerts == []
    assert run(names={"not_finite": ["head.weight"]}, facts=scaled).diagnosis()[0].rule == "nonfinite"


def test_a_rate_is_too_high_at_a_smaller_ratio_where_nothing_is_learned() -> None:
    guessing = {"update/median": 0.03, "loss/cross_entropy": 1.5}
    assert run(named(guessing)).diagnosis()[0].rule == "update_ratio_high"
    assert "update_ratio_high" not in {alert.rule for alert in run(named({"update/median": 0.03})).alerts}
    assert "update_ratio_high" not in {alert.rule for alert in run(named(guessing | {"update/median": 0.01})).alerts}


def test_a_low_rate_is_told_from_the_way_the_weights_will_go() -> None:
    slow = named({"update/median": 1e-4, "update/total": 0.01, "loss/cross_entropy": 1.6, "solve/exact": 0.0})
    assert "update_ratio_low" in run(slow).active
    tuned = named({"update/median": 1e-4, "update/total": 0.01})
    assert "update_ratio_low" not in run(tuned).active, "a run that has learned enough may go slowly"
    long = RunFacts(max_steps=500_000, vocab_size=6, batch_size=64)
    assert "update_ratio_low" not in run(slow, facts=long).active, "small steps, but enough of them"


@pytest.mark.parametrize(
    "values",
    [
        {"halting/logit_std": 0.0, "solve/exact": 0.02},  # a fresh head is uniform by design
        {"halting/logit_std": 0.0, "solve/exact": 0.97},  # everything solved
    ],
    ids=["nothing solved", "all solved"],
)
def test_a_uniform_head_is_right_while_there_is_nothing_to_tell_apart(values: Values) -> None:
    assert "act_collapse" not in {alert.rule for alert in run(named(values)).alerts}


def test_with_a_single_step_there_is_nothing_to_halt() -> None:
    single = replace(FACTS, max_supervision_steps=1)
    assert run(named({**STUCK, "halting/logit_std": 1e-3, "halting/probability": 0.001}), facts=single).alerts == []


def test_a_head_that_is_on_its_way_is_left_alone() -> None:
    def late(check: int) -> Values:
        return {"solve/exact": 0.6, "halting/probability": 0.02, "halting/logit_mean": -8.0 + 0.1 * check}

    assert {alert.rule for alert in run(late, strike=0, vals=lambda _: {"val/exact_accuracy": 0.6}).alerts} == set()


def test_a_convex_gate_is_dead_when_open_and_flooded_when_shut() -> None:
    assert run(named({"gate/block0/open": 1.0}), facts=CONVEX).diagnosis()[0].rule == "gate_dead"
    assert run(named({"gate/block0/closed": 1.0}), facts=CONVEX).diagnosis()[0].rule == "gate_flood"


def test_a_leak_is_found_before_the_first_step() -> None:
    alert = run(first={"data/leak": 0.5, "data/leaked": 48.0}).diagnosis()[0]
    assert (alert.rule, alert.severity, alert.since_step) == ("split_leak", "error", 0)
    assert run(first={"data/leak": 0.002, "data/leaked": 1.0}).diagnosis()[0].severity == "info"


def test_lopsided_labels_and_duplicates_are_notes() -> None:
    for first in ({"data/imbalance": 30.0}, {"data/label_entropy": 0.3}, {"data/duplicates": 0.2}):
        assert [alert.severity for alert in run(first=first).diagnosis()] == ["info"]
    assert run(first={"data/majority": 0.99}).diagnosis()[0].severity == "warn"


def test_a_large_gap_is_a_note_and_learning_by_heart_an_alarm() -> None:
    gap = run(named({"solve/last": 0.99}), vals=lambda _: {"val/exact_accuracy": 0.5})
    assert [(a.rule, a.severity) for a in gap.alerts if a.rule == "overfit_gap"] == [("overfit_gap", "info")]

    def worse(check: int) -> Values:
        return {"val/exact_accuracy": 0.5, "val/cross_entropy": 0.5 + 0.05 * check}

    by_heart = run(named({"solve/last": 0.99}), vals=worse)
    assert ("overfit_gap", "warn") in [(alert.rule, alert.severity) for alert in by_heart.alerts]


def test_a_gap_within_chance_is_none() -> None:
    small = run(named({"solve/last": 0.8}), vals=lambda _: {"val/exact_accuracy": 0.7, "val/num_examples": 20.0})
    assert "overfit_gap" not in {alert.rule for alert in small.alerts}


def test_validation_that_falls_beyond_chance_is_an_alarm() -> None:
    fall = run(vals=lambda check: {"val/exact_accuracy": 0.9 if check < 40 else 0.3})
    assert "val_regression" in {alert.rule for alert in fall.alerts}
    noise = run(vals=lambda check: {"val/exact_accuracy": 0.9 if check < 40 else 0.86, "val/num_examples": 100.0})
    assert noise.alerts == []


def test_more_thinking_for_nothing_is_a_note() -> None:
    drift = run(vals=lambda check: {"val/mean_supervision_steps_adaptive": 0.12 * check, "val/exact_accuracy": 0.1})
    assert ("ponder_drift", "info") in [(alert.rule, alert.severity) for alert in drift.alerts]


def test_a_loss_far_above_ignorance_at_the_start_is_a_note() -> None:
    config = DiagnosticsConfig()
    engine = Engine(build_rules(FACTS, config), FACTS, config)
    engine.update(Signals(10, {"loss/cross_entropy": 9.0, "loss/cross_entropy_max": 12.0}))
    assert [alert.rule for alert in engine.finish().raised] == ["init_loss"]


def test_a_plateau_at_the_entropy_of_the_labels_points_at_the_labels() -> None:
    alert = run(named({"loss/cross_entropy": 1.38, "solve/exact": 0.0})).active["loss_plateau"]
    assert "labels" in alert.message and "own target" in alert.remedies[0].advice


def test_thresholds_come_from_the_configuration() -> None:
    assert run(named({"time/wait": 0.3}), limits={"data_bound": {"warn": 0.4}}).alerts == []


@pytest.mark.parametrize(
    ("options", "meant"),
    [
        ({"disabled": ["act_colapse"]}, "act_collapse"),
        ({"limits": {"act_colapse": {}}}, "act_collapse"),
        ({"limits": {"act_collapse": {"stdd": 1.0}}}, "std"),
    ],
)
def test_a_rule_or_threshold_that_does_not_exist_is_an_error(options: dict[str, object], meant: str) -> None:
    with pytest.raises(InputError, match=rf"which does not exist. Did you mean {meant}\?"):
        build_rules(FACTS, DiagnosticsConfig(**options))  # type: ignore[arg-type]


def test_a_disabled_rule_does_not_look() -> None:
    rules = build_rules(FACTS, DiagnosticsConfig(disabled=["loss_plateau"]))
    assert len(rules) == len(RULES) - 1


@pytest.mark.parametrize("key", ["every_steps", "probe_examples", "warm_up_steps", "audit_examples"])
def test_impossible_settings_are_refused(key: str) -> None:
    with pytest.raises(ValueError, match=f"diagnostics.{key}=-1"):
        DiagnosticsConfig(**{key: -1})


def test_thresholds_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match=r"limits.act_collapse=0.1 is not a section"):
        DiagnosticsConfig(limits={"act_collapse": 0.1})  # type: ignore[dict-item]


def test_an_impossible_share_is_refused() -> None:
    with pytest.raises(ValueError, match=r"warm_up_share=2"):
        DiagnosticsConfig(warm_up_share=2.0)


def _signals() -> Iterator[Signals]:
    yield Signals(10, {"a/x": 1.0, "a/x/y": 2.0, "b": 3.0})


def test_scoped_signals_are_found_by_their_parts() -> None:
    (signals,) = _signals()
    assert signals.scoped("a") == {"x": 1.0}
    assert signals.scoped("a", "y") == {"x": 2.0}
    assert signals.get("b") == 3.0 and signals.get("c") is None
