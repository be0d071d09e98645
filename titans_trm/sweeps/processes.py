"""Run commands in processes of their own, several at once; stop them together, each with its checkpoint."""

import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

Job = TypeVar("Job")

_POLL = 0.1  # seconds


def run_processes(
    jobs: Iterable[Job],
    at_once: int,
    start: Callable[[Job, int], "subprocess.Popen[bytes]"],
    ended: Callable[[Job, int], None],
) -> bool:
    """Start a process per job, `at_once` at a time, and wait for all; return False if this was interrupted.

    SIGINT and SIGTERM start no further job and ask each running one once, by SIGTERM, to write a checkpoint and end; a
    second signal kills them.

    Args:
        jobs: what is to be done, in this order.
        at_once: processes at a time.
        start: starts a job in a place from 0 to `at_once - 1`, which no other running job has.
        ended: told each job with its exit status (negative: the signal that ended it).
    """
    waiting = deque(jobs)
    running: dict[int, tuple[Job, subprocess.Popen[bytes]]] = {}
    passed_on = 0
    with _noted_signals() as signals:
        while running or (waiting and not signals):
            for place in range(at_once):
                if waiting and not signals and place not in running:
                    job = waiting.popleft()
                    running[place] = job, start(job, place)
            if len(signals) > passed_on:
                passed_on = len(signals)
                for _, process in running.values():
                    process.send_signal(signal.SIGTERM if passed_on == 1 else signal.SIGKILL)
            for place, (job, process) in list(running.items()):
                if process.poll() is not None:
                    del running[place]
                    ended(job, process.returncode)
            time.sleep(_POLL)
        return not signals


def start_process(
    command: Sequence[str], environment: dict[str, str], log: Path | None = None
) -> "subprocess.Popen[bytes]":
    """Start `command`, its output appended to `log` or shown here.

    It gets a session of its own: Ctrl-C reaches the caller only, which then asks each job once.
    """
    if log is None:
        return subprocess.Popen(command, env=environment, start_new_session=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        return subprocess.Popen(command, env=environment, stdout=file, stderr=file, start_new_session=True)


def share_of_machine(place: int, at_once: int, devices: int | str, gpus: Sequence[str]) -> dict[str, str]:
    """Return the environment variables that give the job in `place` its share of the CPU threads and GPUs.

    A thread count that the user has set stays. GPUs are handed out in blocks of `devices`; where there are too few for
    all jobs, jobs share.

    Args:
        place: of the job, from 0.
        at_once: jobs running side by side.
        devices: GPUs of one job; "auto" takes what is there.
        gpus: the visible GPUs by name.
    """
    if at_once == 1:
        return {}
    threads = str(max(1, _cpus() // at_once))
    found = {name: os.environ.get(name, threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    if isinstance(devices, int) and 0 < devices <= len(gpus):
        block = place % (len(gpus) // devices)
        found["CUDA_VISIBLE_DEVICES"] = ",".join(gpus[block * devices : (block + 1) * devices])
    return found


def visible_gpus() -> list[str]:
    """Return the names of this machine's visible NVIDIA GPUs, without touching any."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip()]
    try:
        listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [str(number) for number, line in enumerate(listed.stdout.splitlines()) if line.startswith("GPU")]


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _noted_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM in a list, instead of being interrupted by them."""
    noted: list[int] = []
    before = {
        number: signal.signal(number, lambda number, _: noted.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
