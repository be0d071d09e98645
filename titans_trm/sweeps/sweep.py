"""Carry out a sweep: find its folder, run what is not done, write the table, say what failed."""

import logging
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from titans_trm.errors import InputError
from titans_trm.sweeps.folder import DONE, Job, Result, SweepFolder, free_folder, number_jobs
from titans_trm.sweeps.job import describe
from titans_trm.sweeps.objective import objective_name
from titans_trm.sweeps.space import Space, distributions, quoted, read_space, split_override
from titans_trm.sweeps.study import open_study
from titans_trm.sweeps.summary import Table, tabulate, write_table
from titans_trm.training.config import RunConfig
from titans_trm.training.sweep_config import OptunaConfig, SweepConfig

if TYPE_CHECKING:
    from optuna import Study

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130  # exit status

# Runs jobs, each given by all its overrides. KeyboardInterrupt once those under way have ended.
Launch = Callable[[Sequence[list[str]]], object]

_PATIENCE = 60.0  # seconds for jobs of an earlier call to end

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Order:
    """What was asked for."""

    config: SweepConfig
    metric: str  # val/<name>
    space: Space
    typed: tuple[str, ...]
    launcher: tuple[str, ...] = ()  # what was typed about the launcher

    @property
    def command(self) -> str:
        """What was typed, without the words that say where."""
        own = ("sweep.folder", "resume")
        return shlex.join(["python", "train.py", "-m", *(w for w in self.typed if _key(w) not in own), *self.launcher])

    @property
    def of_the_sweep(self) -> list[str]:
        """The sweep's own words, which its jobs get too."""
        return [word for word in self.typed if _key(word).partition(".")[0] == "sweep" and _key(word) != "sweep.folder"]


def take_order(typed: Sequence[str], compose: Callable[[Sequence[str]], RunConfig]) -> Order:
    """Read the overrides of a multirun; `compose` makes the configuration of one job.

    Raises:
        InputError: it cannot be carried out.
    """
    own = [word for word in typed if _key(word).partition(".")[0] == "sweep"]
    space = read_space(typed)
    config = compose([*space.first(), *own])
    if isinstance(config.sweep, OptunaConfig) and config.sweep.space:
        space = read_space(typed, config.sweep.space)
        config = compose([*space.first(), *own])
    resume = next((split_override(word)[1] for word in typed if _key(word) == "resume"), "null")
    if resume not in ("auto", "null"):
        raise InputError(
            f"resume={resume} would put all jobs into one run folder; to go on with a sweep name it by "
            "sweep.folder=PATH, or write resume=auto for the newest of the same overrides."
        )
    return Order(config.sweep, objective_name(config), space, tuple(typed))


def open_folder(order: Order) -> SweepFolder:
    """Return the folder of the sweep: a new one, the one that was named, or the newest of the same overrides.

    Raises:
        InputError: the folder holds something else.
    """
    path = Path(order.config.folder)
    if any(_key(word) == "sweep.folder" for word in order.typed):
        folder = SweepFolder(path)
        _check_same(order, folder)
        return folder
    if "resume=auto" in order.typed:
        found = [SweepFolder(record.parent) for record in path.parent.glob("*/sweep.json")]
        same = [folder for folder in found if not folder.in_use and _is_same(order, folder)]
        if same:
            return max(same, key=lambda folder: folder.record.stat().st_mtime)
    return SweepFolder(free_folder(path))


def run_sweep(order: Order, folder: SweepFolder, launch: Launch) -> int:
    """Run all jobs that are not done, write the table and return the exit status."""
    interrupted = False
    with folder.alone():
        record = {"kind": order.config.kind, "jobs": [], **folder.read()}
        record |= {"metric": order.metric, "space": order.space.words(), "command": order.command}
        work = _search if isinstance(order.config, OptunaConfig) else _grid
        try:
            work(order, folder, record, launch)
        except KeyboardInterrupt:
            interrupted = True
        results = [folder.result(job) for job in _recorded(record)]
        table = tabulate(results, order.metric, order.command, [axis.key for axis in order.space.axes])
        write_table(folder, table, order.config.kind)
    return _conclude(order, folder, table, interrupted)


def tell_start(folder: SweepFolder, number: int, order: Order, log: Path | None) -> None:
    """Say on one line what makes a job different, and where its output goes."""
    keys = [axis.key for axis in order.space.axes]
    words = " ".join(word for word in folder.read()["jobs"][number] if split_override(word)[0] in keys)
    _say(f"job {number} starts: {words}" + ("" if log is None else f" (output in {log})"))


def tell_result(result: Result, metric: str) -> None:
    """Say on one line how a job ended."""
    value = result.value(metric)
    told = result.status if value is None else f"{result.status}, {metric} {value:.4g}"
    _say(f"job {result.job.number}: {told}{': ' if result.error else ''}{result.error}")


def _grid(order: Order, folder: SweepFolder, record: dict[str, Any], launch: Launch) -> None:
    jobs = number_jobs(list(order.space.jobs()), record["jobs"], folder.path)
    _note_jobs(folder, record, jobs)
    _wait_for_others(folder, jobs)
    to_do = [job for job in jobs if folder.result(job).status not in (*DONE, "running")]
    _say(f"{len(jobs)} jobs, {len(jobs) - len(to_do)} of them done before, in {folder.path}")
    _launch(order, folder, to_do, launch)


