"""What `titans_trm` promises to importers: names, cheap import, exact dependencies, types."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import titans_trm

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PUBLIC = [
    "NeuralMemory",
    "TitansTRM",
    "TitansTRMConfig",
    "__version__",
    "compose",
    "from_pretrained",
    "generate",
    "save_pretrained",
    "solve",
]
SECONDS = 0.2  # of processor time beyond that of the bare interpreter
DISTRIBUTIONS = {
    "hydra": "hydra-core",
    "yaml": "pyyaml",
    "claude_agent_sdk": "claude-agent-sdk",
}  # imported under another name
NOT_IMPORTED = {
    "tensorboard",  # behind conf/logger
    "mlflow-skinny",
    "wandb",
    "hydra-submitit-launcher",  # behind conf/hydra/launcher
    "submitit",
    "hydra-ray-launcher",
    "ray",
    "titans-pytorch",  # what benchmarks/ measure against
    "tiny-recursive-model",
}


def test_public_names() -> None:
    assert sorted(titans_trm.__all__) == PUBLIC
    assert set(PUBLIC) <= set(dir(titans_trm))


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_is_what_its_module_defines(name: str) -> None:
    value = getattr(titans_trm, name)
    if name == "__version__":
        assert re.fullmatch(r"\d+\.\d+\.\d+", value)
    else:
        assert value.__name__ == name
        assert value.__module__.startswith("titans_trm.")
        assert value.__doc__
        assert getattr(titans_trm, name) is value


def test_an_unknown_name_is_refused_by_name() -> None:
    with pytest.raises(AttributeError, match="no attribute 'TitanTRM'; public are NeuralMemory, TitansTRM"):
        titans_trm.TitanTRM  # noqa: B018
    with pytest.raises(ImportError):
        exec("from titans_trm import nothing_like_it")


def test_import_is_cheap_and_free_of_torch() -> None:
    code = (
        "import sys, time; start = time.process_time(); import titans_trm; seconds = time.process_time() - start\n"
        "assert 'torch' not in sys.modules and 'hydra' not in sys.modules\n"
        f"assert seconds < {SECONDS}, seconds"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr


def test_dependencies_are_exactly_what_is_imported() -> None:
    found = set()
    for file in (ROOT / "titans_trm").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.partition(".")[0])
    found -= set(sys.stdlib_module_names) | {"titans_trm"}
    needed = {DISTRIBUTIONS.get(name, name) for name in found}
    assert needed | NOT_IMPORTED == _names(PROJECT["project"]["dependencies"]) | _names(_extras())


def test_every_dependency_and_development_tool_is_pinned() -> None:
    pins = PROJECT["tool"]["uv"]["constraint-dependencies"]
    assert all(re.fullmatch(r"[\w-]+==[\w.]+", pin) for pin in pins)
    asked = PROJECT["project"]["dependencies"] + PROJECT["dependency-groups"]["dev"] + _extras()
    assert _names(pins) == _names(asked)


def test_the_package_says_that_it_has_types() -> None:
    assert (ROOT / "titans_trm" / "py.typed").is_file()


def _extras() -> list[str]:
    return [name for group in PROJECT["project"].get("optional-dependencies", {}).values() for name in group]


def _names(requirements: list[str]) -> set[str]:
    return {re.split(r"[<>=!~ ]", requirement, maxsplit=1)[0] for requirement in requirements}
