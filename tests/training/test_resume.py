"""What resume=auto|latest|PATH finds, and which changes a resumed run refuses."""

import dataclasses
import functools
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from titans_trm.config import compose
from titans_trm.errors import InputError
from titans_trm.training.config import RunConfig
from titans_trm.training.resume import check_unchanged, find_resume_point
from titans_trm.training.run_folder import RunFolder

BASE = (
    "experiment=quickstart",
    "optimizer=adamw",
    "optimizer.lr=2e-3",
    "trainer.max_steps=500",
    "trainer.ema_decay=0.98",
)


def config(run_dir: Path, resume: str | None = None, *overrides: str) -> RunConfig:
    return dataclasses.replace(composed(*overrides), run_dir=str(run_dir), resume=resume)


@functools.cache
def composed(*overrides: str) -> RunConfig:
    return compose("train", [*BASE, *overrides])


def make_run(path: Path, *, date: str, status: str | None = None, checkpoints: tuple[str, ...] = ("last",)) -> Path:
    """A folder as a run leaves it."""
    (path / "checkpoints").mkdir(parents=True)
    (path / "config.yaml").write_text(yaml.safe_dump(config(path).to_dict()))
    (path / "environment.json").write_text(json.dumps({"date": date}))
    if status is not None:
        (path / "summary.json").write_text(json.dumps({"status": status}))
    for name in checkpoints:
        torch.save({"state_dict": {}, "hyper_parameters": {}}, path / "checkpoints" / f"{name}.ckpt")
    return path


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    make_run(tmp_path / "old", date="2026-01-01T00:00:00+00:00", status="stopped")
    make_run(tmp_path / "killed", date="2026-01-02T00:00:00+00:00")
    make_run(tmp_path / "done", date="2026-01-03T00:00:00+00:00", status="completed")
    make_run(tmp_path / "early", date="2026-01-04T00:00:00+00:00", checkpoints=())
    return tmp_path


def found(run_dir: Path, resume: str | None) -> Path | None:
    point = find_resume_point(config(run_dir, resume))
    return None if point is None else point.checkpoint


def test_without_resume_a_run_starts_anew(runs: Path) -> None:
    assert found(runs / "killed", None) is None


def test_latest_is_the_newest_run_with_a_checkpoint(runs: Path) -> None:
    assert found(runs / "new", "latest") == runs / "done" / "checkpoints" / "last.ckpt"


def test_latest_without_any_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no run with a checkpoint"):
        found(tmp_path / "new", "latest")


def test_auto_goes_on_in_its_own_folder(runs: Path) -> None:
    assert found(runs / "old", "auto") == runs / "old" / "checkpoints" / "last.ckpt"


def test_auto_goes_on_with_the_newest_unfinished_run(runs: Path) -> None:
    assert found(runs / "new", "auto") == runs / "killed" / "checkpoints" / "last.ckpt"


def test_auto_starts_anew_where_nothing_can_be_resumed(tmp_path: Path) -> None:
    assert found(tmp_path / "new", "auto") is None
    make_run(tmp_path / "done", date="2026-01-01T00:00:00+00:00", status="completed")
    assert found(tmp_path / "new", "auto") is None
    # Killed between the first best.ckpt and the first last.ckpt.
    own = make_run(tmp_path / "own", date="2026-01-02T00:00:00+00:00", checkpoints=("best",))
    assert found(own, "auto") is None


def test_auto_does_not_pass_over_a_run_whose_checkpoints_are_damaged(runs: Path) -> None:
    (runs / "killed" / "checkpoints" / "last.ckpt").write_bytes(b"half")
    with pytest.raises(InputError, match="damaged"):
        found(runs / "new", "auto")


def test_a_path_is_a_run_folder_or_a_checkpoint_in_one(runs: Path) -> None:
    last = runs / "done" / "checkpoints" / "last.ckpt"
    assert found(runs / "new", str(runs / "done")) == last
    assert found(runs / "new", str(last)) == last
    point = find_resume_point(config(runs / "new", str(last)))
    assert point is not None and point.folder.path == runs / "done"


@pytest.mark.parametrize(
    ("path", "message"), [("missing", "does not exist"), ("early", "no last.ckpt"), (".", "not a run folder")]
)
def test_a_path_to_nothing_is_an_error(runs: Path, path: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        found(runs / "new", str(runs / path))


def test_a_damaged_checkpoint_named_by_the_user_is_an_error(runs: Path) -> None:
    path = runs / "done" / "checkpoints" / "last.ckpt"
    path.write_bytes(b"half")
    with pytest.raises(InputError, match="damaged"):
        found(runs / "new", str(path))


@pytest.mark.parametrize(
    ("override", "difference"),
    [
        ("model.width=32", r"model.width: 64 -> 32"),
        ("optimizer=muon", r"optimizer.name: adamw -> muon"),
        ("seed=5", r"seed: 0 -> 5"),
        ("trainer.batch_size=7", r"trainer.batch_size: 64 -> 7"),
        ("trainer.accumulate=2", r"trainer.accumulate: 1 -> 2"),
        ("trainer.ema_decay=null", r"trainer.ema_decay: 0.98 -> None"),
        ("data.num_train=99", r"data.num_train: 10000 -> 99"),
        ("loss.halting_weight=0.1", r"loss.halting_weight: 0.02 -> 0.1"),
    ],
)
def test_a_change_that_makes_another_run_is_refused_with_the_difference(
    runs: Path, override: str, difference: str
) -> None:
    folder = RunFolder(runs / "killed")
    with pytest.raises(InputError, match=difference):
        check_unchanged(folder, config(folder.path, None, override).to_dict())


def test_the_refusal_names_the_command_that_continues_and_the_number_of_slots(runs: Path) -> None:
    folder = RunFolder(runs / "killed")
    then = yaml.safe_load(folder.config.read_text())
    typed = ["experiment=quickstart", "trainer.batch_size=64", f"resume={folder.path}"]
    folder.config.write_text(yaml.safe_dump(then | {"overrides": typed}))
    with pytest.raises(InputError) as refused:
        check_unchanged(folder, config(folder.path, None, "trainer.batch_size=7").to_dict())
    text = str(refused.value)
    assert text.endswith(f"python train.py experiment=quickstart trainer.batch_size=64 resume={folder.path}")
    assert "had 64 slots (trainer.batch_size x trainer.accumulate x" in text and "now 7." in text


def test_other_changes_are_accepted_and_logged(runs: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = RunFolder(runs / "killed")
    overrides = ["trainer.max_steps=900", "optimizer.lr=1e-3", "data.cache_dir=elsewhere"]
    now: dict[str, Any] = config(runs / "moved", str(folder.path), *overrides).to_dict()
    with caplog.at_level(logging.INFO):
        check_unchanged(folder, now)
    # Composing may log too, depending on what ran before in this process: look at this room's messages.
    logged = [record.getMessage() for record in caplog.records if record.name == "titans_trm.training.resume"]
    assert logged == [
        "changed since the run started: optimizer.lr: 0.002 -> 0.001",
        "changed since the run started: trainer.max_steps: 500 -> 900",
    ]
