"""`titans-trm ablate`: train every row of a suite with every seed, resume what was interrupted, write the table."""

import json
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from titans_trm import schema
from titans_trm.config import compose, config_dir
from titans_trm.errors import InputError
from titans_trm.evaluation.ablation import Outcome, draw_ablation, summarise, to_csv, to_markdown
from titans_trm.schema import suggest
from titans_trm.sweeps.processes import run_processes, start_process
from titans_trm.training.console import format_duration
from titans_trm.training.run_folder import RunFolder, write_json, write_text

GROUP = "ablation"  # of conf/experiment: a row `no_memory` is experiment=ablation/no_memory
INTERRUPTED = 130  # exit status of a run that has written a checkpoint

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Suite:
    """A file of `conf/suite`: which rows are compared with which."""

    __pydantic_config__ = {"extra": "forbid"}

    baseline: str  # row that all others are compared with
    rows: list[str]  # files of conf/experiment/ablation, in the order of the table

    def __post_init__(self) -> None:
        if not self.rows or self.baseline in self.rows or len(set(self.rows)) < len(self.rows):
            raise ValueError(f"rows={self.rows} must name different rows, other than baseline={self.baseline}.")


@dataclass(frozen=True, kw_only=True)
class AblationSettings:
    """What `titans-trm ablate SUITE key=value ...` takes; other words go to train.py."""

    __pydantic_config__ = {"extra": "forbid"}

    seeds: list[int]  # of initialisation, order and augmentation; every row is trained with each
    jobs: int  # runs at once
    threads: int = 1  # CPU threads of one run
    folder: str = "runs/suite"  # a suite lies in folder/SUITE/ROW/seed_K

    def __post_init__(self) -> None:
        if not self.seeds or min(self.seeds) < 0 or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(
                f"seeds={self.seeds} must be different whole numbers from 0; write seeds=3 or seeds=0,1,2."
            )
        for key in ("jobs", "threads"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key}={getattr(self, key)} is too small; choose 1 or more.")


@dataclass(frozen=True)
class Job:
    """One run of one row with one seed."""

    row: str
    seed: int
    folder: RunFolder
    overrides: list[str]

    @property
    def done(self) -> bool:
        """Whether the run completed."""
        return self.folder.status == "completed"


def ablate(name: str, settings: AblationSettings, overrides: Sequence[str] = ()) -> int:
    """Run the suite `name`, write `ablation.{json,csv,md,png}` into its folder and return the exit status.

    Runs that completed are left alone, interrupted ones go on from their checkpoint.

    Raises:
        InputError: an unknown suite, row or override, or a folder that holds runs with other overrides.
    """
    suite = load_suite(name)
    script = _train_script()
    jobs = plan(name, suite, settings, overrides)
    to_do = [job for job in jobs if not job.done]
    logger.info("%s: %d runs, %d of them done before", name, len(jobs), len(jobs) - len(to_do))
    finished = _run_all(script, to_do, settings)
    folder = Path(settings.folder) / name
    write_table(folder, name, suite, jobs)
    failed = [job for job in jobs if not job.done]
    for job in failed:
        logger.warning("%s did not complete; see %s.log", job.folder.path, job.folder.path)
    if not finished:
        return INTERRUPTED
    return 1 if failed else 0


def suite_names() -> list[str]:
    """Return the names of all suites."""
    return sorted(file.stem for file in (config_dir() / "suite").glob("*.yaml"))


def load_suite(name: str) -> Suite:
    """Read `conf/suite/<name>.yaml`; `InputError` for an unknown one."""
    if name not in suite_names():
        raise InputError(f"suite={name} does not exist. {suggest(name, suite_names())}")
    text = (config_dir() / "suite" / f"{name}.yaml").read_text(encoding="utf-8")
    return schema.build(Suite, yaml.safe_load(text))


def plan(name: str, suite: Suite, settings: AblationSettings, overrides: Sequence[str]) -> list[Job]:
    """Return all runs of a suite, seeds outermost: an interrupted suite has whole tables for its first seeds."""
    jobs = []
    for seed in settings.seeds:
        for row in (suite.baseline, *suite.rows):
            typed = [f"experiment={GROUP}/{row}", f"seed={seed}", f"trainer.num_threads={settings.threads}", *overrides]
            if seed == settings.seeds[0]:
                compose("train", typed)  # a mistake is told before the first run
            job = Job(row, seed, RunFolder(Path(settings.folder) / name / row / f"seed_{seed}"), typed)
            _check_same(job)
            jobs.append(job)
    return jobs


