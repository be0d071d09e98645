"""From an alarm to a verdict: remedies are tried one at a time, kept only if they worked, all of it on record."""

import dataclasses
import json
import math
import time
from pathlib import Path

import pytest
from on_call_cases import LEVELS, QUICK, Answering, Broken, Run, Slow, names

from titans_trm.specialist.outcome import failed
from titans_trm.specialist.protocol import ExpectedEffect, Remedy, read_context, read_results


def results(run: Run, number: int = 1) -> dict:
    return json.loads((run.folder / "specialist" / str(number) / "results.json").read_text())


def test_a_remedy_that_works_is_kept_and_everything_is_on_record(tmp_path: Path) -> None:
    run = Run(tmp_path)
    decision = run.until("apply", std=0.0)
    assert decision["remedy"]["id"] == "act_diversity_weight" and decision["remedy"]["value"] == 0.1
    kept = run.until("keep", std=0.6)
    assert "halting/logit_std went from 0 to 0.6" in kept["reason"]
    assert names(run.log("package_built", "call_started", "result_validated", "call_finished", "remedy_applied",
                         "remedy_verified")) == [
        "package_built", "call_started", "result_validated", "result_validated", "result_validated", "call_finished",
        "remedy_applied", "remedy_verified",
    ]  # fmt: skip
    package = results(run)
    assert package["call"]["path"] == [
        "detect", "gather", "consult", "check", "measure", "judge", "apply", "watch", "keep", "record",
    ]  # fmt: skip
    assert package["call"]["trials"][0]["outcome"] == "kept"
    read_results(package)
    context = read_context((tmp_path / "specialist" / "1" / "context.json").read_text())
    assert context.diagnosis is not None and context.diagnosis.root_causes[0].rule == "act_collapse"
    assert [option.id for option in context.allowed_remedies] == [
        "act_diversity_weight", "q_head_perturb", "act_loss_weight",
    ]  # fmt: skip
    assert any("kept" in line for line in run.said)
    assert all(run.step(std=0.6) is None for _ in range(20))


