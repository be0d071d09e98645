"""The order and the rounds of a sweep, in this process: jobs are formulas that leave a summary."""

import csv
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from sweep_cases import write_summary

from titans_trm.config import compose
from titans_trm.errors import InputError
from titans_trm.sweeps.folder import SweepFolder
from titans_trm.sweeps.job import note_failure
from titans_trm.sweeps.sweep import open_folder, run_sweep, take_order
from titans_trm.training.config import RunConfig


def composed(words: Sequence[str]) -> RunConfig:
    return compose("train", list(words))


class Runs:
    """A launcher whose jobs are done at once; `outcome` may leave something else than a completed run."""

    def __init__(self, outcome: Callable[[RunConfig], bool] | None = None) -> None:
        self.batches: list[list[int]] = []
        self.outcome = outcome

    def __call__(self, batch: Sequence[list[str]]) -> None:
        configs = [composed([word for word in words if not word.startswith("hydra.")]) for words in batch]
        self.batches.append([config.sweep.job for config in configs if config.sweep.job is not None])
        for config in configs:
            assert config.resume == "auto" and config.sweep.job is not None
            if self.outcome is None or not self.outcome(config):
                value = math.exp(-abs(math.log10(config.optimizer.lr / 1e-3))) - 0.01 * config.seed
                val = {"exact_accuracy": value}
                write_summary(Path(config.sweep.folder), config.sweep.job, status="completed", val=val)


def sweep(runs: Runs, *words: str) -> tuple[int, SweepFolder]:
    order = take_order(words, composed)
    folder = open_folder(order)
    return run_sweep(order, folder, runs), folder


def table(folder: SweepFolder) -> list[dict[str, str]]:
    with folder.csv.open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


SEARCH = ("sweep=optuna", "sweep.trials=6", "sweep.jobs=2", "sweep.folder=s", "optimizer.lr=tag(log,interval(1e-4,1))")


def test_a_grid_runs_once_and_grows_by_more_values() -> None:
    runs = Runs()
    assert sweep(runs, "seed=0,1", "sweep.folder=g")[0] == 0
    assert sweep(runs, "seed=0,1", "sweep.folder=g")[0] == 0
    status, folder = sweep(runs, "seed=0,1,2", "sweep.folder=g")
    assert (status, runs.batches) == (0, [[0, 1], [2]])
    assert [row["seed"] for row in table(folder)] == ["0", "1", "2"]
    with pytest.raises(InputError, match="holds another sweep"):
        sweep(runs, "seed=0,1", "trainer.max_steps=7", "sweep.folder=g")
    with pytest.raises(InputError, match="holds a sweep=grid"):
        sweep(runs, *SEARCH, "sweep.folder=g")


