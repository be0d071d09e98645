"""`specialist=command`: any program. The context package goes to its stdin, the results package comes from stdout."""

import atexit
import contextlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from titans_trm.errors import InputError
from titans_trm.specialist.config import SpecialistConfig
from titans_trm.specialist.outcome import Outcome, failed
from titans_trm.specialist.protocol import ContextPackage, read_results
from titans_trm.specialist.redact import canonical, child_environment, scrub

MAX_ANSWER = 1_000_000  # characters read from a program
_GRACE_SECONDS = 2.0  # between the polite signal and the other one
_running: "set[subprocess.Popen[str]]" = set()


@dataclass(frozen=True)
class Ran:
    """What a program did."""

    stdout: str
    stderr: str
    status: int | None  # None: it was stopped at the time limit
    seconds: float


class CommandSpecialist:
    """Ask a program of the user's, in an empty folder and a clean environment."""

    name = "command"
    instant = False

    def __init__(self, config: SpecialistConfig) -> None:
        self.config = config

    def consult(self, context: ContextPackage) -> Outcome:
        """Run the program; whatever it does, an outcome comes back."""
        with tempfile.TemporaryDirectory(prefix="specialist-") as folder:
            try:
                ran = run_program(
                    self.config.command,
                    canonical(context),
                    environment=child_environment((), HOME=folder),
                    folder=Path(folder),
                    timeout=self.config.timeout_seconds,
                )
            except OSError as error:
                return failed("unavailable", f"{self.config.command[0]} cannot be started: {error.strerror}")
        details = {"seconds": round(ran.seconds, 3), "stderr": scrub(ran.stderr)[-500:]}
        if ran.status is None:
            return failed("timeout", f"no answer within {self.config.timeout_seconds:g} s", **details)
        if ran.status != 0:
            return failed("failed", f"{self.config.command[0]} ended with status {ran.status}", **details)
        try:
            return Outcome("answered", read_results(ran.stdout, from_specialist=True), details)
        except InputError as error:
            return failed("malformed", str(error), **details)


def run_program(
    command: Sequence[str], text: str, *, environment: Mapping[str, str], folder: Path, timeout: float
) -> Ran:
    """Run a program in a process group of its own; at the time limit the whole group goes.

    Raises:
        OSError: it cannot be started.
    """
    started = time.monotonic()
    process = subprocess.Popen(
        list(command),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=folder,
        env=dict(environment),
        text=True,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    )
    status: int | None
    _running.add(process)
    try:
        stdout, stderr = process.communicate(text, timeout=timeout)
        status = process.returncode
    except subprocess.TimeoutExpired:
        status = None
        _stop_group(process, signal.SIGTERM)
        try:
            stdout, stderr = process.communicate(timeout=_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            _stop_group(process, signal.SIGKILL)
            stdout, stderr = process.communicate()
    finally:
        _running.discard(process)
    _stop_group(process, signal.SIGKILL)  # what it may have left behind
    return Ran(stdout[:MAX_ANSWER], stderr[-MAX_ANSWER:], status, time.monotonic() - started)


@atexit.register
def stop_programs() -> None:
    """End every program that still runs: nobody waits for its answer any more."""
    for process in list(_running):
        _stop_group(process, signal.SIGKILL)


def _stop_group(process: "subprocess.Popen[str]", number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)
