import dataclasses
import gzip
import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from titans_trm.config import compose
from titans_trm.errors import InputError
from titans_trm.models.titans_trm import TitansTRM
from titans_trm.profiling.memory import TrainingSetup, predict_training_peak
from titans_trm.profiling.report import parameters_by_part
from titans_trm.tasks.profile import BUDGET_BROKEN, profile

SMALL = [
    "experiment=quickstart",
    "model.recursion.num_latent_steps=1",
    "model.recursion.num_recursions=1",
    "model.backbone.num_blocks=1",
    "model.halting.max_supervision_steps=2",
    "trainer.batch_size=4",
    "profile.warmup=1",
    "profile.repeats=2",
]


def _profile(folder, *overrides):
    config = compose("profile", [*SMALL, *overrides])
    screen = io.StringIO()
    result = profile(dataclasses.replace(config, run_dir=str(folder)), Console(file=screen, width=140))
    return result, screen.getvalue()


@pytest.fixture(scope="module")
def profiled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("profile") / "run"
    budgets = ["peak_memory=6GiB", "latency_p95_ms=100000", "latency_device=cpu"]
    result, screen = _profile(folder, "data.num_train=64", *(f"profile.budgets.{limit}" for limit in budgets))
    return folder, result, screen


def test_file_holds_the_keys_of_the_contract(profiled):
    folder, result, _ = profiled
    saved = json.loads((folder / "profile.json").read_text())
    assert saved["parameters"] == result["parameters"] == sum(saved["parameters_by_part"].values())
    assert saved["flops_per_step"] == saved["flops"]["step_forward"] + saved["flops"]["step_backward"]
    assert saved["latency_ms"]["p50"] <= saved["latency_ms"]["p95"] <= saved["latency_ms"]["p99"]
    assert saved["throughput"] > 0
    assert {"training_step", "full_solve", "adaptive_solve"} == set(saved["timings"])
    assert saved["config"]["trainer"]["batch_size"] == 4
    assert saved["data"]["ms_per_example"] > 0
    assert 0 < saved["data"]["at_first"] <= saved["data"]["at_most"] < 1


def test_recordings_leave_a_picture_a_trace_and_an_operator_table(profiled):
    folder, result, _ = profiled
    for name in ("training_step", "solve"):
        files = result["files"][name]
        assert Path(files["timeline"]).read_bytes().startswith(b"\x89PNG") and Path(files["timeline"]).parent == folder
        with gzip.open(files["trace"], "rt") as trace:
            names = {event.get("name") for event in json.load(trace)["traceEvents"]}
        assert {"titans_trm: net call", "titans_trm: memory", "aten::mm"} <= names
        operators = result["operators"][name]
        assert [op["self_ms"] for op in operators] == sorted((op["self_ms"] for op in operators), reverse=True)
        assert 0 < sum(op["share"] for op in operators) <= 1
        assert result["parts_ms"][name]["memory"]["forward"] > 0
    assert (
        result["parts_ms"]["training_step"]["memory"]["backward"]
        > 0
        == result["parts_ms"]["solve"]["memory"]["backward"]
    )


def test_largest_batch_is_told_for_the_card_of_the_preset_and_for_one_of_another_size(tmp_path):
    result, screen = _profile(tmp_path, "profile.measure=false", "hardware.vram=640MiB")
    preset = result["peak_memory"]["preset"]
    assert (preset["vram_bytes"], result["peak_memory"]["largest_batch"]) == (640 * 2**20, None)
    model = TitansTRM(compose("profile", SMALL).model.build(vocab_size=5, seq_len=16))
    setup = TrainingSetup(
        batch_size=preset["largest_batch"],
        precision="bf16-mixed",
        on_cuda=True,
        optimizer=compose("profile", SMALL).optimizer,
    )
    fits, next_one = (
        predict_training_peak(model.config, dataclasses.replace(setup, batch_size=setup.batch_size + more)).total_bytes
        for more in (0, 1)
    )
    assert fits <= 640 * 2**20 < next_one
    assert "largest batch that fits" in screen


