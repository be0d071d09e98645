"""Multiruns as a user starts them: processes, a kill in the middle, the same command again. The runs are formulas."""

import csv
import signal
import time
from pathlib import Path

import pytest
from sweep_cases import run, start, starts

pytestmark = pytest.mark.integration
GRID = ["seed=0,1,2", "optimizer.lr=1e-3,1e-2", "sweep.jobs=2", "sweep.folder=grid"]


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "sweep_summary.csv").open() as file:
        return list(csv.DictReader(file))


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 200
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert path.exists()


@pytest.mark.slow
def test_a_crash_and_a_kill_lose_no_other_job(tmp_path: Path) -> None:
    status, out, err = run(tmp_path, *GRID, "tags=[crash-1,kill-2]")
    assert status == 1 and out.splitlines()[-1] == "grid"
    table = rows(tmp_path / "grid")
    assert [row["status"] for row in table] == ["completed"] * 2 + ["failed"] * 4
    assert [row["error"] for row in table[2:]] == ["RuntimeError: the loss is not finite"] * 2 + [
        "ended by SIGKILL (out of memory?)"
    ] * 2
    assert "job 2 failed: RuntimeError: the loss is not finite (seed=1 optimizer.lr=0.001)" in err
    assert {len(starts(tmp_path / "grid", number)) for number in range(6)} == {1}


@pytest.mark.slow
def test_a_killed_grid_goes_on_where_it_was_and_nothing_runs_twice(tmp_path: Path) -> None:
    words = ["seed=0,1,2", "sweep.jobs=2", "sweep.folder=grid", "tags=[slow-1]"]
    process = start(tmp_path, *words)
    wait_for(tmp_path / "grid" / "2" / "summary.json")  # 0 and 2 are done, 1 is at work
    process.kill()
    process.communicate()
    wait_for(tmp_path / "grid" / "1" / "summary.json")  # it notices that its sweep is gone, and stops
    status, _, err = run(tmp_path, *words)
    assert status == 0 and "3 jobs, 2 of them done before" in err
    assert [row["status"] for row in rows(tmp_path / "grid")] == ["completed"] * 3
    assert [len(starts(tmp_path / "grid", number)) for number in range(3)] == [1, 2, 1]
    assert starts(tmp_path / "grid", 1)[1].split()[-1] != "0"  # from its checkpoint


@pytest.mark.slow
def test_a_killed_search_goes_on_to_as_many_trials_as_were_asked_for(tmp_path: Path) -> None:
    words = ["sweep=optuna", "sweep.trials=8", "sweep.folder=search", "optimizer.lr=tag(log,interval(1e-4,1e-1))"]
    process = start(tmp_path, *words)
    wait_for(tmp_path / "search" / "2" / "summary.json")
    process.kill()
    process.communicate()
    status, _, err = run(tmp_path, *words)
    assert status == 0 and " of them ended before" in err
    table = rows(tmp_path / "search")
    assert len(table) == 8 and {row["status"] for row in table} == {"completed"}
    assert len({row["optimizer.lr"] for row in table}) == 8  # no value is drawn again
    assert all(len(starts(tmp_path / "search", number)) == 1 for number in range(3))
    best = max(table, key=lambda row: float(row["val/exact_accuracy"]))
    page = (tmp_path / "search" / "sweep_summary.md").read_text()
    assert f"Best: `optimizer.lr={best['optimizer.lr']}`" in page


@pytest.mark.slow
def test_an_interrupted_sweep_says_how_to_go_on(tmp_path: Path) -> None:
    process = start(tmp_path, "seed=0,1", "tags=[slow-0]")
    folder = tmp_path / "runs" / "multirun" / "quickstart"
    deadline = time.monotonic() + 200
    while not list(folder.glob("*/0/starts")) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)  # its handler stands
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=200)
    assert process.returncode == 130
    (sweep,) = folder.iterdir()
    assert f"sweep.folder={sweep.relative_to(tmp_path)}" in err
    assert [row["status"] for row in rows(sweep)] == ["interrupted", "waiting"]
