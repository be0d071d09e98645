"""The processes of a distributed run: which one writes, and what it tells the others.

Processes come to be in two ways. Lightning starts them itself, by repeating the command line with `LOCAL_RANK` set:
they learn from the environment. Or `torchrun` and `srun` start all of them: they meet before the run folder is chosen.
"""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RUN_DIR_VARIABLE = "TITANS_TRM_RUN_DIR"
CHECKPOINT_VARIABLE = "TITANS_TRM_CHECKPOINT"  # to resume from; empty: start anew
_RANK_VARIABLES = ("RANK", "LOCAL_RANK", "SLURM_PROCID")
_PATIENCE_SECONDS = 20.0  # with processes that should end, since the first one has


@dataclass(frozen=True)
class Start:
    """Where a run is and where it goes on, as the first process has found it."""

    run_dir: Path
    checkpoint: Path | None


def is_first_process() -> bool:
    """Tell whether this process is the only one or rank zero, before any process group exists."""
    return all(os.environ.get(name, "0") == "0" for name in _RANK_VARIABLES)


def join_ranks(world_size: int | None, accelerator: str) -> bool:
    """Let processes that `torchrun` or `srun` has started find each other; tell whether there are any.

    Args:
        world_size: processes the configuration asks for; None = as many as there are.
        accelerator: `cpu`, or another for which NCCL is added.
    """
    import torch.distributed as dist
    from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
    from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

    if world_size == 1:
        return False
    if TorchElasticEnvironment.detect():
        ranks: Any = TorchElasticEnvironment()
    elif SLURMEnvironment.detect() and int(os.environ.get("SLURM_NTASKS", "1")) == world_size:
        ranks = SLURMEnvironment()
    else:
        return False
    if not dist.is_initialized():
        os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = ranks.main_address, str(ranks.main_port)
        backend = "gloo" if accelerator == "cpu" else "cpu:gloo,cuda:nccl"
        dist.init_process_group(backend, rank=ranks.global_rank(), world_size=ranks.world_size())
    return True


def agreed_start(own: Start | None) -> Start:
    """Return what the first process has found, on every process of `join_ranks`; a collective call."""
    import torch.distributed as dist

    told = [own]
    dist.broadcast_object_list(told, src=0)
    assert told[0] is not None
    return told[0]


def told_start(run_dir: str) -> Start:
    """Return what the process that started this one has found."""
    checkpoint = os.environ.get(CHECKPOINT_VARIABLE)
    return Start(Path(os.environ.get(RUN_DIR_VARIABLE, run_dir)), Path(checkpoint) if checkpoint else None)


@contextmanager
def shared_start(start: Start) -> Iterator[None]:
    """Tell processes started meanwhile where the run is; the next run of this process is told anew."""
    before = {name: os.environ.get(name) for name in (RUN_DIR_VARIABLE, CHECKPOINT_VARIABLE)}
    os.environ[RUN_DIR_VARIABLE] = str(start.run_dir)
    os.environ[CHECKPOINT_VARIABLE] = "" if start.checkpoint is None else str(start.checkpoint)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def dismiss(children: list["subprocess.Popen[bytes]"]) -> None:
    """Wait for the processes that Lightning has started, end what does not, and forget them.

    Lightning would end this process too, hours later and the other jobs of a sweep with it, when one of them fails.
    """
    for child in children:
        try:
            child.wait(_PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
    children.clear()