def write_table(folder: Path, name: str, suite: Suite, jobs: Sequence[Job]) -> None:
    """Write what the completed runs say: JSON, CSV, Markdown and a picture."""
    outcomes = [_outcome(job) for job in jobs if job.done]
    if not any(outcome.row == suite.baseline for outcome in outcomes):
        logger.warning("no run of %s completed yet: no table", suite.baseline)
        return
    notes = {row: _what_changes(row) for row in (suite.baseline, *suite.rows)}
    table = summarise(outcomes, suite.baseline, notes)
    write_json(folder / "ablation.json", {"suite": name, **table.to_dict()})
    write_text(folder / "ablation.csv", to_csv(table))
    write_text(folder / "ablation.md", to_markdown(table))
    draw_ablation(table, folder / "ablation.png", title=f"Ablation: {name}")
    logger.info("table: %s", folder / "ablation.md")


def _train_script() -> Path:
    for folder in (Path.cwd(), Path(__file__).resolve().parents[2]):
        if (folder / "train.py").is_file() and (folder / "conf" / "train.yaml").is_file():
            return folder / "train.py"
    raise InputError("there is no train.py here; call titans-trm ablate in a checkout of the project.")


def _check_same(job: Job) -> None:
    """Refuse a folder whose run was started with other words."""
    if not job.folder.overrides.is_file():
        return
    then = yaml.safe_load(job.folder.overrides.read_text(encoding="utf-8")) or []
    kept = [word for word in then if not word.startswith("resume=")]
    if kept != job.overrides:
        raise InputError(
            f"{job.folder.path} holds a run of other overrides ({' '.join(kept)}); give the same ones, or another "
            "folder=PATH."
        )


def _run_all(script: Path, jobs: Sequence[Job], settings: AblationSettings) -> bool:
    """Run `jobs`, `settings.jobs` at once; return False after an interruption."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    started: dict[Path, float] = {}
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("training", total=len(jobs))

        def start(job: Job, place: int) -> "subprocess.Popen[bytes]":
            started[job.folder.path] = time.monotonic()
            return _start(script, job, settings.threads)

        def ended(job: Job, status: int) -> None:
            progress.advance(bar)
            _tell(job, time.monotonic() - started[job.folder.path])

        return run_processes(jobs, settings.jobs, start, ended)


def _start(script: Path, job: Job, threads: int) -> "subprocess.Popen[bytes]":
    """Train in a process of its own, from the last checkpoint if there is one."""
    folder = job.folder
    resume = []
    if folder.has_checkpoint:
        resume = [f"resume={folder.path}"]
    elif folder.path.exists():
        shutil.rmtree(folder.path)  # killed before its first checkpoint: nothing to keep
    environment = {
        **os.environ,
        "TITANS_TRM_RUN_DIR": str(folder.path),
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
    }
    command = [sys.executable, str(script), *job.overrides, *resume]
    return start_process(command, environment, folder.path.parent / f"{folder.path.name}.log")


def _tell(job: Job, seconds: float) -> None:
    if job.done:
        accuracy = 100 * _outcome(job).exact_accuracy
        logger.info("%s, seed %d: %.1f %% exact, %s", job.row, job.seed, accuracy, format_duration(seconds))
    else:
        logger.warning("%s, seed %d: %s", job.row, job.seed, job.folder.status or "ended without a summary")


def _outcome(job: Job) -> Outcome:
    summary = json.loads(job.folder.summary.read_text(encoding="utf-8"))
    val = summary["val"]
    return Outcome(
        row=job.row,
        seed=job.seed,
        exact_accuracy=val["exact_accuracy"],
        exact_accuracy_adaptive=val["exact_accuracy_adaptive"],
        mean_supervision_steps_adaptive=val["mean_supervision_steps_adaptive"],
        num_examples=val["num_examples"],
        parameters=summary["parameters"],
        wall_seconds=summary["wall_seconds"],
        net_calls=val["net_calls"] / val["num_examples"],
    )


def _what_changes(row: str) -> str:
    """Return the sentence below the command in the row's file."""
    lines = (config_dir() / "experiment" / GROUP / f"{row}.yaml").read_text(encoding="utf-8").splitlines()
    return lines[2].removeprefix("# ")
