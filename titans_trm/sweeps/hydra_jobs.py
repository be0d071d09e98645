"""Between Hydra's plugin interfaces and the sweep: compose jobs, start them, hand over the exit status."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hydra._internal.utils import get_args_parser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from titans_trm.config import validate
from titans_trm.errors import InputError
from titans_trm.sweeps.folder import Job, SweepFolder
from titans_trm.sweeps.job import PARENT_VARIABLE, JobFiles
from titans_trm.sweeps.processes import run_processes, share_of_machine, start_process, visible_gpus
from titans_trm.sweeps.space import quoted
from titans_trm.sweeps.sweep import Order, open_folder, run_sweep, take_order, tell_result, tell_start
from titans_trm.training.config import RunConfig
from titans_trm.training.processes import RUN_DIR_VARIABLE, is_first_process

_EXTRAS = {"hydra_submitit_launcher": "slurm", "hydra_ray_launcher": "ray"}
_IN_THIS_PROCESS = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"
_OF_THE_MULTIRUN = ("hydra/launcher", "hydra/sweeper", "hydra.launcher", "hydra.sweeper", "hydra.sweep", "hydra.mode")


def make_launcher(config: DictConfig, context: HydraContext, task_function: TaskFunction) -> Launcher:
    """Return the launcher of `hydra/launcher`.

    Raises:
        InputError: it comes with an extra that is not installed.
    """
    package = str(config.hydra.launcher._target_).split(".")[1]
    if package in _EXTRAS and find_spec(f"hydra_plugins.{package}") is None:
        extra = _EXTRAS[package]
        raise InputError(
            f"hydra/launcher={extra} needs an extra; install it: uv sync --extra {extra}, or "
            f'pip install "titans-trm[{extra}]".'
        )
    return Plugins.instance().instantiate_launcher(config=config, hydra_context=context, task_function=task_function)


def sweep(typed: Sequence[str], config: DictConfig, context: HydraContext, launcher: Launcher) -> None:
    """Carry out the sweep that was typed; a status other than 0 ends the process.

    Raises:
        InputError: it cannot be carried out.
    """

    def compose(overrides: Sequence[str]) -> RunConfig:
        composed = context.config_loader.load_sweep_config(config, list(overrides))
        with open_dict(composed):
            del composed["hydra"]
        return validate(composed, RunConfig, overrides=overrides)

    if not is_first_process() or int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("a sweep is one process, which starts its jobs; call train.py -m without torchrun or srun.")
    hydras = list(config.hydra.overrides.hydra)
    if any(word.startswith("hydra.sweep.dir=") for word in hydras):
        typed = [*typed, f"sweep.folder={quoted(str(config.hydra.sweep.dir))}"]  # Hydra's own name for it
    words = [word for word in hydras if word.startswith(("hydra/launcher", "hydra.launcher"))]
    order = replace(take_order(typed, compose), launcher=tuple(words))
    if order.config.jobs > 1 and config.hydra.launcher._target_ == _IN_THIS_PROCESS:
        raise InputError(f"sweep.jobs={order.config.jobs} needs processes; leave out hydra/launcher=basic.")
    folder = open_folder(order)
    folder.path.mkdir(parents=True, exist_ok=True)
    with open_dict(config):
        config.sweep.folder = str(folder.path)  # launchers take hydra.sweep.dir from it
    OmegaConf.save(config, folder.multirun)
    count = 0

    def launch(batch: Sequence[list[str]]) -> None:
        nonlocal count
        launcher.launch(batch, initial_job_idx=count)
        count += len(batch)

    if hasattr(launcher, "started"):
        _listen(launcher, order, folder)
    status = run_sweep(order, folder, launch)
    if status:
        sys.exit(status)


def _listen(launcher: Any, order: Order, folder: SweepFolder) -> None:
    """Say when a job starts and how it ends."""

    def started(number: int, log: Path | None) -> None:
        tell_start(folder, number, order, log)

    def ended(number: int, status: int) -> None:
        job = Job(number, ())
        folder.explain(job, status)
        tell_result(folder.result(job), order.metric)

    launcher.started, launcher.ended = started, ended


@dataclass(frozen=True)
class _LocalJob:
    number: int
    composed: DictConfig
    overrides: Sequence[str]
    folder: Path
    log: Path | None


def launch_locally(
    batch: Sequence[Sequence[str]],
    first: int,
    config: DictConfig,
    context: HydraContext,
    *,
    at_once: int,
    started: Callable[[int, Path | None], None] | None = None,
    ended: Callable[[int, int], None] | None = None,
) -> list[JobReturn]:
    """Run this script once for each job of `batch`, `at_once` at a time, and return how they ended.

    Alone a job shows its output here; several at once write `jobs/<n>.log` in the sweep's folder.

    Raises:
        KeyboardInterrupt: interrupted; the jobs under way have written their checkpoints.
    """
    jobs = [_compose_job(words, first + i, config, context, at_once) for i, words in enumerate(batch)]
    gpus = visible_gpus() if at_once > 1 else []
    statuses: dict[int, int] = {}

    def start(job: _LocalJob, place: int) -> "subprocess.Popen[bytes]":
        environment = {**os.environ, PARENT_VARIABLE: str(os.getpid())}
        environment.pop(RUN_DIR_VARIABLE, None)  # would put all jobs into one folder
        environment |= share_of_machine(place, at_once, job.composed.hardware.devices, gpus)
        if started is not None:
            started(job.number, job.log)
        return start_process(_command(job, config), environment, job.log)

    def note(job: _LocalJob, status: int) -> None:
        statuses[job.number] = status
        if ended is not None:
            ended(job.number, status)

    if not run_processes(jobs, at_once, start, note):
        raise KeyboardInterrupt
    return [_job_return(job, statuses[job.number]) for job in jobs]


def _compose_job(
    overrides: Sequence[str], index: int, config: DictConfig, context: HydraContext, at_once: int
) -> _LocalJob:
    composed = context.config_loader.load_sweep_config(config, list(overrides))
    with open_dict(composed):
        composed.hydra.job.id = str(index)
        composed.hydra.job.num = index
    sweep_folder = Path(str(composed.hydra.sweep.dir))
    number = index if composed.sweep.job is None else composed.sweep.job
    log = JobFiles(sweep_folder, number).log if at_once > 1 else None
    return _LocalJob(number, composed, overrides, sweep_folder / str(composed.hydra.sweep.subdir), log)


def _command(job: _LocalJob, config: DictConfig) -> list[str]:
    """Return the command line of one job as a single run: what was typed for it, and its folder."""
    arguments, _ = get_args_parser().parse_known_args()
    options = [
        f"--{name.replace('_', '-')}={value}"
        for name in ("config_path", "config_name", "config_dir")
        if (value := getattr(arguments, name)) is not None
    ]
    hydras = [word for word in config.hydra.overrides.hydra if not word.lstrip("+").startswith(_OF_THE_MULTIRUN)]
    own = [word for word in job.overrides if not word.startswith(_OF_THE_MULTIRUN)]
    script = str(Path(sys.argv[0]).resolve())
    return [sys.executable, script, *options, *hydras, *own, f"hydra.run.dir={quoted(str(job.folder))}"]


def _job_return(job: _LocalJob, status: int) -> JobReturn:
    returned = JobReturn(overrides=list(job.overrides), working_dir=os.getcwd(), task_name=str(job.number))
    if status == 0:
        returned.status, returned.return_value = JobStatus.COMPLETED, None
    else:
        error = RuntimeError(f"job {job.number} ended with status {status}")
        returned.status, returned.return_value = JobStatus.FAILED, error
    return returned