def _search(order: Order, folder: SweepFolder, record: dict[str, Any], launch: Launch) -> None:
    assert isinstance(order.config, OptunaConfig)
    ranges = distributions(order.space)
    folder.write(record)
    study = open_study(folder.journal, order.config, order.metric)
    _settle(study, folder, record, order.metric)
    ended = sum(trial.state.is_finished() for trial in study.get_trials(deepcopy=False))
    _say(f"{order.config.trials} trials, {ended} of them ended before, in {folder.path}")
    tried: set[int] = set()
    while True:
        open_trials = [trial for trial in study.get_trials(deepcopy=False) if not trial.state.is_finished()]
        jobs = [Job(trial.number, order.space.at(trial.params)) for trial in open_trials if trial.number not in tried]
        free = min(order.config.jobs - len(jobs), order.config.trials - len(study.get_trials(deepcopy=False)))
        for _ in range(free):
            trial = study.ask(ranges)
            jobs.append(Job(trial.number, order.space.at(trial.params)))
        if not jobs:
            return
        _note_jobs(folder, record, jobs)
        _wait_for_others(folder, jobs)
        tried |= {job.number for job in jobs}
        try:
            _launch(order, folder, [job for job in jobs if folder.result(job).status != "running"], launch)
        finally:
            _settle(study, folder, record, order.metric)


def _note_jobs(folder: SweepFolder, record: dict[str, Any], jobs: Sequence[Job]) -> None:
    """Record new jobs before the first of them starts: their numbers name folders."""
    for job in sorted(jobs, key=lambda job: job.number):
        if job.number == len(record["jobs"]):
            record["jobs"].append(list(job.overrides))
    folder.write(record)


def _settle(study: "Study", folder: SweepFolder, record: dict[str, Any], metric: str) -> None:
    """Tell the study of every job that has ended."""
    from optuna.trial import TrialState

    jobs = {job.number: job for job in _recorded(record)}
    for trial in study.get_trials(deepcopy=False):
        if trial.state.is_finished() or trial.number not in jobs:
            continue
        result = folder.result(jobs[trial.number])
        value = result.value(metric)
        if result.status == "pruned":
            study.tell(trial.number, state=TrialState.PRUNED)
        elif result.status in DONE and value is not None:
            study.tell(trial.number, value)
        elif result.status == "failed" or result.status in DONE:
            study.tell(trial.number, state=TrialState.FAIL)


def _launch(order: Order, folder: SweepFolder, jobs: Sequence[Job], launch: Launch) -> None:
    """Launch jobs, each going on from its own checkpoint if it has one; what they did is read from their folders."""
    if not jobs:
        return
    batch = []
    for job in jobs:
        folder.make_ready(job)
        batch.append(
            [
                *job.overrides,
                *order.of_the_sweep,
                f"sweep.folder={quoted(str(folder.path))}",
                f"sweep.metric={order.metric}",
                f"sweep.job={job.number}",
                "resume=auto",
                f"hydra.sweep.subdir={job.number}",
            ]
        )
    try:
        launch(batch)
    except SystemExit as end:  # of a job in this process
        if end.code == INTERRUPTED:
            raise KeyboardInterrupt from end
        raise
    except InputError:
        raise
    except Exception as error:  # a launcher gives up: what ended is in the folders, the rest can go on
        logger.debug("the launcher failed", exc_info=True)
        _say(f"the launcher failed ({describe(error)}); call again to go on")


def _wait_for_others(folder: SweepFolder, jobs: Sequence[Job]) -> None:
    """Give jobs that an earlier call left behind the time to write their checkpoints."""
    deadline = time.monotonic() + _PATIENCE
    told = False
    while time.monotonic() < deadline and any(folder.result(job).status == "running" for job in jobs):
        if not told:
            _say("jobs of an earlier call still run; waiting for them")
            told = True
        time.sleep(0.5)


def _conclude(order: Order, folder: SweepFolder, table: Table, interrupted: bool) -> int:
    """Say what came out, and return the exit status."""
    failed = [result for result in table.results if result.status == "failed"]
    open_jobs = [result for result in table.results if result.status not in (*DONE, "failed")]
    _say(table.headline())
    for result in failed:
        _say(f"job {result.job.number} failed: {result.error} ({' '.join(table.varying(result.job))})")
    _say(f"table: {folder.markdown}")
    if interrupted or open_jobs:
        _say(f"to go on: {order.command} sweep.folder={shlex.quote(str(folder.path))}")
    sys.stdout.write(f"{folder.path}\n")
    sys.stdout.flush()
    if interrupted:
        return INTERRUPTED
    if failed:
        return BAD_INPUT if all(result.bad_input for result in failed) else FAILED
    return FAILED if open_jobs else 0


def _check_same(order: Order, folder: SweepFolder) -> None:
    """Refuse a folder of another sweep."""
    record = folder.read()
    if not record:
        return
    if record["kind"] != order.config.kind:
        raise InputError(f"sweep.folder={folder.path} holds a sweep={record['kind']}; choose another folder.")
    if not isinstance(order.config, OptunaConfig):
        number_jobs(list(order.space.jobs()), record["jobs"], folder.path)
        return
    for key, now in (("metric", [order.metric]), ("space", order.space.words())):
        then = [record[key]] if key == "metric" else record[key]
        if then != now:
            lost, new = (", ".join(sorted(set(a) - set(b))) or "nothing" for a, b in ((then, now), (now, then)))
            raise InputError(
                f"sweep.folder={folder.path} holds another search: it has {lost} where now {new} is asked for; give "
                "the same overrides, or another folder."
            )


def _is_same(order: Order, folder: SweepFolder) -> bool:
    try:
        _check_same(order, folder)
    except InputError:
        return False
    return True


def _recorded(record: dict[str, Any]) -> list[Job]:
    return [Job(number, tuple(words)) for number, words in enumerate(record["jobs"])]


def _key(word: str) -> str:
    return split_override(word)[0].lstrip("+")


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
