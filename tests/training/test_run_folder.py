import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from titans_trm.errors import InputError
from titans_trm.training import environment
from titans_trm.training.environment import describe_environment, git_state, without_home
from titans_trm.training.run_folder import RunFolder, to_plain, write_json, write_text

CONFIG = {
    "experiment": "quickstart",
    "seed": 3,
    "model": {"name": "trm_nano", "width": 64, "backbone": {"num_blocks": 2, "gate": "product"}},
    "trainer": {"max_steps": 10, "deterministic": False},
}
MANIFEST = {
    "task": "sudoku",
    "source": "generated",
    "seed": 11,
    "split_rule": "by canonical grid",
    "leakage": {"rule": "error", "groups_shared_with_test": {"train": 0, "val": 0}, "note": None},
    "splits": {"train": {"count": 800, "sha256": "ab12"}, "val": {"count": 100, "sha256": "cd34"}},
}


def summary(**changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "status": "completed",
        "experiment": "quickstart",
        "run_dir": "runs/quickstart/x",
        "parameters": 812_345,
        "global_step": 10,
        "examples_finished": 40,
        "wall_seconds": 75.2,
        "train": {"loss": 0.5},
        "val": {"exact_accuracy": 0.75, "num_examples": 100.0, "cross_entropy": 0.4},
        "best_checkpoint": "checkpoints/best.ckpt",
        "peak_memory_bytes": 3 * 2**30,
        "seed": 3,
    }
    return values | changes


def started(path: Path, date: str | None = None) -> RunFolder:
    run = RunFolder.create(path)
    run.write_start(CONFIG, ["experiment=quickstart", "seed=3"], MANIFEST)
    if date:
        write_json(run.environment, {**json.loads(run.environment.read_text()), "date": date})
    return run


def test_a_folder_in_use_gets_a_numeric_suffix(tmp_path: Path) -> None:
    names = [RunFolder.create(tmp_path / "a" / "run").path.name for _ in range(3)]
    assert names == ["run", "run-2", "run-3"]


def test_an_empty_folder_that_exists_is_taken(tmp_path: Path) -> None:
    (tmp_path / "given").mkdir()
    assert RunFolder.create(tmp_path / "given").path == tmp_path / "given"


def test_runs_started_at_once_get_different_folders(tmp_path: Path) -> None:
    found: list[Path] = []
    barrier = threading.Barrier(8)

    def start() -> None:
        barrier.wait()
        found.append(RunFolder.create(tmp_path / "same").path)

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 8
    assert all((path / "checkpoints").is_dir() for path in found)


