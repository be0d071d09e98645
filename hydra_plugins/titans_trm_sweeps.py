"""What Hydra looks for in the namespace `hydra_plugins`: the sweeper and the local launcher of titans_trm.

Hydra imports this file whenever an entry point starts, so the work is imported where it is done.
"""

from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class TitansSweeper(Sweeper):
    """Run a grid or a search of `train.py` in a folder that can be gone on with, and write its table."""

    def __init__(self) -> None:
        self.parts: tuple[DictConfig, HydraContext, Launcher] | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take what Hydra gives, and the launcher that `hydra/launcher` names."""
        from titans_trm.sweeps.hydra_jobs import make_launcher

        self.parts = config, hydra_context, make_launcher(config, hydra_context, task_function)

    def sweep(self, arguments: list[str]) -> Any:
        """Run all jobs; the process ends with a status that says how they ended, unless all is well."""
        from titans_trm.sweeps.hydra_jobs import sweep

        assert self.parts is not None
        sweep(arguments, *self.parts)


class LocalLauncher(Launcher):
    """Run each job in a process of its own, `jobs` of them at once.

    A job that crashes, or that the system kills, takes no other one with it; its memory is its own; and what Lightning
    starts for DDP repeats this job, since the job is all of its command line.
    """

    def __init__(self, jobs: int = 1) -> None:
        self.jobs = jobs
        self.parts: tuple[DictConfig, HydraContext] | None = None
        # What the sweeper wants to know: the number of a job with the file of its output, or with its exit status.
        self.started: Any = None
        self.ended: Any = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take what Hydra gives; the task is named by the command line, not by `task_function`."""
        self.parts = config, hydra_context

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs; what they computed is in their run folders."""
        from titans_trm.sweeps.hydra_jobs import launch_locally

        assert self.parts is not None
        hooks = {"started": self.started, "ended": self.ended}
        return launch_locally(job_overrides, initial_job_idx, *self.parts, at_once=self.jobs, **hooks)
