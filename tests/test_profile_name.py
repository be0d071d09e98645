"""`profile.py` at the root must not stand in for the standard library's module of that name."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

SPAWN = """
import multiprocessing

def child(queue):
    import cProfile, profile
    queue.put((profile.run.__doc__ or "", cProfile.Profile.__name__))

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=child, args=(queue,))
    process.start()
    document, name = queue.get(timeout=30)
    process.join(timeout=30)
    assert "Run statement under profiler" in document and name == "Profile", (document, name)
    assert process.exitcode == 0, process.exitcode
"""


def _python(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, timeout=120)


def test_the_standard_module_is_imported_from_the_root() -> None:
    code = "import cProfile, profile, pickle, importlib, inspect\n"
    code += "assert pickle.loads(pickle.dumps(profile.Profile)) is profile.Profile\n"
    code += "assert 'class Profile' in inspect.getsource(profile)\n"
    code += "print(profile.__spec__.origin)\n"
    code += "assert importlib.reload(profile).run"
    result = _python("-c", code)
    assert result.returncode == 0, result.stderr
    assert not result.stdout.startswith(str(ROOT))


def test_what_imports_it_deep_inside_still_imports() -> None:
    result = _python("-c", "import cProfile, lightning, torch._dynamo")
    assert result.returncode == 0, result.stderr


def test_the_standard_command_line_still_works(tmp_path: Path) -> None:
    script = tmp_path / "job.py"
    script.write_text("sum(range(10))\n")
    for module in ("profile", "cProfile"):
        result = _python("-m", module, str(script)) if module == "cProfile" else _python("-m", module, "--help")
        assert result.returncode == 0, result.stderr
    assert "function calls" in _python("-m", "cProfile", str(script)).stdout


def test_spawned_workers_get_the_standard_module(tmp_path: Path) -> None:
    script = tmp_path / "spawning.py"
    script.write_text(f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n{SPAWN}")
    result = _python(str(script))
    assert result.returncode == 0, result.stderr


def test_under_pytest_the_standard_module_is_imported(tmp_path: Path) -> None:
    test = tmp_path / "test_inner.py"
    test.write_text("import cProfile, profile\n\ndef test_it():\n    assert profile.run and cProfile.run\n")
    result = _python("-m", "pytest", "-q", "-p", "no:cacheprovider", f"--rootdir={tmp_path}", str(test))
    assert result.returncode == 0, result.stdout