def test_a_place_that_cannot_be_written_is_named_with_the_cure(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file/run cannot be written \(Not a directory\); choose another folder"):
        RunFolder.create(tmp_path / "file" / "run")
    with pytest.raises(InputError, match="is a file; choose the name of a folder"):
        RunFolder.create(tmp_path / "file")


def test_open_wants_a_run_folder(tmp_path: Path) -> None:
    run = started(tmp_path / "run")
    assert RunFolder.open(run.path).config == run.config
    with pytest.raises(InputError, match="does not exist"):
        RunFolder.open(tmp_path / "missing")
    (tmp_path / "other").mkdir()
    with pytest.raises(InputError, match=r"other is not a run folder: it has no config\.yaml"):
        RunFolder.open(tmp_path / "other")


def test_latest_is_the_run_started_last_whatever_its_name(tmp_path: Path) -> None:
    started(tmp_path / "a" / "z", "2026-01-01T10:00:00+00:00")
    newest = started(tmp_path / "a" / "b", "2026-01-02T10:00:00+00:00")
    started(tmp_path / "debug" / "overfit" / "c", "2026-01-03T10:00:00+00:00")
    assert RunFolder.latest(tmp_path, "a").path == newest.path
    assert RunFolder.latest(tmp_path).path.name == "c"


def test_latest_orders_runs_of_one_second_by_their_suffix(tmp_path: Path) -> None:
    runs = [started(tmp_path / "a" / "run", "2026-01-01T10:00:00+00:00") for _ in range(11)]
    assert runs[-1].path.name == "run-11"
    assert RunFolder.latest(tmp_path).path == runs[-1].path


def test_latest_falls_back_on_file_times_without_a_readable_environment(tmp_path: Path) -> None:
    old, new = started(tmp_path / "a" / "old"), started(tmp_path / "a" / "new")
    for run, age in ((old, 1_000), (new, 10)):
        run.environment.write_text("{ damaged")
        os.utime(run.config, (2_000_000_000 - age, 2_000_000_000 - age))
    assert RunFolder.latest(tmp_path).path == new.path


def test_latest_can_ask_for_unfinished_runs_and_for_checkpoints(tmp_path: Path) -> None:
    stopped = started(tmp_path / "a" / "1", "2026-01-01T10:00:00+00:00")
    stopped.write_summary(summary(status="stopped"))
    stopped.last_checkpoint.write_bytes(b"")
    done = started(tmp_path / "a" / "2", "2026-01-02T10:00:00+00:00")
    done.write_summary(summary())
    done.best_checkpoint.write_bytes(b"")
    killed = started(tmp_path / "a" / "3", "2026-01-03T10:00:00+00:00")
    assert killed.status is None and done.status == "completed"
    assert RunFolder.latest(tmp_path, "a").path == killed.path
    assert RunFolder.latest(tmp_path, "a", with_checkpoint=True).path == done.path
    assert RunFolder.latest(tmp_path, "a", unfinished=True, with_checkpoint=True).path == stopped.path
    with pytest.raises(InputError, match=r"no unfinished run with a checkpoint under .*/b; start one"):
        RunFolder.latest(tmp_path, "b", unfinished=True, with_checkpoint=True)


def test_the_start_writes_what_is_needed_to_repeat_the_run(tmp_path: Path) -> None:
    run = started(tmp_path / "run")
    assert yaml.safe_load(run.config.read_text()) == CONFIG
    assert list(yaml.safe_load(run.config.read_text())) == list(CONFIG)
    assert yaml.safe_load(run.overrides.read_text()) == ["experiment=quickstart", "seed=3"]
    assert json.loads(run.data_manifest.read_text()) == MANIFEST
    about = json.loads(run.environment.read_text())
    assert about["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert about["threads"] == torch.get_num_threads()
    assert not run.summary.exists()


def test_config_keeps_infinity_and_tuples_and_paths(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run")
    run.write_start({"cap": float("inf"), "clues": (4, 10), "where": Path("x"), "lr": 1e-4}, [], {})
    read = yaml.safe_load(run.config.read_text())
    assert read == {"cap": float("inf"), "clues": [4, 10], "where": "x", "lr": 1e-4}


def test_a_resume_adds_its_environment_and_keeps_the_first(tmp_path: Path) -> None:
    run = started(tmp_path / "run", "2026-01-01T10:00:00+00:00")
    run.write_resume(["resume=auto"])
    run.write_resume(["resume=auto", "trainer.max_steps=20"])
    about = json.loads(run.environment.read_text())
    assert about["date"] == "2026-01-01T10:00:00+00:00"
    assert [part["overrides"][-1] for part in about["resumed"]] == ["resume=auto", "trainer.max_steps=20"]
    assert about["resumed"][0]["versions"] == about["versions"]


def test_the_checklist_is_completed_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = RunFolder.create("runs/q")
    run.write_start(
        CONFIG, ["experiment=quickstart", "data.train_file=my file.csv", "run_dir=x"], MANIFEST, parameters=9
    )
    before = run.reproducibility.read_text(encoding="utf-8")
    assert "- [x] Parameters: 9" in before
    assert "- [ ] Wall time: known when the run ends" in before
    assert "- [x] Split `val`: count 100, sha256 cd34" in before
    assert "- [x] Leakage between splits: rule error, groups shared with test (train 0, val 0)" in before
    run.finish(summary())
    after = run.reproducibility.read_text(encoding="utf-8")
    assert "- [x] Parameters: 812,345 (812 k)" in after
    assert "- [x] Wall time: 1 min 15 s" in after
    assert "exact accuracy 0.7500, 95 % interval (Wilson) 0.6570 to 0.8245, 100 examples; cross entropy 0.4" in after
    assert "- [x] Peak memory: 3.0 GiB" in after
    assert "python train.py experiment=quickstart 'data.train_file=my file.csv'  # repeat" in after
    assert "resume=runs/q  #" in after and "run_dir=" not in after
    assert "python evaluate.py run=runs/q" in after
    assert json.loads(run.summary.read_text())["status"] == "completed"


def test_the_checklist_leaves_open_what_is_not_known(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run")
    run.write_start({}, [], {"splits": {"train": "8 rows"}})
    run.finish(summary(status="failed", error="loss is NaN", wall_seconds=None, val={}, peak_memory_bytes=None))
    text = run.reproducibility.read_text(encoding="utf-8")
    assert "- [x] End: failed (loss is NaN)" in text
    for label in ("Model", "Data", "Wall time", "Validation", "Peak memory"):
        assert f"- [ ] {label}: not known" in text
    assert "- [x] Split `train`: 8 rows" in text
    assert "- [ ] Leakage between splits: not known" in text
    run.finish(summary(val={"exact_accuracy": 0.5, "num_examples": 10, "of": 40, "weights": "ema", "ci_low": 0.1}))
    assert "0.2366 to 0.7634, 10 of 40 examples, ema weights\n" in run.reproducibility.read_text(encoding="utf-8")
    run.finish(summary(val={"exact_accuracy": 0.5}))
    assert "0.5000 (number of examples not recorded)" in run.reproducibility.read_text(encoding="utf-8")


def test_the_summary_is_strict_about_its_keys(tmp_path: Path) -> None:
    run = started(tmp_path / "run")
    with pytest.raises(ValueError, match="lacks wall_seconds, seed"):
        run.write_summary({k: v for k, v in summary().items() if k not in ("seed", "wall_seconds")})
    with pytest.raises(ValueError, match="unknown keys accuracy"):
        run.write_summary(summary(accuracy=1.0))
    with pytest.raises(ValueError, match="status='running' is not one of completed, stopped, failed"):
        run.write_summary(summary(status="running"))
    assert not run.summary.exists()
    run.write_summary(summary(tags=["first"], error="x"))
    assert json.loads(run.summary.read_text())["tags"] == ["first"]


def test_json_has_no_nan_and_only_plain_values(tmp_path: Path) -> None:
    value = {
        "nan": float("nan"),
        "inf": [float("inf"), (1, 2)],
        "numpy": np.float32(0.5),
        "torch": torch.tensor(float("nan")),
        "count": np.int64(3),
        "path": Path("a/b"),
        "text": "ü",
        "none": None,
        1: True,
    }
    write_json(tmp_path / "x.json", value)
    assert "ü" in (tmp_path / "x.json").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "x.json").read_text(encoding="utf-8")) == {
        "nan": None,
        "inf": [None, [1, 2]],
        "numpy": 0.5,
        "torch": None,
        "count": 3,
        "path": "a/b",
        "text": "ü",
        "none": None,
        "1": True,
    }
    with pytest.raises(TypeError, match="is a set; give dicts"):
        to_plain({"a": {1}})
    with pytest.raises(TypeError, match="is a Tensor"):
        to_plain(torch.zeros(2))


def test_a_failed_write_leaves_the_old_file_and_no_rubbish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_text(tmp_path / "a.txt", "old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_text(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_evaluation_path_is_by_split() -> None:
    assert RunFolder("runs/x").evaluation("val") == Path("runs/x/evaluation/val.json")


def test_the_environment_tells_nothing_about_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "ann.secret"))
    monkeypatch.setenv("WANDB_API_KEY", "k3y-of-ann")
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "ann.secret" / "train.py"), "seed=1"])
    about = describe_environment()
    assert about["command"] == ["~/train.py", "seed=1"]
    text = json.dumps(to_plain(about))
    assert "ann" not in text
    assert os.uname().nodename not in text or len(os.uname().nodename) < 3