def test_a_remedy_without_effect_is_rolled_back_and_the_next_is_tried_after_the_cool_down(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.until("apply", std=0.0)
    back = run.until("roll_back", std=0.0)
    assert "not past 0.1" in back["reason"]
    ended = run.now
    second = run.until("apply", std=0.0)
    assert second["remedy"]["id"] == "q_head_perturb" and run.now - ended >= QUICK.cooldown_steps
    run.until("roll_back", std=0.0)
    assert all(run.step(std=0.0) is None for _ in range(20))  # two remedies against one rule
    assert "max_remedies_per_rule" in run.log("remedy_waits")[-1]["reason"]
    assert [record["outcome"] for record in run.on_call.history] == ["rolled_back"] * 2
    assert len(results(run)["call"]["trials"]) == 2


def test_a_remedy_that_harms_is_rolled_back_although_its_metric_rose(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.until("apply", std=0.0)
    assert "rose from 1 to 1.2" in run.until("roll_back", std=0.6, loss=1.2)["reason"]


@pytest.mark.parametrize("loss", [math.nan, 10.0])
def test_a_remedy_that_ruins_the_run_is_rolled_back_at_once(tmp_path: Path, loss: float) -> None:
    run = Run(tmp_path)
    run.until("apply", std=0.0)
    began = run.now
    assert "ran away" in run.until("roll_back", std=0.6, loss=loss)["reason"]
    assert run.now - began == 30


def test_a_remedy_is_not_kept_while_its_alarm_stands(tmp_path: Path) -> None:
    effect = ExpectedEffect(metric="solve/exact", direction="up", within_steps=60)
    run = Run(tmp_path, specialist=Answering(Remedy(id="q_head_perturb", expected_effect=effect)))
    run.until("apply", std=0.0, **{"solve/exact": 0.2})
    back = run.until("roll_back", std=0.0, **{"solve/exact": 0.9})
    assert "but act_collapse still stands" in back["reason"]


def test_a_slow_specialist_is_never_waited_for(tmp_path: Path) -> None:
    slow = Slow(Remedy(id="act_diversity_weight", value=1.0))
    run = Run(tmp_path, specialist=slow)
    started = time.monotonic()
    assert all(run.step(std=0.0) is None for _ in range(20))
    assert time.monotonic() - started < 2.0
    assert names(run.log("call_started", "call_finished")) == ["call_started"]
    slow.may_answer.set()
    assert slow.answered.wait(5)
    decision = run.until("apply", std=0.0)
    assert decision["remedy"]["value"] == pytest.approx(0.1 if LEVELS["act_diversity_weight"] else 1.0)
    run.on_call.close(run.now)


def test_a_specialist_with_a_bug_ends_in_the_record_and_is_not_asked_for_ever(tmp_path: Path) -> None:
    broken = Broken()
    run = Run(tmp_path, dataclasses.replace(QUICK, max_calls_per_rule=10, max_calls=10), broken)
    assert all(run.step(std=0.0) is None for _ in range(10))
    assert len(broken.asked) == QUICK.max_failures
    assert "ZeroDivisionError: a bug" in run.log("call_finished")[0]["reason"]
    assert results(run)["status"] == "failed" and results(run)["call"]["ending"] == "failed"
    assert "max_failures" in run.log("not_called")[0]["reason"]


@pytest.mark.parametrize("ending", ["timeout", "api_error", "malformed", "budget", "unavailable"])
def test_every_bad_ending_is_recorded_by_name(tmp_path: Path, ending: str) -> None:
    run = Run(tmp_path, specialist=Answering(outcome=failed(ending, "it happened")))  # type: ignore[arg-type]
    assert all(run.step(std=0.0) is None for _ in range(10))
    event = run.log("call_finished")[0]
    assert event["ending"] == ending and event["status"] == "failed" and event["reason"] == "it happened"


def test_calls_are_limited(tmp_path: Path) -> None:
    answering = Answering(outcome=failed("malformed", "no"))
    run = Run(tmp_path, dataclasses.replace(QUICK, max_calls_per_rule=2), answering)
    assert all(run.step(std=0.0) is None for _ in range(10))
    assert len(answering.asked) == 2 and "max_calls_per_rule" in run.log("not_called")[0]["reason"]


@pytest.mark.parametrize("wanted", [
    Remedy(id="rm_rf", value=1.0),
    Remedy(id="lr_scale", value=0.5),  # exists, but was not offered against this alarm
    Remedy(id="act_loss_weight", value=math.inf),
    Remedy(id="act_loss_weight"),
    Remedy(id="act_loss_weight", value=0.5),  # is what it is already
    Remedy(id="q_head_perturb", expected_effect=ExpectedEffect(metric="happiness", direction="up")),
])  # fmt: skip
def test_what_is_not_allowed_is_refused_with_a_reason(tmp_path: Path, wanted: Remedy) -> None:
    run = Run(tmp_path, specialist=Answering(wanted))
    assert all(run.step(std=0.0) is None for _ in range(10))
    assert len(run.log("result_rejected")) == 1 and run.log("result_rejected")[0]["reason"]
    assert not run.log("remedy_applied")


def test_a_value_out_of_bounds_is_brought_inside(tmp_path: Path) -> None:
    run = Run(tmp_path, specialist=Answering(Remedy(id="act_loss_weight", value=500.0)))
    assert run.until("apply", std=0.0)["remedy"]["value"] == 2.0
    assert run.log("result_validated")[0]["reason"] == "bounded from 500 to 2"


def test_advise_asks_and_changes_nothing_record_does_not_even_ask(tmp_path: Path) -> None:
    advising, recording = Answering(Remedy(id="q_head_perturb")), Answering(Remedy(id="q_head_perturb"))
    for folder, mode, specialist in (("a", "advise", advising), ("b", "record", recording)):
        run = Run(tmp_path / folder, dataclasses.replace(QUICK, mode=mode), specialist)  # type: ignore[arg-type]
        assert all(run.step(std=0.0) is None for _ in range(20))
        assert (tmp_path / folder / "specialist" / "1" / "context.json").is_file()
    assert len(advising.asked) == 1 and not recording.asked


def test_the_least_severity_is_respected(tmp_path: Path) -> None:
    run = Run(tmp_path, dataclasses.replace(QUICK, severity="error"), answering := Answering())
    assert all(run.step(std=0.0) is None for _ in range(10))
    assert not answering.asked


def test_a_trial_goes_on_after_a_resume(tmp_path: Path) -> None:
    first = Run(tmp_path)
    first.until("apply", std=0.0)
    for _ in range(3):
        first.step(std=0.6)
    saved = json.loads(json.dumps(first.on_call.state_dict()))
    second = Run(tmp_path)
    second.on_call.load_state_dict(saved)
    second.engine.load_state_dict(first.engine.state_dict())
    second.now = first.now
    assert second.until("keep", std=0.6)["reason"] == first.until("keep", std=0.6)["reason"]
    assert second.now == first.now
    assert second.on_call.history == first.on_call.history


def test_the_end_of_a_run_closes_open_calls(tmp_path: Path) -> None:
    slow = Slow()
    run = Run(tmp_path, specialist=slow)
    for _ in range(3):
        run.step(std=0.0)
    slow.may_answer.set()
    run.on_call.close(run.now)
    assert run.log("call_finished")[0]["ending"] == "answered"


def test_a_call_that_never_ends_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("titans_trm.specialist.on_call._PATIENCE_SECONDS", 0.05)
    slow = Slow()
    run = Run(tmp_path, specialist=slow)
    for _ in range(3):
        run.step(std=0.0)
    run.on_call.close(run.now)
    assert run.log("call_finished")[0]["reason"] == "the run ended first"
    slow.may_answer.set()


def test_other_processes_follow_in_silence(tmp_path: Path) -> None:
    leader, follower = Run(tmp_path / "0"), Run(tmp_path / "1")
    follower.on_call.follow()
    decision = leader.until("apply", std=0.0)
    follower.on_call.trial_began(decision, {}, leader.now)
    follower.on_call.trial_ended({"do": "keep", "reason": "told so"}, leader.now)
    assert not (tmp_path / "1").exists()
    assert follower.on_call.history[0]["outcome"] == "kept"
