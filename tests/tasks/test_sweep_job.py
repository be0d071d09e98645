"""A real run as a job of a sweep: its objective, its pruning, its place in MLflow and W&B."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from training_cases import TINY

from titans_trm.config import compose
from titans_trm.errors import InputError
from titans_trm.sweeps.folder import Job, SweepFolder
from titans_trm.sweeps.study import open_study
from titans_trm.tasks.train import train
from titans_trm.training.sweep_config import ALLOWED, LOWER_IS_BETTER, METRICS, GridConfig, OptunaConfig

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
]
METRIC = "val/token_accuracy"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TITANS_TRM_DATA", str(tmp_path_factory.getbasetemp() / "sweep_cache"))


def run(*words: str) -> dict[str, Any]:
    return train(compose("train", [*TINY, "diagnostics=off", *words]))


def test_the_objective_is_the_validation_metric_that_was_asked_for(tmp_path: Path) -> None:
    result = run(f"run_dir={tmp_path / 'run'}", "sweep.metric=val/cross_entropy", "~logger")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert result["objective"] == summary["val"]["cross_entropy"] > 0
    assert "stopped_by" not in summary
    assert set(METRICS) - {"valid_optimal", "bits_per_byte"} <= set(summary["val"])


def test_a_metric_the_task_does_not_have_is_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"val/valid_optimal is not a metric of sudoku_4x4; choose one of val/exact"):
        run(f"run_dir={tmp_path / 'run'}", "sweep.metric=val/valid_optimal")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("metric", ["test/exact_accuracy", "exact_accuracy", "train/loss"])
def test_only_validation_can_be_an_objective(metric: str) -> None:
    with pytest.raises(InputError, match="is not a metric of the validation split; choose one of val/exact_accuracy"):
        compose("train", [f"sweep.metric={metric}"])
    with pytest.raises(ValueError, match=r"val/loss is unknown; choose one of"):
        GridConfig(metric="val/loss")


def test_the_directions_agree_with_those_of_the_tasks() -> None:
    from titans_trm.data.spec import LOWER_IS_BETTER as OF_HEADLINES

    assert set(OF_HEADLINES) <= set(LOWER_IS_BETTER) <= {name.removeprefix("val/") for name in ALLOWED}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"jobs": 0}, r"sweep\.jobs=0 is too small"),
        ({"trials": 0}, r"sweep\.trials=0 is too small"),
        ({"pruner_warmup_steps": -1}, r"sweep\.pruner_warmup_steps=-1 is too small"),
        ({"folder": " "}, "names no folder"),
    ],
)
def test_impossible_settings_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OptunaConfig(**changes)


def test_a_trial_below_the_median_of_the_others_is_stopped_and_told_as_pruned(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path / "search")
    folder.path.mkdir()
    config = compose("train", ["sweep=optuna", "sweep.startup_trials=2"]).sweep
    assert isinstance(config, OptunaConfig)
    study = open_study(folder.journal, config, METRIC)
    for _ in range(2):
        trial = study.ask()
        trial.report(1.0, 5)
        study.tell(trial.number, 1.0)
    number = study.ask().number
    words = [f"sweep.folder={folder.path}", f"sweep.metric={METRIC}", f"sweep.job={number}", "sweep.startup_trials=2"]
    result = run("sweep=optuna", *words, "resume=auto", f"run_dir={folder.run_folder(number).path}", "~logger")
    assert (result["exit_status"], result["status"], result["stopped_by"]) == (0, "stopped", "pruning")
    assert result["global_step"] == 5  # the first validation
    found = folder.result(Job(number, ()))
    assert found.status == "pruned" and found.value(METRIC) == result["objective"] < 1.0
    assert open_study(folder.journal, config, METRIC).trials[number].intermediate_values == {5: result["objective"]}


def test_mlflow_keeps_one_entry_with_parameters_metrics_and_files(tmp_path: Path) -> None:
    pytest.importorskip("mlflow", reason="needs the extra tracking")
    from mlflow.tracking import MlflowClient

    store = f"file:{tmp_path / 'mlruns'}"
    words = ["logger=mlflow", "logger.tensorboard=null", f"logger.mlflow.tracking_uri={store}"]
    words += [f"run_dir={tmp_path / 'run'}"]
    run(*words, "trainer.max_steps=5", "scheduler=constant")
    run(*words, "trainer.max_steps=10", "scheduler=constant", f"resume={tmp_path / 'run'}")
    client = MlflowClient(store)
    (entry,) = client.search_runs([client.get_experiment_by_name("quickstart").experiment_id])
    assert entry.info.status == "FINISHED" and entry.info.run_name == str(tmp_path / "run")
    assert entry.data.params["run/model/width"] == "16"
    assert [point.step for point in client.get_metric_history(entry.info.run_id, "val/exact_accuracy")] == [4, 9]
    files = {file.path for file in client.list_artifacts(entry.info.run_id)}
    assert {"summary.json", "curves.png", "config.yaml", "metrics.csv"} <= files


@pytest.mark.skipif(find_spec("wandb") is None, reason="needs wandb of the extra tracking")
@pytest.mark.filterwarnings("ignore::DeprecationWarning:wandb")
def test_wandb_offline_keeps_the_run_and_its_files_in_the_run_folder(tmp_path: Path) -> None:
    run("logger=wandb", "logger.tensorboard=null", f"run_dir={tmp_path / 'run'}", "trainer.max_steps=5")
    (offline,) = (tmp_path / "run" / "wandb").glob("offline-run-*")
    (record,) = offline.glob("run-*.wandb")
    assert record.stem == f"run-{json.loads((tmp_path / 'run' / 'tracking.json').read_text())['wandb']}"
    content = record.read_bytes()
    assert b"val/exact_accuracy" in content and b"num_latent_steps" in content
    assert {"summary.json", "curves.png", "config.yaml"} <= {file.name for file in (offline / "files").iterdir()}
