"""One job of a multirun at a time, where several run in this process (`hydra/launcher=basic`, Slurm, Ray)."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import flag_override


@contextmanager
def isolated_job() -> Iterator[None]:
    """Have the processes that Lightning starts repeat this one job of a multirun, not the whole sweep.

    They repeat `sys.argv`, in which a sweep still has all its values: each would go through a sweep of its own, and
    under a sampler train other values than the first process. Afterwards the process group is closed and the
    environment, in which Lightning leaves ranks and a port, is as before, so that the next job starts its own.
    """
    settings: Any = HydraConfig.get()
    arguments, environment = sys.argv[:], dict(os.environ)
    started_from_outside = "RANK" in environment or "SLURM_PROCID" in environment
    if settings.mode == RunMode.MULTIRUN:
        with flag_override(settings, "readonly", False):
            settings.run.dir = settings.runtime.output_dir  # Lightning hands it to the processes it starts
        sys.argv[1:] = [*settings.overrides.task, "hydra.mode=RUN"]
    try:
        yield
    finally:
        sys.argv[:] = arguments
        if settings.mode == RunMode.MULTIRUN and not started_from_outside:
            _leave_group()
            os.environ.clear()
            os.environ.update(environment)


def _leave_group() -> None:
    dist = sys.modules.get("torch.distributed")  # not imported: there is none
    if dist is not None and dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
