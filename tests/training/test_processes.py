import os
import signal
import subprocess
from pathlib import Path

import pytest

from titans_trm.training.processes import (
    CHECKPOINT_VARIABLE,
    RUN_DIR_VARIABLE,
    Start,
    dismiss,
    is_first_process,
    join_ranks,
    shared_start,
    told_start,
)


@pytest.fixture(autouse=True)
def _no_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID", RUN_DIR_VARIABLE, CHECKPOINT_VARIABLE):
        monkeypatch.delenv(name, raising=False)


def test_a_process_alone_is_the_first() -> None:
    assert is_first_process()


@pytest.mark.parametrize("name", ["RANK", "LOCAL_RANK", "SLURM_PROCID"])
def test_only_rank_zero_is_the_first(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "0")
    assert is_first_process()
    monkeypatch.setenv(name, "1")
    assert not is_first_process()


@pytest.mark.parametrize("before", [None, "elsewhere"])
def test_the_start_is_shared_only_meanwhile(monkeypatch: pytest.MonkeyPatch, before: str | None) -> None:
    if before is not None:
        monkeypatch.setenv(RUN_DIR_VARIABLE, before)
    for start in (Start(Path("runs/one"), None), Start(Path("runs/one"), Path("runs/one/checkpoints/last.ckpt"))):
        with pytest.raises(RuntimeError), shared_start(start):
            assert told_start("runs/own") == start
            raise RuntimeError
    assert os.environ.get(RUN_DIR_VARIABLE) == before and CHECKPOINT_VARIABLE not in os.environ


def test_a_process_alone_meets_nobody() -> None:
    assert not join_ranks(1, "cpu")
    assert not join_ranks(2, "cpu")  # Lightning will start the other one


def test_children_are_waited_for_and_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("titans_trm.training.processes._PATIENCE_SECONDS", 0.2)
    children = [subprocess.Popen(["sleep", "0"]), subprocess.Popen(["sleep", "600"])]
    ended, hung = children
    dismiss(children)
    assert children == [] and ended.returncode == 0 and hung.returncode == -signal.SIGKILL
