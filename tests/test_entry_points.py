"""The command line: quick, one clear message for a mistake, and the exit status that scripts rely on."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from titans_trm.cli_entry import launch, run_job
from titans_trm.config import config_dir
from titans_trm.errors import InputError

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ["train.py", "evaluate.py", "profile.py"]
IN_PROCESS = ["hydra/sweeper=basic", "hydra/launcher=basic"]  # Hydra's own: every job in this process
SECONDS = 3.0  # of processor time, so that a busy machine does not fail the test; about one is usual

Launch = Callable[..., tuple[int, list[Any]]]


def _script(*arguments: str, cwd: Path = ROOT) -> tuple[subprocess.CompletedProcess[str], float]:
    environment = {key: value for key, value in os.environ.items() if key != "TITANS_TRM_RUN_DIR"}
    start = os.times()
    arguments = (str(ROOT / arguments[0]), *arguments[1:])
    result = subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=60
    )
    end = os.times()
    return result, end.children_user + end.children_system - start.children_user - start.children_system


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("arguments", [["--help"], ["--cfg", "job"]])
def test_help_and_configuration_are_shown_at_once(script: str, arguments: list[str], tmp_path: Path) -> None:
    result, seconds = _script(script, *arguments, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "hardware" in result.stdout
    assert seconds < SECONDS
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train.py", "trainer.max_stepz=3"], "Did you mean trainer.max_steps?"),
        (["train.py", "experiment=trm_25"], "Did you mean experiment=trm_25m?"),
        (["train.py", "data=sudok"], "Did you mean data=sudoku_"),
        (["train.py", "trainer.batch_size=0"], "trainer.batch_size=0 is too small; choose 1 or more."),
        (["train.py", "-m", "seed=1,2", "trainer.batch_size=8,0"], "trainer.batch_size=0 is too small"),
        (["train.py", "-m", "sweep=optuna", "optimizer.lr=interval(-1,1)"], "optimizer.lr=-1.0"),
        (["train.py", "sweep=optuna", "optimizer.lr=1e-3"], "sweep=optuna is for many runs; add -m."),
        (["train.py", "-m", "seed=1,2", "sweep.trials=8"], "These are the keys of sweep.kind=grid."),
        (["train.py", "-m", "seed=1,2", "sweep.metric=test/exact_accuracy"], "is not a metric of the validation split"),
        (["train.py", "--cfg", "job", "loss.diversty=off"], "Did you mean loss.diversity?"),
        (["evaluate.py", "splitt=test"], "Did you mean split?"),
        (["profile.py", "profile.repeets=3"], "Did you mean profile.repeats?"),
    ],
)
def test_a_mistake_ends_at_once_with_one_line_and_status_2(arguments: list[str], message: str, tmp_path: Path) -> None:
    result, seconds = _script(*arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert message in result.stderr
    assert seconds < SECONDS
    assert not list(tmp_path.iterdir())  # nothing ran, nothing is left behind


def test_tab_completion_offers_experiments() -> None:
    environment = {**os.environ, "COMP_LINE": "train.py experiment=trm_2", "COMP_POINT": "25"}
    result = subprocess.run(
        [sys.executable, "train.py", "-sc", "query=bash"],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["experiment=trm_25m"]


@pytest.fixture
def launched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Launch:
    """Return a function that runs a task under the real `launch`; it gives the exit status and what the tasks saw."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TITANS_TRM_RUN_DIR", raising=False)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")

    def run(task: Callable[[Any], dict[str, Any]], *arguments: str, name: str = "train") -> tuple[int, list[Any]]:
        seen: list[Any] = []

        @hydra.main(version_base="1.3", config_path=str(config_dir()), config_name=name)
        def main(composed: DictConfig) -> dict[str, Any]:
            def noted(config: Any) -> dict[str, Any]:
                seen.append(config)
                return task(config)

            return run_job(composed, name, noted)

        monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
        GlobalHydra.instance().clear()
        try:
            launch(main, name)
        except SystemExit as end:
            return int(end.code or 0), seen
        return 0, seen

    return run


def _succeed(config: Any) -> dict[str, Any]:
    return {"run_dir": getattr(config, "run_dir", ".")}


def test_a_job_gets_its_checked_configuration_and_its_folder(launched: Launch, tmp_path: Path) -> None:
    status, (config,) = launched(_succeed, "experiment=quickstart", "trainer.max_steps=3")
    assert status == 0
    assert config.trainer.max_steps == 3
    assert config.overrides == ["experiment=quickstart", "trainer.max_steps=3"]
    assert config.run_dir.startswith("runs/quickstart/")
    assert config.logger["tensorboard"]["save_dir"] == config.run_dir
    assert (tmp_path / config.run_dir).is_dir()
    assert not list((tmp_path / config.run_dir).iterdir())  # Hydra leaves no files of its own


def test_evaluation_makes_no_folder(launched: Launch, tmp_path: Path) -> None:
    status, (config,) = launched(_succeed, "split=val", name="evaluate")
    assert (status, config.split) == (0, "val")
    assert not list(tmp_path.iterdir())