def test_failures_are_told_and_a_grid_tries_them_again(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(config: RunConfig) -> bool:
        if config.seed == 1:
            note_failure(config.sweep.folder, config.sweep.job, "input", "file.csv, line 3: 8 is not a row.")
        return config.seed == 1

    status, folder = sweep(Runs(fail), "seed=0,1", "sweep.folder=g")
    assert status == 2  # all that failed had bad input
    assert [row["status"] for row in table(folder)] == ["completed", "failed"]
    assert "job 1 failed: file.csv, line 3: 8 is not a row. (seed=1)" in capsys.readouterr().err
    runs = Runs()
    assert sweep(runs, "seed=0,1", "sweep.folder=g")[0] == 0
    assert runs.batches == [[1]]


def test_a_sweep_without_a_name_gets_a_folder_of_its_own_unless_it_resumes() -> None:
    first, second = (sweep(Runs(), "seed=0,1")[1] for _ in range(2))
    assert first.path != second.path
    runs = Runs()
    _, again = sweep(runs, "seed=0,1", "resume=auto")
    assert again.path in (first.path, second.path) and not runs.batches
    _, other = sweep(runs, "seed=0,5", "resume=auto")
    assert other.path not in (first.path, second.path) and runs.batches == [[0, 1]]


def test_an_interruption_leaves_a_table_and_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(config: RunConfig) -> bool:
        if config.seed == 1:
            raise SystemExit(130)  # what a job in this process ends with
        return False

    status, folder = sweep(Runs(interrupt), "seed=0,1", "sweep.folder=g")
    assert status == 130
    assert [row["status"] for row in table(folder)] == ["completed", "waiting"]
    assert "to go on: python train.py -m seed=0,1 sweep.folder=g" in capsys.readouterr().err


def test_a_launcher_that_gives_up_does_not_lose_the_jobs_that_ended(capsys: pytest.CaptureFixture[str]) -> None:
    def give_up(config: RunConfig) -> bool:
        if config.seed == 1:
            raise RuntimeError("the queue is closed")
        return False

    status, folder = sweep(Runs(give_up), "seed=0,1", "sweep.folder=g")
    assert (status, [row["status"] for row in table(folder)]) == (1, ["completed", "waiting"])
    assert "the launcher failed (RuntimeError: the queue is closed)" in capsys.readouterr().err


def test_a_search_asks_in_rounds_and_counts_failures_as_trials() -> None:
    def fail(config: RunConfig) -> bool:
        if config.sweep.job == 3:
            note_failure(config.sweep.folder, 3, "failure", "RuntimeError: the loss is not finite")
        return config.sweep.job == 3

    runs = Runs(fail)
    status, folder = sweep(runs, *SEARCH)
    assert (status, runs.batches) == (1, [[0, 1], [2, 3], [4, 5]])
    assert [row["status"] for row in table(folder)].count("completed") == 5
    best = max((row for row in table(folder) if row["error"] == ""), key=lambda row: float(row["val/exact_accuracy"]))
    assert f"Best: `optimizer.lr={best['optimizer.lr']}`" in folder.markdown.read_text()

    more = Runs()
    assert sweep(more, *SEARCH, "sweep.trials=8")[0] == 1  # the failed trial stays one
    assert more.batches == [[6, 7]]
    with pytest.raises(InputError, match=r"holds another search: it has optimizer.lr in log interval\(0.0001,1\)"):
        sweep(more, *SEARCH[:-1], "optimizer.lr=interval(1e-4,1)")


def test_an_interrupted_trial_goes_on_with_its_own_values() -> None:
    def interrupt(config: RunConfig) -> bool:
        if config.sweep.job == 2:
            raise KeyboardInterrupt
        return False

    status, folder = sweep(Runs(interrupt), *SEARCH)
    then = json.loads(folder.record.read_text())["jobs"]
    assert status == 130 and len(then) == 4
    runs = Runs()
    assert sweep(runs, *SEARCH)[0] == 0
    assert runs.batches == [[2, 3], [4, 5]]
    assert json.loads(folder.record.read_text())["jobs"][:4] == then


def test_a_space_from_a_file_is_searched(tmp_path: Path) -> None:
    runs = Runs()
    words = ("sweep=optuna", "sweep.trials=2", "sweep.folder=s", "++sweep.space={optimizer: 'adamw,muon'}")
    assert sweep(runs, *words)[0] == 0
    assert {row["optimizer"] for row in table(SweepFolder("s"))} <= {"adamw", "muon"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["seed=0,1", "resume=latest"], "resume=latest would put all jobs into one run folder"),
        (["seed=0,1", "sweep.metric=val/bits_per_byte"], "is not a metric of sudoku_9x9; choose one of"),
        (["sweep=optuna", "seed=0,1"], "seed cannot be searched"),
        (["optimizer.lr=interval(1e-4,1)"], "has no end of values"),
    ],
)
def test_what_cannot_be_carried_out_is_said_before_the_first_job(words: list[str], message: str) -> None:
    runs = Runs()
    with pytest.raises(InputError, match=message):
        sweep(runs, *words)
    assert runs.batches == []
