"""A sweep over jobs of two processes each: both train the values of their job, in one folder of it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SMALL = (
    "experiment=quickstart",
    "hardware=cpu",
    "data.num_train=64",
    "data.num_val=12",
    "data.num_test=12",
    "model.parameter_budget=null",
    "model.width=16",
    "model.backbone.num_blocks=1",
    "model.backbone.num_heads=2",
    "model.backbone.mlp_hidden=24",
    "model.halting.max_supervision_steps=3",
    "trainer.max_steps=3",
    "trainer.batch_size=3",
    "trainer.val_examples=4",
    "trainer.num_threads=1",
)


@pytest.mark.slow
@pytest.mark.parametrize(("launcher", "rates"), [("local", "0.001,0.002,0.003"), ("basic", "0.001,0.002")])
def test_every_job_of_a_sweep_trains_one_configuration_on_both_ranks(tmp_path: Path, launcher: str, rates: str) -> None:
    """Lightning starts the second process by repeating the command line, which in a sweep asks for all of it.

    Under `local` the first process of a job is one of its own, under `basic` it is the sweep's.
    """
    count = len(rates.split(","))
    command = [sys.executable, str(ROOT / "train.py"), "-m", *SMALL, "hardware.devices=2", "hardware.strategy=ddp"]
    command += [
        f"optimizer.lr={rates}",
        f"hydra/launcher={launcher}",
        f"hydra.sweep.dir={tmp_path / 'sweep'}",
        f"data.cache_dir={tmp_path}",
    ]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TITANS_TRM")}
    ended = subprocess.run(
        command, cwd=tmp_path, env=environment | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=2400
    )
    assert ended.returncode == 0, ended.stderr[-4000:]
    jobs = sorted(path.parent for path in (tmp_path / "sweep").rglob("ranks.json"))
    assert [job.name for job in jobs] == ["0", "1", "2"][:count]
    trained = [json.loads((job / "ranks.json").read_text()) for job in jobs]
    for ranks in trained:
        assert [one["rank"] for one in ranks] == [0, 1]
        assert len({one["config_sha256"] for one in ranks}) == 1 and len({one["process"] for one in ranks}) == 2
    assert len({ranks[0]["config_sha256"] for ranks in trained}) == count
    assert len({ranks[0]["process"] for ranks in trained}) == (count if launcher == "local" else 1)
    assert len({ranks[1]["process"] for ranks in trained}) == count
    summaries = [json.loads((job / "summary.json").read_text()) for job in jobs]
    assert [(one["status"], one["global_step"]) for one in summaries] == [("completed", 3)] * count
    table = (tmp_path / "sweep" / "sweep_summary.csv").read_text().splitlines()
    rows = [line.split(",") for line in table[1:]]
    assert [(row[0], row[1], float(row[2])) for row in rows] == [
        (str(number), "completed", float(rate)) for number, rate in enumerate(rates.split(","))
    ]
    assert not (tmp_path / "runs").exists()  # of processes that had made a folder of their own
