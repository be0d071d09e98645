"""What a run does because it is a job of a sweep: keep others out of its folder, say why it failed, end with its sweep.

No torch, no Hydra: entry points import this before anything heavy.
"""

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal

from titans_trm.errors import InputError
from titans_trm.training.processes import is_first_process

PARENT_VARIABLE = "TITANS_TRM_SWEEP_PID"  # process that started this one and waits for it
Kind = Literal["input", "failure", "killed"]

_PATIENCE = 60.0  # seconds that a job waits for the folder of one that is about to end
_POLL = 0.5  # seconds


class JobFiles:
    """Where the sweep in `folder` keeps what it knows of job `number` besides its run folder."""

    def __init__(self, folder: str | Path, number: int) -> None:
        base = Path(folder) / "jobs"
        self.lock = base / f"{number}.lock"
        self.error = base / f"{number}.error.json"
        self.log = base / f"{number}.log"


@contextmanager
def as_job(folder: str, number: int | None) -> Iterator[None]:
    """Run the body as job `number` of the sweep in `folder`: alone in its folder, and not longer than its sweep.

    Raises:
        InputError: another process is at this job and does not end.
    """
    if number is None or not is_first_process():
        yield
        return
    _follow_parent()
    with locked(JobFiles(folder, number).lock, f"job {number} of {folder}", patience=_PATIENCE):
        yield


@contextmanager
def locked(path: Path, what: str, *, patience: float = 0.0) -> Iterator[None]:
    """Hold `path` as a lock that the system takes away from a process that ends, however it ends.

    Args:
        path: file of the lock; made if need be, and left behind.
        what: what it guards, for the error.
        patience: seconds to wait for another holder.

    Raises:
        InputError: another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        deadline = time.monotonic() + patience
        while not _try_lock(file):
            if time.monotonic() >= deadline:
                raise InputError(f"{what} is in use by {_holder(path)}; wait for it, or end that process.")
            time.sleep(_POLL)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield


def is_locked(path: Path) -> bool:
    """Tell whether a process holds the lock at `path`."""
    if not path.exists():
        return False
    with path.open("a+", encoding="utf-8") as file:
        return not _try_lock(file)  # closing the file gives it back


def note_failure(folder: str, number: int | None, kind: Kind, message: str) -> None:
    """Leave one line on why job `number` failed, for the table; nothing for a run that is no job."""
    if number is None or not is_first_process():
        return
    path = JobFiles(folder, number).error
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_text(json.dumps({"kind": kind, "message": message}) + "\n", encoding="utf-8")
    partial.replace(path)


def describe(error: BaseException) -> str:
    """Return the first line of an error, with its class where it is not the user's to fix."""
    lines = str(error).strip().splitlines()
    if isinstance(error, InputError):
        return lines[0] if lines else "bad input"
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _try_lock(file: IO[Any]) -> bool:
    import fcntl  # not on every system that can train a single run

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(path: Path) -> str:
    return path.read_text(encoding="utf-8").strip() or "another process"


def _follow_parent() -> None:
    """Once the process that started this job is gone, stop as after SIGTERM: with a checkpoint, and not for nobody."""
    parent = os.environ.get(PARENT_VARIABLE)
    if parent is None:
        return  # in the sweep's own process, or started by Slurm or Ray

    def watch() -> None:
        while os.getppid() == int(parent):
            time.sleep(_POLL)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="follow the sweep", daemon=True).start()
