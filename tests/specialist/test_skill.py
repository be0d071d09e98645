"""The skill: routes, gathers, asks, verifies. And its commands."""

import asyncio
import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from titans_trm.cli import main
from titans_trm.diagnostics import remedies
from titans_trm.diagnostics.alert import Alert
from titans_trm.diagnostics.record import SignalLog
from titans_trm.diagnostics.signals import Signals
from titans_trm.errors import InputError
from titans_trm.specialist.agent_tools import denial
from titans_trm.specialist.audit import Audit
from titans_trm.specialist.config import SpecialistConfig
from titans_trm.specialist.context import (
    MAX_BYTES,
    code_files,
    context_of_alarm,
    context_of_request,
    diagnosis_of,
    levels_of,
    requirements_in,
)
from titans_trm.specialist.expert import consult, execute_ml_expert, make_specialist
from titans_trm.specialist.protocol import read_context, read_results
from titans_trm.specialist.quantities import Measured
from titans_trm.specialist.remedies import REMEDIES, clamp, fix_command, options_of
from titans_trm.specialist.verify import verify_results
from titans_trm.specialist.worktree import Worktree, repository

RULES = SpecialistConfig()
CONFIG: dict[str, Any] = {
    "seed": 3,
    "run_dir": "/home/jane/runs/1",
    "data": {"task": "sudoku", "size": 4, "train_file": "/home/jane/secret.csv", "test_file": "t.csv"},
    "model": {"width": 64, "halting": {"exploration": 0.1}, "memory": {"max_inner_grad": 10.0, "max_step_size": 1.0}},
    "loss": {"diversity": "off", "diversity_weight": 0.1, "halting_weight": 0.5},
    "optimizer": {"name": "adamw", "lr": 1e-3},
    "trainer": {"gradient_clip_val": None, "max_steps": 100},
    "logger": {"wandb": {"api_key": "canary"}},
}


def alarm(rule: str = "act_collapse", *suggested: Any, **changes: Any) -> Alert:
    known = suggested or (remedies.MORE_DIVERSITY, remedies.PERTURB_HALTING_HEAD, remedies.MORE_HALTING_LOSS)
    evidence = {"halting/logit_std": 0.01, "where": "act_head", "odd": math.nan}
    alert = Alert(rule, "warn", 300, 270, f"{rule} happened", evidence=evidence, remedies=known)
    return dataclasses.replace(alert, **changes)


def test_a_package_of_an_alarm_holds_what_is_allowed_and_nothing_else() -> None:
    package = context_of_alarm(
        alarm(), CONFIG, RULES, measurements={"loss/cross_entropy": 0.7, "test/exact_accuracy": 0.9, "x": math.inf},
        facts={"experiment": "quickstart", "step": 300, "user": "jane"},
        history=[{"remedy": "lr_scale", "token": "canary"}],
    )  # fmt: skip
    text = json.dumps(package.to_dict())
    assert not any(word in text for word in ("canary", "jane", "secret.csv", "t.csv", "test/", "run_dir"))
    assert package.config["model.width"] == 64 and package.config["data.task"] == "sudoku"
    assert package.measurements == {"loss/cross_entropy": 0.7}
    assert package.run == {"experiment": "quickstart", "step": 300}
    cause = package.diagnosis.root_causes[0]  # type: ignore[union-attr]
    assert cause.rule == "act_collapse" and cause.step == 270 and cause.measured == {"halting/logit_std": 0.01}
    assert package.allowed_remedies[0].suggested == 0.1 and package.allowed_remedies[0].current == 0.0


def test_a_package_is_never_too_long() -> None:
    many = {f"signal/{number}": float(number) for number in range(5000)}
    history = [{"remedy": "lr_scale", "reason": "word " * 200} for _ in range(100)]
    package = context_of_alarm(alarm(), CONFIG, RULES, measurements=many, history=history)
    assert len(json.dumps(package.to_dict())) <= MAX_BYTES and package.allowed_remedies
    asked = context_of_request("fix the loss", RULES, errors={f"log {n}": "line of a log\n" * 900 for n in range(40)})
    assert len(json.dumps(asked.to_dict())) <= MAX_BYTES
    assert len(context_of_request("long " * 20_000, RULES).task) <= MAX_BYTES


