"""One thread for each process of the tests: they run side by side, and small models gain nothing from a second one."""

import os

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported; processes started by a test inherit it

FORKING = {"test_ddp.py", "test_ranks.py"}  # autograd forbids forks once it has threads of its own


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the tests that fork come first, in a process that has trained nothing yet."""
    items.sort(key=lambda item: item.path.name not in FORKING)
