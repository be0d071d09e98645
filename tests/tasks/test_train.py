"""`train`: the whole run folder, its summary, and what it says; train.py as a process that is stopped."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from titans_trm.config import compose
from titans_trm.errors import InputError
from titans_trm.tasks.train import train
from titans_trm.training.callbacks.metrics_csv import read_metrics
from titans_trm.training.checkpoint_io import load_checkpoint
from titans_trm.training.run_folder import OPTIONAL_SUMMARY_KEYS, SUMMARY_KEYS

ROOT = Path(__file__).resolve().parents[2]
OVERRIDES = (
    "experiment=quickstart",
    "hardware=cpu",
    "optimizer=adamw",
    "data.num_train=200",
    "data.num_val=16",
    "data.num_test=16",
    "model.parameter_budget=null",
    "model.width=16",
    "model.backbone.num_blocks=1",
    "model.backbone.num_heads=2",
    "model.backbone.mlp_hidden=24",
    "model.halting.max_supervision_steps=3",
    "trainer.batch_size=8",
    "trainer.val_every_steps=4",
    "trainer.val_examples=4",
    "trainer.log_every_steps=2",
    "trainer.num_threads=1",
)
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tasks")


def overrides(root: Path, *more: str) -> list[str]:
    return [*OVERRIDES, "trainer.max_steps=6", f"data.cache_dir={root / 'cache'}", *more]


def run(root: Path, name: str, *more: str) -> dict[str, Any]:
    return train(compose("train", overrides(root, f"run_dir={root / 'runs' / name}", *more)))


@pytest.fixture(scope="module")
def completed(root: Path) -> dict[str, Any]:
    return run(root, "whole", "tags=[first,small]")


def test_a_run_leaves_a_folder_that_explains_itself(completed: dict[str, Any]) -> None:
    folder = Path(completed["run_dir"])
    for name in (
        *("config.yaml", "overrides.yaml", "environment.json", "data_manifest.json", "reproducibility.md"),
        *("metrics.csv", "summary.json", "curves.png", "checkpoints/last.ckpt", "checkpoints/best.ckpt"),
    ):
        assert (folder / name).stat().st_size > 0, name
    assert list((folder / "tensorboard").glob("events.*"))
    assert "data.num_train=200" in yaml.safe_load((folder / "overrides.yaml").read_text())
    assert yaml.safe_load((folder / "config.yaml").read_text())["trainer"]["max_steps"] == 6
    manifest = json.loads((folder / "data_manifest.json").read_text())
    assert {name: split["count"] for name, split in manifest["splits"].items()} == {"train": 200, "val": 16, "test": 16}
    assert not list(folder.rglob(".*")), "temporary files are left"


def test_the_summary_has_the_numbers_of_the_run(completed: dict[str, Any]) -> None:
    folder = Path(completed["run_dir"])
    summary = json.loads((folder / "summary.json").read_text())
    assert set(SUMMARY_KEYS) <= set(summary) <= set(SUMMARY_KEYS + OPTIONAL_SUMMARY_KEYS)
    assert summary["status"] == "completed" and completed["exit_status"] == 0
    assert (summary["global_step"], summary["seed"], summary["tags"]) == (6, 0, ["first", "small"])
    moments = load_checkpoint(folder / "checkpoints" / "last.ckpt")["optimizer_states"][0]["state"].values()
    assert summary["parameters"] == sum(moment["exp_avg"].numel() for moment in moments)
    assert summary["examples_finished"] == read_metrics(folder / "metrics.csv")["examples_finished"][-1]
    val = summary["val"]
    assert (val["num_examples"] in (4, 16), val["of"], val["weights"]) == (True, 16, "ema")
    assert 0 <= val["ci_low"] <= val["exact_accuracy"] <= val["ci_high"] <= 1
    assert val["net_calls_adaptive"] <= val["net_calls"]
    assert {"loss", "exact_accuracy", "grad_norm"} <= set(summary["train"])
    assert summary["peak_memory_bytes"] > 2**20


def test_an_earlier_run_is_never_overwritten(root: Path, completed: dict[str, Any]) -> None:
    before = (Path(completed["run_dir"]) / "summary.json").read_bytes()
    again = run(root, "whole", "trainer.max_steps=1", "~logger")
    assert again["run_dir"] == completed["run_dir"] + "-2"
    assert (Path(completed["run_dir"]) / "summary.json").read_bytes() == before
    assert read_metrics(Path(again["run_dir"]) / "metrics.csv")["step"] == []


def test_a_longer_resume_goes_on_where_the_run_ended(root: Path) -> None:
    first = run(root, "prolonged", "trainer.max_steps=2")
    second = run(root, "unused", "trainer.max_steps=4", f"resume={first['run_dir']}")
    assert (second["run_dir"], second["global_step"], second["status"]) == (first["run_dir"], 4, "completed")
    assert not (root / "runs" / "unused").exists()
    assert read_metrics(Path(first["run_dir"]) / "metrics.csv")["step"] == [2, 4, 4]
    resumed = json.loads((Path(first["run_dir"]) / "environment.json").read_text())["resumed"]
    assert [f"resume={first['run_dir']}" in part["overrides"] for part in resumed] == [True]


def test_a_changed_model_is_refused_with_the_difference(root: Path, completed: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"model.backbone.mlp_hidden: 24 -> 32"):
        run(root, "refused", "model.backbone.mlp_hidden=32", f"resume={completed['run_dir']}")
    assert not (root / "runs" / "refused").exists()
    assert json.loads((Path(completed["run_dir"]) / "summary.json").read_text())["status"] == "completed"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.parameter_budget=[1,2]", "outside parameter_budget"),
        ("data.train_file=missing.csv", "missing.csv"),
        ("resume=missing", "does not exist"),
    ],
)
def test_bad_input_leaves_no_folder(root: Path, override: str, message: str) -> None:
    (root / "runs" / "bad").mkdir(parents=True)  # as Hydra makes it
    with pytest.raises(InputError, match=message):
        run(root, "bad", override)
    assert not (root / "runs" / "bad").exists()


def test_a_failure_is_recorded_with_its_reason(root: Path) -> None:
    config = compose("train", overrides(root, f"run_dir={root / 'runs' / 'failed'}"))
    node = {"_target_": "titans_trm.training.callbacks.metrics_csv.MetricsCSV"}
    node |= {"path": str(root), "log_every_steps": 1, "train_examples": 1}  # type: ignore[dict-item]
    config = dataclasses.replace(config, callbacks={"broken": node})
    with pytest.raises(IsADirectoryError):
        train(config)
    summary = json.loads((root / "runs" / "failed" / "summary.json").read_text())
    assert summary["status"] == "failed" and "IsADirectoryError" in summary["error"]


def test_the_time_limit_validates_and_says_how_to_continue(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = run(
        root, "limited", "trainer.max_steps=100000", "trainer.max_time=0.005", "trainer.val_every_steps=50000"
    )
    assert (summary["status"], summary["exit_status"]) == ("stopped", 0)
    assert summary["val"]["weights"] == "ema" and summary["best_checkpoint"] == "checkpoints/last.ckpt"
    printed = capsys.readouterr().out
    command = next(line for line in printed.splitlines() if line.startswith("continue: "))
    assert "model.width=16" in command and command.endswith(f"resume={summary['run_dir']}")
    assert "run_dir=" not in command


def start(root: Path, name: str) -> "subprocess.Popen[str]":
    command = [sys.executable, str(ROOT / "train.py"), *overrides(root, "trainer.max_steps=100000")]
    return subprocess.Popen(
        [*command, f"run_dir={root / 'runs' / name}"],
        cwd=root,
        env={key: value for key, value in os.environ.items() if key != "TITANS_TRM_RUN_DIR"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_train_py_with_status_130_and_a_checkpoint(root: Path, number: int) -> None:
    name = signal.Signals(number).name.lower()
    folder = root / "runs" / name
    process = start(root, name)
    deadline = time.monotonic() + 180
    while not (folder / "metrics.csv").is_file() or not read_metrics(folder / "metrics.csv")["step"]:
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.1)
    process.send_signal(number)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert Path(output.splitlines()[-1]) in (folder, folder.relative_to(root))
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["status"] == "stopped"
    assert load_checkpoint(folder / "checkpoints" / "last.ckpt")["global_step"] == summary["global_step"] > 0
    assert "Traceback" not in errors
