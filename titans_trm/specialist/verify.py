"""Results are verified, not believed: every claim that can be measured stands beside what was measured."""

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from titans_trm.specialist.command import run_program
from titans_trm.specialist.protocol import Claim, ResultsPackage, TestFile
from titans_trm.specialist.quantities import Measured, Passed
from titans_trm.specialist.redact import child_environment

COUNT_TOLERANCE = 0.01  # share by which a claimed number of parameters may differ
TIME_TOLERANCE = 0.5  # share by which a claimed time may be exceeded: machines differ
BYTES_TOLERANCE = 0.1
_TEST_SECONDS = 600.0

Measure = Callable[[], Measured]


@dataclass(frozen=True)
class TestRun:
    """What `pytest` said."""

    __test__ = False

    passed: int
    failed: int
    coverage: float | None = None  # percent of the files under the given package

    @property
    def all_passing(self) -> bool:
        """Whether there were tests and none failed."""
        return self.passed > 0 and self.failed == 0


def verify_results(
    package: ResultsPackage, root: Path, *, measure: Measure | None = None, run_tests: bool = False
) -> ResultsPackage:
    """Return the package with `measured` filled in.

    Args:
        package: what a specialist claims.
        root: folder that its paths are relative to; a path outside it counts as missing.
        measure: measures the model; None = its claims stay unmeasured.
        run_tests: run the test files that are named (they are the specialist's code: only after approval).
    """
    claims = [claim for file in package.deliverables.code_files for claim in _code(root, file.path, file.loc)]
    runs: list[TestRun] = []
    for test in package.deliverables.tests:
        run = run_test_file(root, test.path) if run_tests and _inside(root, test.path) else None
        claims += _test(root, test, run)
        runs += [run] if run is not None else []
    claims += _totals(package, runs)
    claims += _performance(package, measure() if measure is not None else None)
    documents = (
        package.deliverables.documentation.architecture_diagram,
        package.deliverables.documentation.usage_examples,
    )
    claims += [
        Claim(what=path, claimed="written", measured=_state(root, path), ok=_exists(root, path))
        for path in documents
        if path is not None
    ]
    return package.model_copy(update={"measured": claims})


def run_test_file(root: Path, path: str) -> TestRun:
    """Run one test file in `root` with a clean environment and a time limit."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--no-header", "--", path]
    environment = child_environment(("HOME",), PYTHONPATH=str(root), PYTHONDONTWRITEBYTECODE="1")
    ran = run_program(command, "", environment=environment, folder=root, timeout=_TEST_SECONDS)
    counts = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|error)", ran.stdout)}
    broken = counts.get("failed", 0) + counts.get("error", 0)
    return TestRun(counts.get("passed", 0), broken or int(ran.status != 0 and not counts))


def _code(root: Path, path: str, loc: int | None) -> list[Claim]:
    lines = len(_target(root, path).read_text(encoding="utf-8").splitlines()) if _exists(root, path) else None
    found = [Claim(what=path, claimed="written", measured=_state(root, path), ok=_exists(root, path))]
    if loc is not None:
        found.append(Claim(what=f"{path}: lines", claimed=loc, measured=lines, ok=lines == loc))
    return found


def _test(root: Path, test: TestFile, run: TestRun | None) -> list[Claim]:
    found = [Claim(what=test.path, claimed="written", measured=_state(root, test.path), ok=_exists(root, test.path))]
    if test.all_passing is not None:
        measured = None if run is None else f"{run.passed} passed, {run.failed} failed"
        ok = None if run is None else run.all_passing == test.all_passing
        found.append(Claim(what=f"{test.path}: all passing", claimed=test.all_passing, measured=measured, ok=ok))
    return found


def _totals(package: ResultsPackage, runs: list[TestRun]) -> list[Claim]:
    claimed = package.validation.unit
    if claimed is None:
        return []
    if not runs:
        return [Claim(what="unit tests", claimed=package.validation.unit_tests)]
    real = Passed(sum(run.passed for run in runs), sum(run.passed + run.failed for run in runs))
    words = f"{real.passed}/{real.total}"
    return [Claim(what="unit tests", claimed=package.validation.unit_tests, measured=words, ok=claimed == real)]


def _performance(package: ResultsPackage, real: Measured | None) -> list[Claim]:
    claimed = package.performance_metrics
    parameters, latency, peak = (
        (None, None, None) if real is None else (real.parameters, real.latency_ms, real.peak_bytes)
    )
    found = []
    if claimed.parameters is not None:
        found.append(_near("parameters", claimed.parameters, parameters, COUNT_TOLERANCE, both=True))
    if claimed.latency_ms is not None:
        found.append(_near("latency, ms", claimed.latency_ms, latency, TIME_TOLERANCE))
    if claimed.vram_bytes is not None:
        found.append(_near("memory, bytes", claimed.vram_bytes, peak, BYTES_TOLERANCE))
    return found


def _near(what: str, claimed: float, real: float | None, tolerance: float, both: bool = False) -> Claim:
    """Return the claim; more than claimed is wrong, less only where `both` ends matter."""
    if real is None:
        return Claim(what=what, claimed=claimed)
    low = claimed * (1.0 - tolerance) if both else 0.0
    return Claim(what=what, claimed=claimed, measured=real, ok=low <= real <= claimed * (1.0 + tolerance))


def _target(root: Path, path: str) -> Path:
    return (root / path).resolve()


def _inside(root: Path, path: str) -> bool:
    return _target(root, path).is_relative_to(root.resolve())


def _exists(root: Path, path: str) -> bool:
    return _inside(root, path) and _target(root, path).is_file()


def _state(root: Path, path: str) -> str:
    return "there" if _exists(root, path) else "outside" if not _inside(root, path) else "missing"