def test_several_causes_are_ranked_and_the_doubt_is_said() -> None:
    found = diagnosis_of([alarm("grad_explode"), alarm("loss_spike")])
    assert [cause.rank for cause in found.root_causes] == [1, 2] and found.uncertainty_flags
    assert found.confidence < diagnosis_of([alarm()]).confidence
    assert diagnosis_of([]).status == "healthy"


def test_options_are_what_the_rule_suggests_as_far_as_it_is_allowed() -> None:
    levels = levels_of(CONFIG)
    raised = options_of(alarm("update_ratio_low", remedies.HIGHER_RATE, remedies.STOP), levels)
    assert [(option.id, option.suggested) for option in raised] == [("lr_raise", 2.0)]
    assert options_of(alarm("split_leak", remedies.STOP, remedies.advise("look")), levels) == []
    lowered = options_of(alarm("x", remedies.MUCH_LOWER_RATE, remedies.LOWER_RATE), levels)
    assert [(option.id, option.suggested) for option in lowered] == [("lr_scale", 0.1)]
    smaller_step, _ = remedies.calm_memory("memory/block0/write", 8.0)
    (option,) = options_of(alarm("memory_blowup", smaller_step), levels)
    assert option.effect is not None and (option.effect.metric, option.effect.reach) == ("memory/block0/write", 8.0)
    assert options_of(alarm("memory_blowup", smaller_step), {}) == []


@pytest.mark.parametrize("name", REMEDIES)
def test_every_remedy_stays_inside_its_bounds_whatever_is_asked(name: str) -> None:
    kind = REMEDIES[name]
    if kind.op == "act":
        assert kind.low is None and kind.as_overrides(None, None) == []
        return
    assert kind.low is not None and kind.high is not None and kind.low < kind.high
    for asked in (-1e9, -1.0, 0.0, 0.5, 3.0, 1e9):
        for current in (None, 0.0, 1e-9, 0.5, 1e3):
            assert kind.low <= clamp(kind, asked, current) <= kind.high


def test_a_diagnosis_becomes_a_command() -> None:
    package = context_of_alarm(alarm(), CONFIG, RULES)
    outcome = consult(package, RULES)
    typed = ["experiment=quickstart", "loss.diversity=off", "resume=latest", "seed=3"]
    first = outcome.results.remedies[0]
    assert fix_command(typed, [(first, 0.0)]) == [
        "experiment=quickstart", "seed=3", "loss.diversity=logit_std", "loss.diversity_weight=0.1",
    ]  # fmt: skip
    fix = outcome.results.diagnosis.recommended_fixes[0]  # type: ignore[union-attr]
    assert fix.verification and "halting/logit_std goes up to above 0.1 within 200 steps" in fix.verification
    assert REMEDIES["lr_scale"].as_overrides(0.5, 1e-3) == ["optimizer.lr=0.0005"]


def test_what_failed_before_is_not_proposed_again_and_then_a_person_is_asked() -> None:
    history = [{"remedy": name, "outcome": "rolled_back"} for name in ("act_diversity_weight", "q_head_perturb")]
    results = consult(context_of_alarm(alarm(), CONFIG, RULES, history=history), RULES).results
    assert [remedy.id for remedy in results.remedies] == ["act_loss_weight"]
    history.append({"remedy": "act_loss_weight", "outcome": "rolled_back"})
    results = consult(context_of_alarm(alarm(), CONFIG, RULES, history=history), RULES).results
    assert results.status == "escalated" and "tried already" in str(results.escalation)
    bug = consult(context_of_alarm(alarm("no_gradient", remedies.advise("look for a detach.")), CONFIG, RULES), RULES)
    assert bug.results.status == "escalated" and "look for a detach." in bug.results.diagnosis.next_steps[0]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ("Implement a 25M transformer with memory", "plan_ready"),
        ("implement the paper about memory", "needs_clarification"),
        ("the loss is nan, fix the training", "plan_ready"),
        ("speed up inference", "plan_ready"),
        ("add a feature to the model", "plan_ready"),
        ("build a training pipeline", "plan_ready"),
        ("improve the accuracy of the model", "plan_ready"),
        ("write a SQL query for the warehouse", "escalated"),
    ],
)
def test_the_way_in_answers_every_kind_of_request(request_: str, status: str, tmp_path: Path) -> None:
    context = context_of_request(request_, RULES).to_dict()
    results = asyncio.run(execute_ml_expert(context, audit=Audit(tmp_path)))
    assert results["status"] == status and results["call"]["ending"] == "answered"
    assert results["plan"] if status != "escalated" else results["escalation"]
    read_results(results)
    assert (tmp_path / "specialist" / "1" / "context.json").is_file()