def test_home_is_replaced_only_as_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    assert without_home("data.train_file=/home/ann/x.csv") == "data.train_file=~/x.csv"
    assert without_home("/home/anna/x") == "/home/anna/x"
    monkeypatch.setenv("HOME", "/")
    assert without_home("/data/x") == "/data/x"


def test_git_state_tells_commit_and_changes(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=t", "-c", "user.email=t@t", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True)

    assert git_state(tmp_path) is None
    git("init")
    assert git_state(tmp_path) is None  # no commit yet
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-m", "a", "--no-verify")
    state = git_state(tmp_path)
    assert state is not None and len(state["commit"]) == 40 and state["dirty"] is False
    (tmp_path / "a").write_text("2")
    assert git_state(tmp_path) == {"commit": state["commit"], "dirty": True}


def test_a_missing_git_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".git").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_state(tmp_path) is None


def test_unknown_machines_are_described_as_far_as_possible(monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(name: str) -> int:
        raise ValueError(name)

    read_text = Path.read_text

    def without_proc(self: Path, *args: Any, **kwargs: Any) -> str:
        # Only this file: packages' metadata are read through the same method.
        if self == Path("/proc/cpuinfo"):
            raise FileNotFoundError(self)
        return read_text(self, *args, **kwargs)

    monkeypatch.setattr(os, "sysconf", unsupported)
    monkeypatch.setattr(Path, "read_text", without_proc)
    monkeypatch.setattr(environment, "_PACKAGES", ("torch", "no-such-package"))
    about = describe_environment()
    assert about["memory_bytes"] is None
    assert about["cpu"]
    assert about["versions"]["no-such-package"] is None