def test_latency_is_judged_only_on_the_device_it_was_set_for(tmp_path):
    result, screen = _profile(tmp_path, "profile.trace=false", "profile.data=false", "profile.strict=true")
    assert result["budgets"]["latency_p95_ms"] == {
        "limit": 100.0,
        "value": result["latency_ms"]["p95"],
        "ok": None,
        "note": "holds on gpu, this is cpu",
    }
    assert "exit_status" not in result and "holds on gpu" in screen
    assert not (tmp_path / "traces").exists()


def test_data_that_are_not_there_are_named_and_the_rest_is_measured(tmp_path):
    result, screen = _profile(tmp_path, "profile.trace=false", "data.train_file=none.csv")
    assert "none.csv" in result["data"]["not_measured"] and "none.csv" in screen
    assert result["throughput"] > 0


def test_memory_is_predicted_and_measured_here_and_predicted_for_the_preset(profiled):
    memory = profiled[1]["peak_memory"]
    assert memory["predicted_bytes"] == pytest.approx(memory["measured_bytes"], rel=0.1)
    assert memory["hardware"] == "cpu"
    assert memory["preset"]["hardware"] == "gpu_6gb"
    assert memory["preset"]["precision"] == "bf16-mixed"
    assert memory["preset"]["by_kind"]["fixed_overhead"] > 0 == memory["by_kind"]["fixed_overhead"]


def test_screen_shows_every_part_and_ends_with_the_file(profiled):
    folder, _, screen = profiled
    for words in (
        "blocks.memory",
        "GFLOP",
        "measured",
        "this machine (cpu)",
        "preset (gpu_6gb)",
        "full solve",
        "Budgets",
    ):
        assert words in screen
    assert screen.splitlines()[-1] == str(folder / "profile.json")


def test_budgets_are_judged_and_kept_budgets_exit_with_zero(profiled):
    _, result, _ = profiled
    assert {name: budget["ok"] for name, budget in result["budgets"].items()} == {
        "parameters": True,
        "peak_memory": True,
        "latency_p95_ms": True,
    }
    assert result["budgets"]["peak_memory"]["limit"] == 6 * 2**30
    assert result["budgets"]["peak_memory"]["value"] == result["peak_memory"]["preset"]["predicted_bytes"]
    assert "exit_status" not in result


def test_broken_budget_under_strict_exits_with_three_and_nothing_is_measured_on_request(tmp_path):
    result, screen = _profile(
        tmp_path,
        "profile.measure=false",
        "profile.strict=true",
        "profile.memory_for=here",
        "profile.budgets.peak_memory=1MiB",
        "profile.budgets.latency_p95_ms=1",
        "profile.budgets.latency_device=any",
    )
    assert result["exit_status"] == BUDGET_BROKEN == 3
    assert result["budgets"]["peak_memory"]["ok"] is False
    assert result["budgets"]["peak_memory"]["value"] == result["peak_memory"]["predicted_bytes"]
    assert result["budgets"]["latency_p95_ms"]["ok"] is None
    assert result["latency_ms"] == {"p50": None, "p95": None, "p99": None}
    assert "broken" in screen
    assert "not measured" in screen


def test_a_profile_is_never_written_over_and_a_card_that_is_absent_is_only_predicted(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "profile.json").write_text("{}")
    result, _ = _profile(tmp_path / "run", "profile.measure=false", "hardware=gpu_6gb")
    assert (tmp_path / "run" / "profile.json").read_text() == "{}"
    assert json.loads((tmp_path / "run-2" / "profile.json").read_text())["parameters"] == result["parameters"]
    assert result["peak_memory"]["hardware"] == "cpu"
    assert result["peak_memory"]["preset"]["hardware"] == "gpu_6gb"


def test_folder_that_cannot_be_written_is_an_input_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written.*TITANS_TRM_RUN_DIR"):
        _profile(tmp_path / "file" / "run", "profile.measure=false")


def test_parts_cover_all_parameters():
    settings = compose("profile", SMALL).model
    model = TitansTRM(settings.build(vocab_size=5, seq_len=16))
    parts = parameters_by_part(model)
    assert sum(parts.values()) == model.num_params()
    assert parts["blocks.memory"] > 0
