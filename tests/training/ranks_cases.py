"""Processes that train together, as `torchrun` or `srun` start them, but forked: nothing need be imported again."""

import os
import pickle
import signal
import socket
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch  # noqa: F401  once, before the forks

TIMEOUT_SECONDS = 900.0


def on_ranks(world_size: int, task: Callable[[int], Any], folder: Path, launcher: str = "torchrun") -> list[Any]:
    """Return what `task(rank)` returns in each of `world_size` processes; their traceback is this test's."""
    folder.mkdir(parents=True, exist_ok=True)
    port = _free_port()
    environments = [_ENVIRONMENTS[launcher](str(rank), str(world_size)) for rank in range(world_size)]
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    children = [_start(rank, one | meeting, task, folder) for rank, one in enumerate(environments)]
    deadline = time.monotonic() + TIMEOUT_SECONDS
    try:
        while children and time.monotonic() < deadline:
            children = [child for child in children if os.waitpid(child, os.WNOHANG)[0] == 0]
            time.sleep(0.02)
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    assert not children, f"{len(children)} of {world_size} processes were still at work after {TIMEOUT_SECONDS:g} s"
    results = []
    for rank in range(world_size):
        kind, value = pickle.loads((folder / f"{rank}.pickle").read_bytes())
        assert kind == "result", f"rank {rank} failed:\n{value}"
        results.append(value)
    return results


def _torchrun(rank: str, world_size: str) -> dict[str, str]:
    local = {"LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": world_size, "GROUP_RANK": "0"}
    return {"RANK": rank, "WORLD_SIZE": world_size, "TORCHELASTIC_RUN_ID": "test"} | local


def _srun(rank: str, world_size: str) -> dict[str, str]:
    job = {"SLURM_JOB_ID": "1", "SLURM_JOB_NAME": "train", "SLURM_NTASKS": world_size, "SLURM_NNODES": "1"}
    job["SLURM_NTASKS_PER_NODE"] = world_size
    return job | {"SLURM_PROCID": rank, "SLURM_LOCALID": rank, "SLURM_NODEID": "0"}


_ENVIRONMENTS = {"torchrun": _torchrun, "srun": _srun}


def _start(rank: int, environment: dict[str, str], task: Callable[[int], Any], folder: Path) -> int:
    child = os.fork()
    if child:
        return child
    os.environ.update(environment)
    try:
        outcome = ("result", task(rank))
    except BaseException:
        outcome = ("error", traceback.format_exc())
    (folder / f"{rank}.pickle").write_bytes(pickle.dumps(outcome))
    os._exit(0)


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
