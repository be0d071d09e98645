"""Packages: the examples come back unchanged, words become numbers, and every mistake is named."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from titans_trm.errors import InputError
from titans_trm.specialist.protocol import (
    Diagnosis,
    answer_schema,
    json_schema,
    read_context,
    read_results,
)
from titans_trm.specialist.quantities import Passed, parse_count, parse_memory, parse_milliseconds, parse_passed

CONTEXT: dict[str, Any] = {
    "task": "Build a 25M TRM x Titans-MAG model that solves Sudoku",
    "requirements": {
        "model_type": "transformer",
        "parameters": "25M target",
        "framework": "pytorch",
        "features": ["sliding_window_attention", "long_term_memory", "ACT"],
        "constraints": {"inference_speed": "real-time", "vram": "6GB"},
    },
    "existing_code": {
        "status": "partial_implementation",
        "files": ["titans_trm/models/memory.py", "conf/model/puzzle_25m.yaml"],
    },
    "reference_materials": {
        "implementations": ["tests/oracles/memory_fp64.py"],
        "papers": ["2510.04871.pdf", "2501.00663.pdf"],
    },
}
RESULTS: dict[str, Any] = {
    "status": "implementation_complete",
    "performance_metrics": {"vram_usage": "4.1GB", "inference_time": "61ms (GPU)", "parameter_count": "25.3M"},
    "deliverables": {
        "code_files": [
            {"path": "titans_trm/models/gate.py", "loc": 140, "tested": True, "description": "MAG gate, three modes"}
        ],
        "tests": [{"path": "tests/test_gate.py", "all_passing": True, "coverage": 97}],
        "documentation": {"usage_examples": "examples/train.py", "architecture_diagram": "docs/architecture.md"},
    },
    "validation": {
        "manual_verification": "100 training steps, loss falls",
        "integration_tests": "14/14 passing",
        "unit_tests": "52/52 passing",
    },
}
DIAGNOSIS: dict[str, Any] = {
    "status": "diagnosis_complete",
    "confidence": 0.9,
    "root_causes": [
        {
            "rank": 1,
            "issue": "LR too high",
            "severity": "high",
            "evidence": ["norm 40 at step 698"],
            "fix": "lr 1e-4",
            "confidence": 0.9,
            "supporting_artifacts": {"log_lines": [698], "gradient_spike": 40.0},
        }
    ],
    "recommended_fixes": [
        {
            "priority": 1,
            "fix": "lower lr",
            "implementation": {"file": "conf/optim/adamw.yaml", "line": 2, "change": "lr: 1e-4"},
            "expected_impact": "loss falls",
            "effort": "low",
            "risk": "low",
            "verification": "norm < 5 for 500 steps",
        }
    ],
    "quick_wins": ["clip 1.0"],
    "uncertainty_flags": [],
    "next_steps": ["rerun one epoch"],
    "analysis_artifacts": {"gradient_analysis": "grad.json", "loss_visualization": "loss.png"},
}


def test_the_example_packages_come_back_unchanged() -> None:
    assert read_context(CONTEXT).to_dict() == CONTEXT
    assert read_results(RESULTS).to_dict() == RESULTS
    assert read_context(json.dumps(CONTEXT)).to_dict() == CONTEXT
    assert read_context({"task": "fix it", "diagnosis": DIAGNOSIS}).to_dict()["diagnosis"] == DIAGNOSIS
    assert Diagnosis.model_validate(DIAGNOSIS).root_causes[0].confidence == 0.9


def test_words_of_the_packages_become_numbers() -> None:
    context, results = read_context(CONTEXT), read_results(RESULTS)
    assert context.requirements.parameter_count == 25_000_000
    assert context.requirements.constraints.vram_bytes == 6_000_000_000
    assert context.requirements.constraints.latency_ms == 100.0
    assert results.performance_metrics.parameters == 25_300_000
    assert results.performance_metrics.latency_ms == 61.0
    assert results.performance_metrics.vram_bytes == 4_100_000_000
    assert results.validation.unit == Passed(52, 52)
    assert results.validation.integration == Passed(14, 14)


def test_missing_optional_parts_have_no_numbers() -> None:
    context, results = read_context({"task": "x"}), read_results({"status": "failed"})
    assert context.requirements.parameter_count is None
    assert context.requirements.constraints.latency_ms is None and context.requirements.constraints.vram_bytes is None
    metrics = results.performance_metrics
    assert (metrics.parameters, metrics.latency_ms, metrics.vram_bytes) == (None, None, None)
    assert results.validation.unit is None and results.validation.integration is None


@pytest.mark.parametrize(
    ("text", "number"),
    [("25M target", 25_000_000), ("25.3M", 25_300_000), ("~7m params", 7_000_000), ("25,623,681", 25_623_681)]
    + [("1.5B", 1_500_000_000), ("320K", 320_000), ("7000000", 7_000_000), (25, 25)],
)
def test_counts(text: str, number: int) -> None:
    assert parse_count(text) == number


@pytest.mark.parametrize(
    ("text", "number"),
    [("6GB", 6 * 10**9), ("under 6 GB", 6 * 10**9), ("5.5GiB", int(5.5 * 2**30)), ("500 mb", 5 * 10**8), (7, 7)],
)
def test_memory(text: str, number: int) -> None:
    assert parse_memory(text) == number


@pytest.mark.parametrize(
    ("text", "number"),
    [("real-time", 100.0), ("Real Time", 100.0), ("< 100 ms", 100.0), ("45ms (GPU)", 45.0), ("0.85 s", 850.0)]
    + [("250us", 0.25), (12, 12.0)],
)
def test_times(text: str, number: float) -> None:
    assert parse_milliseconds(text) == pytest.approx(number)


@pytest.mark.parametrize(
    ("parse", "text"),
    [(parse_count, "small"), (parse_count, "-3M"), (parse_memory, "six GB"), (parse_memory, "6"), (parse_passed, "all")]
    + [(parse_milliseconds, "fast"), (parse_passed, "49/48 passing"), (parse_count, "25MB")],
)
def test_what_is_no_quantity_is_an_error_that_shows_it(parse: Any, text: str) -> None:
    with pytest.raises(InputError, match=text.replace("/", ".")):
        parse(text)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"requirments": {}}, r"context.requirments is not a field. Did you mean requirements\?"),
        ({"requirements": {"constraints": {"vrm": "6GB"}}}, r"context.requirements.constraints.vrm .* mean vram\?"),
        ({"requirements": {"parameters": "small"}}, "context.requirements.parameters: parameters='small' is not"),
        ({"requirements": {"constraints": {"vram": "much"}}}, "vram='much' is not an amount"),
        ({"requirements": {"constraints": {"inference_speed": "fast"}}}, "inference_speed='fast' is not a time"),
        ({"existing_code": {"status": "half"}}, "context.existing_code.status='half' does not fit"),
        ({"diagnosis": {"root_causes": [{"isue": "x"}]}}, r"root_causes\[0\]\.(issue is missing|isue is not a field)"),
        ({"task": ""}, "context.task='' does not fit"),
    ],
)
def test_a_mistake_in_a_context_is_named(change: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        read_context(CONTEXT | change)


def test_a_missing_task_and_what_is_no_package_are_errors() -> None:
    with pytest.raises(InputError, match="context.task is missing"):
        read_context({})
    with pytest.raises(InputError, match="context package is not JSON"):
        read_context("{")
    with pytest.raises(InputError, match="context package is a list"):
        read_context("[]")


@pytest.mark.parametrize("status", ["done", "", None, 3])
def test_an_unknown_status_of_results_is_refused(status: Any) -> None:
    with pytest.raises(InputError, match="results.status"):
        read_results({"status": status})


@pytest.mark.parametrize("name", ["measured", "call"])
def test_a_specialist_cannot_fill_in_what_is_measured(name: str) -> None:
    values = {"status": "diagnosed", "measured": [{"what": "parameters", "ok": True}], "call": {"turns": 1}}
    with pytest.raises(InputError, match=f"results.{name} is filled in by our own"):
        read_results({"status": "diagnosed", name: values[name]}, from_specialist=True)
    assert name not in answer_schema()["properties"]
    assert read_results({"status": "diagnosed", name: values[name]}).to_dict()[name] == values[name]


def test_packages_cannot_be_changed_after_the_check() -> None:
    with pytest.raises(ValidationError):
        read_context(CONTEXT).task = "something else"  # type: ignore[misc]


@pytest.mark.parametrize("kind", ["context", "results"])
def test_the_schema_names_every_field_and_forbids_others(kind: Any) -> None:
    schema = json_schema(kind)
    example = CONTEXT if kind == "context" else RESULTS
    assert set(example) <= set(schema["properties"])
    assert schema["additionalProperties"] is False
    json.dumps(schema)
