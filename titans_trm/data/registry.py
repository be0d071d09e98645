"""The tasks by name. A task is imported when it is used; the configurations need no torch.

A new task is one row here and a folder `data/<task>/` with `config.py` (its keys) and `task.py` (its examples).
"""

from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

from titans_trm.data.config import DataConfig

if TYPE_CHECKING:
    from titans_trm.data.spec import Task

# Task -> class of its configuration in data/<task>/config.py, class of its examples in data/<task>/task.py.
# The first task is the default.
_TASKS = {
    "sudoku": ("SudokuConfig", "SudokuTask"),
    "maze": ("MazeConfig", "MazeTask"),
    "mqar": ("MqarConfig", "MqarTask"),
    "niah": ("NiahConfig", "NiahTask"),
    "selective_copy": ("SelectiveCopyConfig", "SelectiveCopyTask"),
    "text": ("TextConfig", "TextTask"),
    "arc": ("ArcConfig", "ArcTask"),
    "babi_style": ("BabiStyleConfig", "BabiStyleTask"),
}


def task_names() -> tuple[str, ...]:
    """Return the tasks there are."""
    return tuple(_TASKS)


def config_class(name: str) -> type[DataConfig]:
    """Return the configuration schema of a task."""
    return getattr(import_module(f"titans_trm.data.{name}.config"), _TASKS[name][0])


@cache
def config_classes() -> dict[str, type[DataConfig]]:
    """Return all tasks with their configuration schemas."""
    return {name: config_class(name) for name in _TASKS}


def make_task(config: DataConfig) -> "Task":
    """Return the task of a configuration."""
    return getattr(import_module(f"titans_trm.data.{config.task}.task"), _TASKS[config.task][1]).from_config(config)
