"""Processes that train together, as `torchrun` starts them, but forked: what is imported need not be imported again."""

import os
import pickle
import signal
import socket
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

TIMEOUT_SECONDS = 240.0


def on_ranks(world_size: int, task: Callable[[int], Any], folder: Path) -> list[Any]:
    """Return what `task(rank)` returns in each of `world_size` processes; their traceback is this test's."""
    folder.mkdir(parents=True, exist_ok=True)
    port = _free_port()
    children = [_start(rank, world_size, port, task, folder) for rank in range(world_size)]
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


def _start(rank: int, world_size: int, port: int, task: Callable[[int], Any], folder: Path) -> int:
    child = os.fork()
    if child:
        return child
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        GROUP_RANK="0",
        WORLD_SIZE=str(world_size),
        LOCAL_WORLD_SIZE=str(world_size),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        TORCHELASTIC_RUN_ID="test",
    )
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
