"""`titans-trm ablate`: plans, runs in isolated folders, resumes, skips what is done, and says what it cannot do."""

import json
import logging
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from titans_trm.cli import main
from titans_trm.config import compose, config_dir
from titans_trm.errors import InputError
from titans_trm.tasks import ablate
from titans_trm.tasks.ablate import AblationSettings, Suite, load_suite, plan, suite_names
from titans_trm.training.run_folder import RunFolder

ROWS = sorted(file.stem for file in (config_dir() / "experiment" / "ablation").glob("*.yaml"))
# Small enough to train in a second; the rows still change what they are named after.
TINY = [
    "data.num_train=64",
    "data.num_val=12",
    "data.num_test=12",
    "model.parameter_budget=null",
    "model.width=16",
    "model.backbone.num_blocks=1",
    "model.backbone.num_heads=2",
    "model.memory.num_heads=2",
    "model.backbone.mlp_hidden=24",
    "trainer.max_steps=100",
    "trainer.batch_size=4",
    "trainer.val_every_steps=100",
    "trainer.val_examples=4",
    "trainer.checkpoint_every_steps=1",
    "hardware=cpu",
]


def settings(folder: Path, **changes: object) -> AblationSettings:
    return AblationSettings(**({"seeds": [0, 1], "jobs": 1, "folder": str(folder)} | changes))  # type: ignore[arg-type]


def write_summary(folder: Path, accuracy: float, status: str = "completed") -> None:
    """What a finished run leaves, as far as the table reads it."""
    val = {"exact_accuracy": accuracy, "exact_accuracy_adaptive": accuracy, "mean_supervision_steps_adaptive": 2.0}
    val |= {"num_examples": 100, "net_calls": 3200}
    summary = {"status": status, "val": val, "parameters": 1000, "wall_seconds": 60.0}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "summary.json").write_text(json.dumps(summary))


@pytest.mark.parametrize("row", [row for row in ROWS if row not in ("base", "recall_base")])
def test_every_row_changes_the_model_the_loss_or_the_average_and_nothing_else(row: str) -> None:
    baseline = "recall_base" if row.startswith("recall_") else "base"
    base, changed = (compose("train", [f"experiment=ablation/{name}"]).to_dict() for name in (baseline, row))
    differing = {key for key in base if base[key] != changed[key]} - {
        "experiment",
        "run_dir",
        "overrides",
        "logger",
        "sweep",
    }
    assert differing and differing <= {"model", "loss", "trainer"}
    if "trainer" in differing:
        assert {key for key in base["trainer"] if base["trainer"][key] != changed["trainer"][key]} == {"ema_decay"}


@pytest.mark.parametrize("name", suite_names())
def test_every_suite_names_rows_that_exist(name: str) -> None:
    suite = load_suite(name)
    assert {suite.baseline, *suite.rows} <= set(ROWS)


def test_two_suites_have_every_row() -> None:
    suites = [load_suite(name) for name in ("full", "recall")]
    assert sorted(row for suite in suites for row in (suite.baseline, *suite.rows)) == ROWS


def test_seeds_come_first_so_that_an_interrupted_suite_has_whole_tables(tmp_path: Path) -> None:
    suite = Suite(baseline="base", rows=["no_memory"])
    jobs = plan("mine", suite, settings(tmp_path), ["trainer.max_steps=4"])
    assert [(job.row, job.seed) for job in jobs] == [("base", 0), ("no_memory", 0), ("base", 1), ("no_memory", 1)]
    assert jobs[3].folder.path == tmp_path / "mine" / "no_memory" / "seed_1"
    assert jobs[3].overrides == [
        "experiment=ablation/no_memory",
        "seed=1",
        "trainer.num_threads=1",
        "trainer.max_steps=4",
    ]


