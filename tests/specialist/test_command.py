"""`specialist=command`: any program may answer, and none can do harm by failing."""

import os
import sys
import time
from pathlib import Path

import pytest

from titans_trm.specialist.command import CommandSpecialist, run_program
from titans_trm.specialist.config import SpecialistConfig
from titans_trm.specialist.protocol import read_context

CONTEXT = read_context({"task": "say something"})


def ask(code: str, timeout: float = 30.0):
    config = SpecialistConfig(kind="command", command=(sys.executable, "-c", code), timeout_seconds=timeout)
    return CommandSpecialist(config).consult(CONTEXT)


def test_a_program_gets_the_package_and_its_answer_is_taken() -> None:
    outcome = ask(
        "import json, sys\ncontext = json.load(sys.stdin)\n"
        "print(json.dumps({'status': 'diagnosed', 'escalation': context['task'], 'remedies': [{'id': 'lr_scale'}]}))"
    )
    assert outcome.ok and outcome.results.escalation == "say something"
    assert outcome.results.remedies[0].id == "lr_scale"


@pytest.mark.parametrize(
    ("code", "ending", "reason"),
    [
        ("print('I think it is the learning rate.')", "malformed", "not JSON"),
        ('print(\'{"status": "cured"}\')', "malformed", "results.status='cured'"),
        ('print(\'{"status": "diagnosed", "measured": [{"what": "x"}]}\')', "malformed", "results.measured"),
        ("raise SystemExit(3)", "failed", "status 3"),
    ],
)
def test_a_bad_answer_is_an_outcome_with_a_reason(code: str, ending: str, reason: str) -> None:
    outcome = ask(code)
    assert outcome.ending == ending and outcome.results.status == "failed"
    assert outcome.results.reason and reason in outcome.results.reason


def test_a_program_that_is_missing_is_an_outcome() -> None:
    config = SpecialistConfig(kind="command", command=("/no/such/program",))
    assert CommandSpecialist(config).consult(CONTEXT).ending == "unavailable"


def test_a_program_that_hangs_goes_with_all_its_children(tmp_path: Path) -> None:
    code = (
        "import os, signal, subprocess, sys, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(child.pid))\ntime.sleep(60)"
    )
    started = time.monotonic()
    outcome = ask(code, timeout=2.0)
    assert outcome.ending == "timeout" and time.monotonic() - started < 20
    child = int((tmp_path / "pid").read_text())
    for _ in range(50):
        if not _alive(child):
            return
        time.sleep(0.1)
    raise AssertionError("the child of the program still runs")


def test_a_program_sees_no_secret_of_ours_and_starts_in_an_empty_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANARY_SECRET", "canary")
    outcome = ask(
        "import json, os\nprint(json.dumps({'status': 'diagnosed', "
        "'todos': [str(sorted(os.environ)), str(os.listdir())]}))"
    )
    names, files = outcome.results.todos
    assert "CANARY_SECRET" not in names and "ANTHROPIC_API_KEY" not in names
    assert files == "[]"


def test_standard_error_is_kept_without_its_secrets(tmp_path: Path) -> None:
    outcome = ask("import sys\nsys.stderr.write('password=hunter2 failed')\nsys.exit(1)")
    assert "failed" in outcome.details["stderr"] and "hunter2" not in outcome.details["stderr"]


def test_much_output_does_not_block(tmp_path: Path) -> None:
    ran = run_program(
        [sys.executable, "-c", "print('x' * 3_000_000)"], "y" * 1_000_000, environment=dict(os.environ),
        folder=tmp_path, timeout=30,
    )  # fmt: skip
    assert ran.status == 0 and len(ran.stdout) == 1_000_000


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False
