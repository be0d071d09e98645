"""How jobs stand is read from what they left; nobody gets the folder of another."""

import json
from pathlib import Path

import pytest
from sweep_cases import write_summary

from titans_trm.errors import InputError
from titans_trm.sweeps.folder import Job, SweepFolder, free_folder, number_jobs
from titans_trm.sweeps.job import JobFiles, as_job, describe, is_locked, locked, note_failure

JOB = Job(3, ("seed=1",))


@pytest.mark.parametrize(
    ("summary", "status"),
    [
        ({"status": "completed", "val": {"exact_accuracy": 0.5}}, "completed"),
        ({"status": "stopped", "stopped_by": "time", "val": {"exact_accuracy": 0.5}}, "stopped"),
        ({"status": "stopped", "stopped_by": "pruning", "val": {"exact_accuracy": 0.5}}, "pruned"),
        ({"status": "stopped", "stopped_by": "signal", "val": {}}, "interrupted"),
        ({"status": "failed", "error": "a row is short", "val": {"exact_accuracy": 0.5}}, "failed"),
        ({}, "interrupted"),
    ],
)
def test_the_summary_says_how_a_job_stands(tmp_path: Path, summary: dict[str, object], status: str) -> None:
    write_summary(tmp_path, 3, **summary)
    found = SweepFolder(tmp_path).result(JOB)
    assert found.status == status
    assert found.value("val/exact_accuracy") == (0.5 if status in ("completed", "stopped", "pruned") else None)
    assert found.error == summary.get("error", "")


def test_a_job_that_never_began_waits_and_one_at_work_runs(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path)
    assert folder.result(JOB).status == "waiting"
    with as_job(str(tmp_path), 3):
        assert folder.result(JOB).status == "running"
    assert folder.result(JOB).status == "waiting"


def test_a_noted_failure_counts_more_than_an_older_summary(tmp_path: Path) -> None:
    write_summary(tmp_path, 3, status="stopped", stopped_by="signal")
    note_failure(str(tmp_path), 3, "input", "file.csv, line 3: 8 is not a row.")
    found = SweepFolder(tmp_path).result(JOB)
    assert (found.status, found.error, found.bad_input) == ("failed", "file.csv, line 3: 8 is not a row.", True)


@pytest.mark.parametrize(
    ("status", "told"),
    [(-9, "ended by SIGKILL (out of memory?)"), (-11, "ended by SIGSEGV"), (1, "ended with status 1")],
)
def test_a_process_that_could_not_say_why_is_explained(tmp_path: Path, status: int, told: str) -> None:
    folder = SweepFolder(tmp_path)
    folder.explain(JOB, status)
    assert (folder.result(JOB).status, folder.result(JOB).error) == ("failed", told)


def test_ends_that_need_no_explanation_get_none(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path)
    folder.explain(JOB, 0)
    folder.explain(JOB, 130)
    note_failure(str(tmp_path), 3, "failure", "RuntimeError: first")
    folder.explain(JOB, 1)
    assert folder.result(JOB).error == "RuntimeError: first"
    note_failure(str(tmp_path), None, "failure", "of a run that is no job")
    assert [file.name for file in (tmp_path / "jobs").iterdir()] == ["3.error.json"]


def test_making_ready_keeps_a_checkpoint_and_clears_what_has_none(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path)
    write_summary(tmp_path, 3, status="failed")
    note_failure(str(tmp_path), 3, "failure", "disk full")
    checkpoint = tmp_path / "3" / "checkpoints" / "last.ckpt"
    checkpoint.parent.mkdir()
    checkpoint.touch()
    folder.make_ready(JOB)
    assert checkpoint.exists() and not JobFiles(tmp_path, 3).error.exists()
    checkpoint.unlink()
    folder.make_ready(JOB)
    assert not (tmp_path / "3").exists()


def test_a_lock_is_for_one_and_ends_with_its_holder(tmp_path: Path) -> None:
    path = tmp_path / "jobs" / "3.lock"
    with locked(path, "job 3"):
        assert is_locked(path)
        with pytest.raises(InputError, match=r"job 3 is in use by process \d+ on "), locked(path, "job 3"):
            pass
    assert not is_locked(path)


def test_two_sweeps_of_the_same_second_get_two_folders(tmp_path: Path) -> None:
    assert [free_folder(tmp_path / "now").name for _ in range(3)] == ["now", "now-2", "now-3"]
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        free_folder(tmp_path / "file" / "below")


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    assert SweepFolder(tmp_path / "new").read() == {}
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(InputError, match=r"holds thesis\.tex and no sweep"):
        SweepFolder(tmp_path).read()
    (tmp_path / "sweep.json").write_text("{")
    with pytest.raises(InputError, match="is damaged"):
        SweepFolder(tmp_path).read()


def test_known_jobs_keep_their_numbers_and_new_ones_follow(tmp_path: Path) -> None:
    recorded = [["a=1", "seed=1"], ["a=1", "seed=2"]]
    wanted = [("seed=2", "a=1"), ("seed=3", "a=1"), ("seed=1", "a=1"), ("seed=3", "a=1")]
    assert [job.number for job in number_jobs(wanted, recorded, tmp_path)] == [1, 2, 0]
    assert [job.number for job in number_jobs(wanted[:1], recorded, tmp_path)] == [1]
    assert [job.number for job in number_jobs(wanted, [], tmp_path)] == [0, 1, 2]
    with pytest.raises(InputError, match=r"holds another sweep \(a job of it: a=1 seed=\d\)"):
        number_jobs([("a=2", "seed=1")], recorded, tmp_path)


def test_errors_are_described_on_one_line() -> None:
    assert describe(InputError("a row\nis short")) == "a row"
    assert describe(KeyError()) == "KeyError"
    assert describe(RuntimeError("out of memory\nat ...")) == "RuntimeError: out of memory"


def test_records_survive(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path / "s")
    folder.write({"kind": "grid", "jobs": [["seed=1"]]})
    assert folder.read() == json.loads((tmp_path / "s" / "sweep.json").read_text())