def test_a_mistake_is_told_before_the_first_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, told in {
        ("quik",): "suite=quik does not exist. Did you mean quick?",
        ("quick", "seeds=none"): "seeds=none is not a whole number",
        ("quick", "seeds=0"): "seeds=[]",
        ("quick", "seeds=1,1"): "seeds=[1, 1]",
        ("quick", "jobs=0"): "jobs=0 is too small",
        ("quick", "trainer.max_stepz=4"): "trainer.max_stepz is not a key. Did you mean trainer.max_steps?",
    }.items():
        assert main(["ablate", *words, f"folder={tmp_path}"]) == 2
        assert told in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_other_runs_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "mine" / "base" / "seed_0"
    folder.mkdir(parents=True)
    (folder / "overrides.yaml").write_text("- experiment=ablation/base\n- seed=0\n- trainer.max_steps=9\n")
    with pytest.raises(InputError, match="holds a run of other overrides"):
        plan("mine", Suite(baseline="base", rows=["no_memory"]), settings(tmp_path), [])


def test_done_runs_are_left_alone_and_the_table_is_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = ["base", *load_suite("halting").rows]
    for number, row in enumerate(rows):
        write_summary(tmp_path / "halting" / row / "seed_0", 0.9 - 0.1 * number)
    with caplog.at_level(logging.INFO):
        assert main(["ablate", "halting", "seeds=1", f"folder={tmp_path}"]) == 0
    assert f"{len(rows)} runs, {len(rows)} of them done before" in caplog.text
    written = json.loads((tmp_path / "halting" / "ablation.json").read_text())
    assert [row["row"] for row in written["rows"]] == rows
    assert written["rows"][1]["difference"] == pytest.approx(-0.1)
    assert {file.suffix for file in (tmp_path / "halting").glob("ablation.*")} == {".json", ".csv", ".md", ".png"}


@pytest.mark.slow
@pytest.mark.integration
def test_an_interrupted_suite_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TITANS_TRM_DATA", str(tmp_path / "cache"))
    monkeypatch.setattr(ablate, "load_suite", lambda name: Suite(baseline="base", rows=["no_memory"]))
    command = ["ablate", "mini", "seeds=1", "jobs=1", f"folder={tmp_path}", *TINY]
    first = RunFolder(tmp_path / "mini" / "base" / "seed_0")
    watcher = threading.Thread(target=_terminate_after_a_checkpoint, args=(first,))
    watcher.start()
    assert main(command) == 130
    watcher.join()
    assert first.status == "stopped" and first.last_checkpoint.is_file()
    assert not (tmp_path / "mini" / "no_memory").exists()

    caplog.clear()
    with caplog.at_level(logging.INFO):
        assert main(command) == 0
    assert first.status == "completed"
    assert len(json.loads(first.environment.read_text())["resumed"]) == 1
    written = json.loads((tmp_path / "mini" / "ablation.json").read_text())
    assert [row["row"] for row in written["rows"]] == ["base", "no_memory"]

    caplog.clear()
    with caplog.at_level(logging.INFO):
        assert main(command) == 0
    assert "2 runs, 2 of them done before" in caplog.text


def _terminate_after_a_checkpoint(folder: RunFolder) -> None:
    deadline = time.monotonic() + 120
    while not folder.has_checkpoint and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(os.getpid(), signal.SIGTERM)


def test_a_run_that_fails_leaves_its_log_and_status_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ablate, "load_suite", lambda name: Suite(baseline="base", rows=["no_memory"]))
    script = tmp_path / "train.py"
    script.write_text("print('out of memory'); raise SystemExit(1)")
    monkeypatch.setattr(ablate, "_train_script", lambda: script)
    stale = tmp_path / "mini" / "base" / "seed_0"
    stale.mkdir(parents=True)
    (stale / "metrics.csv").write_text("of a run killed before its first checkpoint")
    assert main(["ablate", "mini", "seeds=1", "jobs=2", f"folder={tmp_path}"]) == 1
    assert (tmp_path / "mini" / "base" / "seed_0.log").read_text() == "out of memory\n"
    assert "base, seed 0: ended without a summary" in caplog.text
    assert "no run of base completed yet: no table" in caplog.text
    assert not stale.exists()
