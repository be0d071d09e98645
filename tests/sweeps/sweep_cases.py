"""Sweeps without training: a script like train.py whose jobs take a moment, and what finished jobs leave behind."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from titans_trm.sweeps.folder import Job, Result, Status

# Jobs as train.py runs them, but the run is a formula. `tags` says what happens: job-<seed>-crash, -kill, -slow.
SCRIPT = """
import json, math, os, signal, sys, time
from pathlib import Path

import hydra

from titans_trm.cli_entry import launch, run_job
from titans_trm.config import config_dir
from titans_trm.sweeps.job import as_job


def work(config):
    folder = Path(config.run_dir)
    state = folder / "checkpoints" / "last.ckpt"
    step = int(state.read_text()) if state.exists() else 0
    state.parent.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text("a: run")
    with (folder / "starts").open("a") as file:
        file.write(f"{os.getpid()} from step {step}\\n")
    asked = []
    signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
    if f"crash-{config.seed}" in config.tags:
        raise RuntimeError("the loss is not finite")
    if f"kill-{config.seed}" in config.tags:
        os.kill(os.getpid(), signal.SIGKILL)
    end = 60 if f"slow-{config.seed}" in config.tags and step == 0 else 3
    while step < end and not asked:
        step += 1
        state.write_text(str(step))
        time.sleep(0.05 if end == 3 else 1.0)
    accuracy = math.exp(-abs(math.log10(config.optimizer.lr / 1e-3))) - 0.01 * config.seed
    summary = {"status": "stopped" if asked else "completed", "val": {"exact_accuracy": accuracy}, "global_step": step}
    summary |= {"stopped_by": "signal"} if asked else {}
    (folder / "summary.json").write_text(json.dumps(summary))
    return {"run_dir": config.run_dir, "objective": accuracy, "exit_status": 130 if asked else 0}


@hydra.main(version_base="1.3", config_path=str(config_dir()), config_name="train")
def main(composed):
    def task(config):
        with as_job(config.sweep.folder, config.sweep.job):
            return work(config)

    return run_job(composed, "train", task)["objective"]


if __name__ == "__main__":
    launch(main, "train")
"""


def start(where: Path, *words: str) -> "subprocess.Popen[str]":
    """Start the script with `words` in the folder `where`."""
    script = where / "train_quickly.py"
    script.write_text(SCRIPT)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("TITANS_TRM")}
    return subprocess.Popen(
        [sys.executable, str(script), "-m", "experiment=quickstart", *words],
        cwd=where, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def run(where: Path, *words: str) -> tuple[int, str, str]:
    """Run the script to its end; return status, standard output, standard error."""
    process = start(where, *words)
    out, err = process.communicate(timeout=240)
    return process.returncode, out, err


def starts(folder: Path, number: int) -> list[str]:
    """Return a line for every time a job was started."""
    return (folder / str(number) / "starts").read_text().splitlines()


def result(number: int, status: Status, value: float | None = None, *words: str, **more: Any) -> Result:
    """Return a job that stands like this."""
    summary = {} if value is None else {"val": {"exact_accuracy": value}, "global_step": 10, "wall_seconds": 60.0}
    return Result(Job(number, words), status, summary, **more)


def write_summary(folder: Path, number: int, **summary: Any) -> None:
    """Write what a job would have left."""
    run_folder = folder / str(number)
    run_folder.mkdir(parents=True, exist_ok=True)
    (run_folder / "config.yaml").write_text("a: run")
    (run_folder / "summary.json").write_text(json.dumps(summary))