def test_a_sweep_runs_each_job_in_its_own_folder(launched: Launch) -> None:
    status, configs = launched(_succeed, "-m", *IN_PROCESS, "seed=1,2", "optimizer=adamw,muon", "experiment=quickstart")
    assert status == 0
    assert [(config.seed, config.optimizer.name) for config in configs] == [
        (1, "adamw"), (1, "muon"), (2, "adamw"), (2, "muon"),
    ]  # fmt: skip
    assert len({config.run_dir for config in configs}) == 4
    assert all(config.run_dir.startswith("runs/multirun/quickstart/") for config in configs)
    assert configs[3].overrides == ["seed=2", "optimizer=muon", "experiment=quickstart"]


def test_processes_started_by_a_job_of_a_sweep_repeat_that_job_alone(
    launched: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    repeated = []

    def start(config: Any) -> dict[str, Any]:
        assert "LOCAL_RANK" not in os.environ  # of the job before
        os.environ["LOCAL_RANK"] = "0"  # as Lightning leaves it
        repeated.append((sys.argv[1:], HydraConfig.get().run.dir))
        return _succeed(config)

    status, configs = launched(start, "-m", *IN_PROCESS, "seed=1,2", "experiment=quickstart")
    assert status == 0 and "LOCAL_RANK" not in os.environ
    assert [words for words, _ in repeated] == [
        [f"seed={n}", "experiment=quickstart", "hydra.mode=RUN"] for n in (1, 2)
    ]
    assert [Path(folder).resolve() for _, folder in repeated] == [Path(one.run_dir).resolve() for one in configs]
    assert sys.argv[1:] == ["-m", *IN_PROCESS, "seed=1,2", "experiment=quickstart"]


def test_an_extra_config_folder_adds_options(launched: Launch, tmp_path: Path) -> None:
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "experiment" / "my_run.yaml").write_text("# @package _global_\nexperiment: my_run\n")
    status, (config,) = launched(_succeed, "--config-dir", "mine", "experiment=my_run")
    assert (status, config.experiment) == (0, "my_run")
    assert launched(_succeed, "--config-dir", "mine", "experiment=my_rum") == (2, [])


@pytest.mark.parametrize("status", [0, 3, 130])
def test_the_status_of_the_result_ends_the_process(launched: Launch, status: int) -> None:
    assert launched(lambda config: {"exit_status": status})[0] == status


def _bad_input(config: Any) -> dict[str, Any]:
    raise InputError("file.csv, line 3: 8 is not a row.")


def _crash(config: Any) -> dict[str, Any]:
    raise RuntimeError("loss is not finite")


def _interrupt(config: Any) -> dict[str, Any]:
    raise KeyboardInterrupt


def test_bad_input_found_by_a_task_is_one_line_and_leaves_no_folder(
    launched: Launch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, (config,) = launched(_bad_input)
    assert status == 2
    assert capsys.readouterr().err == "error: file.csv, line 3: 8 is not a row.\n"
    assert not (tmp_path / config.run_dir).exists()


def test_bad_input_to_an_evaluation_leaves_the_working_folder(launched: Launch, tmp_path: Path) -> None:
    assert launched(_bad_input, name="evaluate")[0] == 2
    assert tmp_path.is_dir()


def test_debug_shows_where_bad_input_was_found(launched: Launch, capsys: pytest.CaptureFixture[str]) -> None:
    assert launched(_bad_input, "debug=default")[0] == 2
    assert "in _bad_input" in capsys.readouterr().err


def test_a_crash_shows_its_traceback_without_hydra_and_status_1(
    launched: Launch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert launched(_crash)[0] == 1
    error = capsys.readouterr().err
    assert "in _crash" in error
    assert "RuntimeError: loss is not finite" in error
    assert "hydra" not in error.lower()


@pytest.mark.parametrize(
    ("task", "status", "message"),
    [(_crash, 1, "RuntimeError: loss is not finite"), (_bad_input, 2, "error: file.csv, line 3: 8 is not a row.")],
)
def test_what_fails_in_a_sweep_lets_the_other_jobs_run_first(
    launched: Launch,
    capsys: pytest.CaptureFixture[str],
    task: Callable[[Any], dict[str, Any]],
    status: int,
    message: str,
) -> None:
    found, configs = launched(task, "-m", *IN_PROCESS, "seed=1,2")
    assert (found, len(configs)) == (status, 2)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("result", "jobs"), [(3, 2), (130, 1)])
def test_a_missed_budget_lets_a_sweep_go_on_and_an_interrupt_ends_it(launched: Launch, result: int, jobs: int) -> None:
    found, configs = launched(
        lambda config: {"exit_status": result if config.seed == 1 else 0}, "-m", *IN_PROCESS, "seed=1,2"
    )
    assert (found, len(configs)) == (result, jobs)


def test_an_interrupt_has_its_own_status(launched: Launch, capsys: pytest.CaptureFixture[str]) -> None:
    assert launched(_interrupt)[0] == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_hydras_own_options_are_left_to_it(launched: Launch, capsys: pytest.CaptureFixture[str]) -> None:
    assert launched(_succeed, "--info", "searchpath") == (0, [])
    assert "conf" in capsys.readouterr().out
    assert launched(_succeed, "--no-such-option")[0] == 2
