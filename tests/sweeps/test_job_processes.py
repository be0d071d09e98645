"""Processes side by side: never more than asked for, each with its share, all stopped together."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from titans_trm.sweeps.processes import run_processes, share_of_machine, start_process, visible_gpus


def test_no_more_run_at_once_than_asked_for_and_each_place_has_one(tmp_path: Path) -> None:
    busy: dict[int, int] = {}
    most, ends = 0, []

    def start(job: int, place: int) -> "subprocess.Popen[bytes]":
        nonlocal most
        assert place not in busy.values()
        busy[job] = place
        most = max(most, len(busy))
        command = [sys.executable, "-c", f"import time; print('job', {job}); time.sleep(0.1); raise SystemExit({job})"]
        return start_process(command, dict(os.environ), tmp_path / f"{job}.log")

    def ended(job: int, status: int) -> None:
        del busy[job]
        ends.append((job, status))

    assert run_processes(range(5), 2, start, ended)
    assert most == 2
    assert sorted(ends) == [(job, job) for job in range(5)]
    assert (tmp_path / "3.log").read_text() == "job 3\n"


def test_an_interruption_asks_every_job_once_and_starts_no_other(tmp_path: Path) -> None:
    code = (
        "import signal, sys, time, pathlib\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))\n"
        "pathlib.Path(sys.argv[1]).touch()\ntime.sleep(60)"
    )
    ends: list[tuple[int, int]] = []

    def start(job: int, place: int) -> "subprocess.Popen[bytes]":
        return start_process([sys.executable, "-c", code, str(tmp_path / str(job))], dict(os.environ))

    def interrupt() -> None:
        while not all((tmp_path / name).exists() for name in "01"):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    threading.Thread(target=interrupt).start()
    assert not run_processes([0, 1, 2], 2, start, lambda job, status: ends.append((job, status)))
    assert sorted(ends) == [(0, 130), (1, 130)]
    assert signal.getsignal(signal.SIGINT) is before


def test_threads_are_divided_unless_the_user_has_said_how_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("MKL_NUM_THREADS", "7")
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = share_of_machine(0, 2, 1, [])
    assert share == {"OMP_NUM_THREADS": str(max(1, cpus // 2)), "MKL_NUM_THREADS": "7"}
    assert share_of_machine(0, 1, 1, ["0", "1"]) == {}


@pytest.mark.parametrize(
    ("at_once", "devices", "gpus", "expected"),
    [
        (4, 1, "0123", ["0", "1", "2", "3"]),
        (2, 2, "0123", ["0,1", "2,3"]),
        (4, 1, "01", ["0", "1", "0", "1"]),  # too few: they share
        (2, 2, "567", ["5,6", "5,6"]),
        (2, 1, "", [None, None]),
        (2, "auto", "01", [None, None]),
    ],
)
def test_gpus_are_handed_out_in_blocks(at_once: int, devices: int | str, gpus: str, expected: list[str | None]) -> None:
    found = [share_of_machine(place, at_once, devices, list(gpus)) for place in range(at_once)]
    assert [share.get("CUDA_VISIBLE_DEVICES") for share in found] == expected


def test_only_visible_gpus_are_handed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, 5")
    assert visible_gpus() == ["2", "5"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_gpus() == []
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setenv("PATH", "")
    assert visible_gpus() == []  # no nvidia-smi
