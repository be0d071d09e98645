"""The examples run as they are, in a folder of the reader's, without Lightning or Hydra."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LINES = 45


@pytest.mark.integration
def test_plain_pytorch_training_runs(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-W", "error", str(ROOT / "examples" / "train.py"), "10"],
        cwd=tmp_path,
        env={**os.environ, "TITANS_TRM_DATA": str(tmp_path / "data")},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    loss = re.search(r"batch 10: cross-entropy (\d\.\d+)", result.stdout)
    assert loss
    assert float(loss[1]) < 1.2  # it learns: a uniform guess over six tokens costs ln 6 = 1.79 nats
    assert re.search(r"validation: \d+\.\d% of 200 puzzles exactly right", result.stdout)


def test_the_example_is_short_and_needs_no_framework() -> None:
    text = (ROOT / "examples" / "train.py").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LINES
    assert not re.search(r"^(import|from) (lightning|hydra|omegaconf)", text, re.M)