def test_a_bad_package_is_an_error_and_an_empty_request_too() -> None:
    with pytest.raises(InputError, match="context.tsk is not a field"):
        asyncio.run(execute_ml_expert({"task": "x", "tsk": "y"}))
    with pytest.raises(InputError, match="request is empty"):
        context_of_request("  ", RULES)
    with pytest.raises(InputError, match="nobody is on call"):
        make_specialist(SpecialistConfig(kind="off"))


def test_requirements_are_read_from_a_sentence() -> None:
    found = requirements_in("build a 25M target model, 6GB, real-time")
    assert (found.parameter_count, found.constraints.vram_bytes) == (25_000_000, 6 * 10**9)
    assert found.constraints.latency_ms == 100.0
    assert requirements_in("build a model").parameter_count is None


def test_code_that_fits_a_request_is_named(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    assert "titans_trm/models/memory.py" in code_files(root, "speed up the memory of the models")
    assert code_files(tmp_path, "memory") == []


RESULTS: dict[str, Any] = {
    "status": "implementation_complete",
    "performance_metrics": {"vram_usage": "4GB", "inference_time": "45ms", "parameter_count": "25M"},
    "deliverables": {
        "code_files": [{"path": "gate.py", "loc": 2}, {"path": "absent.py"}, {"path": "../../etc/passwd"}],
        "tests": [{"path": "test_gate.py", "all_passing": True}, {"path": "test_bad.py", "all_passing": True}],
        "documentation": {"usage_examples": "gate.py", "architecture_diagram": "none.md"},
    },
    "validation": {"unit_tests": "48/48 passing"},
}


def test_claims_stand_beside_what_is_measured(tmp_path: Path) -> None:
    (tmp_path / "gate.py").write_text("a = 1\nb = 2\n")
    (tmp_path / "test_gate.py").write_text("def test_gate():\n    import gate\n    assert gate.b == 2\n")
    (tmp_path / "test_bad.py").write_text("def test_bad():\n    assert False\n\n\ndef test_good():\n    pass\n")
    real = Measured(58_000_000, 60.0, 70.0, 5 * 10**9, 10, "cpu")
    package = read_results(RESULTS)
    verified = verify_results(package, tmp_path, measure=lambda: real, run_tests=True)
    found = {claim.what: claim for claim in verified.measured}
    assert found["gate.py: lines"].ok and found["absent.py"].measured == "missing" and found["absent.py"].ok is False
    assert found["../../etc/passwd"].measured == "outside" and found["none.md"].ok is False
    assert found["test_gate.py: all passing"].ok is True and found["test_bad.py: all passing"].ok is False
    assert found["unit tests"].measured == "2/3" and found["unit tests"].ok is False
    assert found["parameters"].ok is False and found["parameters"].measured == 58_000_000
    assert found["latency, ms"].ok is True and found["memory, bytes"].ok is False
    unmeasured = {claim.what: claim for claim in verify_results(package, tmp_path).measured}
    assert all(unmeasured[name].ok is None for name in ("parameters", "latency, ms", "memory, bytes", "unit tests"))
    assert unmeasured["test_bad.py: all passing"].ok is None


@pytest.mark.parametrize(
    ("tool", "arguments", "denied"),
    [
        ("Read", {"file_path": "model.py"}, False),
        ("Read", {"file_path": "/etc/passwd"}, True),
        ("Read", {"file_path": "../outside.py"}, True),
        ("Write", {"file_path": ".git/hooks/pre-commit"}, True),
        ("Read", {"file_path": "runs/1/evaluation/test.json"}, True),
        ("Read", {"file_path": "data/sudoku_test.csv.gz"}, True),
        ("Read", {"file_path": "tests/test_model.py"}, False),
        ("Grep", {"pattern": "/abc", "path": "."}, False),
        ("Glob", {"pattern": "/etc/*"}, True),
        ("Bash", {"command": "git commit"}, True),
        ("mcp__titans_trm__get_history", {}, False),
        ("StructuredOutput", {"path": "/etc/passwd"}, False),
    ],
)
def test_the_guard(tool: str, arguments: dict[str, str], denied: bool, tmp_path: Path) -> None:
    allowed = frozenset({"Read", "Write", "Grep", "Glob", "mcp__titans_trm__get_history", "StructuredOutput"})
    assert (denial(tool, arguments, allowed, tmp_path) is not None) is denied


def test_a_folder_without_a_repository_gives_no_worktree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert repository(tmp_path) is None
    with pytest.raises(InputError, match="gives no worktree"):
        Worktree(tmp_path).create()


def test_consulting_a_run_names_the_cause_and_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run_folder(tmp_path / "sick", std=0.0)
    assert main(["consult", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert "act_collapse" in shown and "diagnosed" in shown
    assert "python train.py experiment=quickstart loss.diversity=logit_std loss.diversity_weight=0.1" in shown
    assert "worked if halting/logit_std goes up" in shown
    number = max(int(path.name) for path in (folder / "specialist").iterdir())
    read_context((folder / "specialist" / str(number) / "context.json").read_text())
    assert main(["consult", str(folder), "--json"]) == 0
    assert read_results(capsys.readouterr().out).remedies


def test_consulting_a_healthy_run_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["consult", str(run_folder(tmp_path / "fine", std=1.0))]) == 0
    assert "No alarm stands" in capsys.readouterr().out


def test_consulting_a_run_that_left_nothing_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    assert main(["consult", str(tmp_path)]) == 2
    assert "neither diagnostics/signals.jsonl nor metrics.csv" in capsys.readouterr().err


def test_a_preview_sends_nothing_and_shows_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["consult", "--preview", "--specialist", "claude", "fix the nan loss @/etc/passwd"]) == 0
    package = read_context(capsys.readouterr().out)
    assert package.task == "fix the nan loss (at)/etc/passwd"


def test_a_request_is_answered_on_the_screen(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["consult", "implement the paper about memory"]) == 0
    shown = capsys.readouterr().out
    assert "needs_clarification" in shown and "lacks: the paper itself" in shown and "asks: How large" in shown
    program = tmp_path / "program.py"
    program.write_text("import json; print(json.dumps(" + repr(RESULTS).replace("true", "True") + "))")
    words = ["consult", "add a feature to the model", "--specialist", "command"]
    assert main([*words, "--program", f"{sys.executable} {program}"]) == 0
    assert "claimed 25000000, measured None: not measured" in capsys.readouterr().out
    assert main([*words, "--program", "/no/such/program"]) == 1
    assert "cannot be started" in capsys.readouterr().out


def test_scaffold_and_validate_from_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["scaffold", "Small", "--into", str(tmp_path)]) == 0
    assert main(["scaffold", "my.models:Big", "--into", str(tmp_path), "--tests-only"]) == 0
    assert (tmp_path / "tests" / "test_models.py").is_file()
    assert main(["scaffold", "Small", "--into", str(tmp_path)]) == 2
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    capsys.readouterr()
    assert main(["validate", "small:Small", "--json"]) == 0
    findings = {finding["check"]: finding for finding in json.loads(capsys.readouterr().out)}
    assert findings["gradients"]["ok"] and "parameters" in findings["measured"]["message"]
    assert main(["validate", "model=trm_25m", "--quick", "--claimed", "58M", "--memory", "6GB"]) == 3
    assert "58,000,000 claimed" in capsys.readouterr().out.replace("\n", " ")
    assert main(["validate", "model=trm_26m", "--quick"]) == 2


def test_consult_needs_no_torch() -> None:
    code = "import sys\nfrom titans_trm.cli import main\nassert main(['consult', 'speed up inference']) == 0\n"
    code += "assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=120)


def run_folder(folder: Path, std: float) -> Path:
    """What a run leaves behind, as far as a consultation reads it: no event says what was wrong."""
    record = SignalLog(folder / "diagnostics" / "signals.jsonl")
    for step in range(10, 210, 10):
        values = {"halting/logit_std": std, "halting/logit_mean": 0.0, "halting/probability": 0.5, "solve/exact": 0.5}
        record.append(Signals(step, values | {"loss/cross_entropy": 2.0 - 0.005 * step}))
    config = CONFIG | {"model": {"halting": {"max_supervision_steps": 4}}, "trainer": {"max_steps": 200}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "overrides.yaml").write_text(yaml.safe_dump(["experiment=quickstart"]))
    (folder / "summary.json").write_text(json.dumps({"experiment": "quickstart", "global_step": 200}))
    return folder
