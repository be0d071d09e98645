"""The processes of a distributed run: which one writes, and how the others learn the run folder."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

RUN_DIR_VARIABLE = "TITANS_TRM_RUN_DIR"
_RANK_VARIABLES = ("RANK", "LOCAL_RANK", "SLURM_PROCID")


def is_first_process() -> bool:
    """Tell whether this process is the only one or rank zero, before any process group exists."""
    return all(os.environ.get(name, "0") == "0" for name in _RANK_VARIABLES)


@contextmanager
def shared_run_dir(path: Path) -> Iterator[None]:
    """Let processes started meanwhile write into the same run folder; the next run of this process gets its own."""
    before = os.environ.get(RUN_DIR_VARIABLE)
    os.environ[RUN_DIR_VARIABLE] = str(path)
    try:
        yield
    finally:
        if before is None:
            del os.environ[RUN_DIR_VARIABLE]
        else:
            os.environ[RUN_DIR_VARIABLE] = before
