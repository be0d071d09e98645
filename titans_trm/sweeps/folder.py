"""The folder of a sweep: what was asked for (`sweep.json`), which jobs there are, and how each of them stands.

multirun.yaml   the composed configuration        jobs/<n>.log, jobs/<n>.error.json   output, why it failed
sweep.json      overrides of every job            optuna.journal                      trials of a search
<n>/            run folder of job n               sweep_summary.{csv,md,png}          the table
"""

import itertools
import json
import shutil
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from titans_trm.errors import InputError
from titans_trm.sweeps.job import JobFiles, is_locked, locked
from titans_trm.training.run_folder import RunFolder, write_json

# stopped: by its time limit, with a result; interrupted: goes on when the sweep is called again
Status = Literal["waiting", "running", "interrupted", "failed", "pruned", "stopped", "completed"]
DONE: tuple[Status, ...] = ("completed", "stopped", "pruned")

_STOPS: dict[str, Status] = {"signal": "interrupted", "pruning": "pruned", "time": "stopped"}


@dataclass(frozen=True)
class Job:
    """One run of a sweep."""

    number: int
    overrides: tuple[str, ...]  # what the user asked for: no key of the sweep itself

    @property
    def words(self) -> frozenset[str]:
        """What makes it the same job, wherever the words were typed."""
        return frozenset(self.overrides)


@dataclass(frozen=True)
class Result:
    """How a job stands."""

    job: Job
    status: Status
    summary: dict[str, Any] = field(default_factory=dict)  # summary.json, as far as there is one
    error: str = ""  # one line on why it failed
    bad_input: bool = False  # whether it failed by what the user gave

    def value(self, metric: str) -> float | None:
        """Return the value of `val/...`, or None where the job has none (yet)."""
        found = (self.summary.get("val") or {}).get(metric.removeprefix("val/"))
        return float(found) if isinstance(found, int | float) and self.status != "failed" else None


class SweepFolder:
    """Paths and records of one sweep."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.record = self.path / "sweep.json"
        self.multirun = self.path / "multirun.yaml"
        self.journal = self.path / "optuna.journal"
        self.csv = self.path / "sweep_summary.csv"
        self.markdown = self.path / "sweep_summary.md"
        self.picture = self.path / "sweep_summary.png"

    def alone(self) -> AbstractContextManager[None]:
        """Hold the sweep: a second one of the same folder is an `InputError` meanwhile."""
        return locked(self.path / "jobs" / "sweep.lock", f"sweep.folder={self.path}")

    @property
    def in_use(self) -> bool:
        """Whether a process holds the sweep."""
        return is_locked(self.path / "jobs" / "sweep.lock")

    def read(self) -> dict[str, Any]:
        """Return what `write` recorded, or nothing for a new sweep.

        Raises:
            InputError: there is a folder of something else.
        """
        try:
            return json.loads(self.record.read_text(encoding="utf-8"))
        except FileNotFoundError:
            ours = ("jobs", self.multirun.name)
            others = [one.name for one in self.path.iterdir() if one.name not in ours] if self.path.is_dir() else []
            if others:
                raise InputError(
                    f"sweep.folder={self.path} holds {others[0]} and no sweep; choose another folder."
                ) from None
            return {}
        except ValueError as error:
            raise InputError(f"{self.record} is damaged ({error}); choose another sweep.folder.") from error

    def write(self, record: dict[str, Any]) -> None:
        """Record what was asked for."""
        write_json(self.record, record)

    def run_folder(self, number: int) -> RunFolder:
        """Return the run folder of a job."""
        return RunFolder(self.path / str(number))

    def result(self, job: Job) -> Result:
        """Return how `job` stands, from what it left behind."""
        run, files = self.run_folder(job.number), JobFiles(self.path, job.number)
        summary = _read(run.summary)
        if is_locked(files.lock):
            return Result(job, "running", summary)
        error = _read(files.error)
        if error:
            return Result(job, "failed", summary, str(error["message"]), error["kind"] == "input")
        ended = summary.get("status")
        if ended == "failed":
            return Result(job, "failed", summary, str(summary.get("error", "")))
        if ended == "stopped":
            return Result(job, _STOPS.get(summary.get("stopped_by", "time"), "stopped"), summary)
        if ended == "completed":
            return Result(job, "completed", summary)
        return Result(job, "interrupted" if run.config.is_file() else "waiting", summary)

    def make_ready(self, job: Job) -> None:
        """Clear what an earlier attempt without a checkpoint left: there is nothing to go on from."""
        JobFiles(self.path, job.number).error.unlink(missing_ok=True)
        run = self.run_folder(job.number)
        if run.path.exists() and not run.has_checkpoint:
            shutil.rmtree(run.path)

    def explain(self, job: Job, status: int) -> None:
        """Note why a process ended that could not say so itself."""
        run, files = self.run_folder(job.number), JobFiles(self.path, job.number)
        if status in (0, 130) or files.error.exists():
            return
        if status < 0:
            import signal

            reason = f"ended by {signal.Signals(-status).name}" + (" (out of memory?)" if status == -9 else "")
        else:
            reason = _read(run.summary).get("error") or f"ended with status {status}"
        write_json(files.error, {"kind": "killed" if status < 0 else "failure", "message": reason})


def free_folder(path: str | Path) -> Path:
    """Return `path`, or `path-2`, `path-3`, ... if that is taken; two sweeps of the same second get two folders."""
    path = Path(path)
    for number in itertools.count(1):
        candidate = path if number == 1 else path.with_name(f"{path.name}-{number}")
        try:
            candidate.parent.mkdir(parents=True, exist_ok=True)
            candidate.mkdir()
            return candidate
        except OSError as error:
            if candidate.is_dir():
                continue
            raise InputError(
                f"sweep.folder={candidate} cannot be written ({error.strerror}); choose another with sweep.folder=PATH."
            ) from error
    raise AssertionError("itertools.count does not end")


def number_jobs(wanted: Sequence[tuple[str, ...]], recorded: Sequence[Sequence[str]], folder: Path) -> list[Job]:
    """Return the wanted jobs with the numbers they had before; new ones get the next numbers.

    Raises:
        InputError: neither are all recorded jobs wanted, nor are all wanted ones recorded: it is another sweep.
    """
    known = {frozenset(words): number for number, words in enumerate(recorded)}
    asked = {frozenset(words) for words in wanted}
    if known and not (known.keys() <= asked or asked <= known.keys()):
        missing = sorted(next(iter(known.keys() - asked)))
        raise InputError(
            f"sweep.folder={folder} holds another sweep (a job of it: {' '.join(missing)}); give the same overrides, "
            "more values of them, or another folder."
        )
    jobs: dict[frozenset[str], Job] = {}
    for words in wanted:
        identity = frozenset(words)
        if identity not in jobs:  # a value given twice is one job
            number = known.setdefault(identity, len(known))
            jobs[identity] = Job(number, words)
    return list(jobs.values())


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
