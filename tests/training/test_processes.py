import os
from pathlib import Path

import pytest

from titans_trm.training.processes import RUN_DIR_VARIABLE, is_first_process, shared_run_dir


@pytest.fixture(autouse=True)
def _no_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID", RUN_DIR_VARIABLE):
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
def test_the_run_folder_is_shared_only_meanwhile(monkeypatch: pytest.MonkeyPatch, before: str | None) -> None:
    if before is not None:
        monkeypatch.setenv(RUN_DIR_VARIABLE, before)
    with pytest.raises(RuntimeError), shared_run_dir(Path("runs/one")):
        assert os.environ[RUN_DIR_VARIABLE] == "runs/one"
        raise RuntimeError
    assert os.environ.get(RUN_DIR_VARIABLE) == before
