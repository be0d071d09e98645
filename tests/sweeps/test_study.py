"""The study: kept on disk, gone on with, never the same random values twice."""

from pathlib import Path

import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState

from titans_trm.sweeps.study import TrialReporter, open_study
from titans_trm.training.sweep_config import OptunaConfig

RANGES = {"optimizer.lr": FloatDistribution(0.0, 1.0)}
METRIC = "val/exact_accuracy"


def test_a_study_goes_on_with_other_values_than_it_began_with(tmp_path: Path) -> None:
    config = OptunaConfig(sampler="random", sampler_seed=3)
    drawn = []
    for _ in range(3):  # a process each
        study = open_study(tmp_path / "journal", config, METRIC)
        trial = study.ask(RANGES)
        study.tell(trial.number, 0.5)
        drawn.append(trial.params["optimizer.lr"])
    assert len(set(drawn)) == 3
    again = open_study(tmp_path / "other", config, METRIC).ask(RANGES)
    assert again.params["optimizer.lr"] == drawn[0]


@pytest.mark.parametrize(("metric", "best"), [(METRIC, 0.9), ("val/cross_entropy", 0.1), ("val/bits_per_byte", 0.1)])
def test_the_direction_follows_the_metric(tmp_path: Path, metric: str, best: float) -> None:
    study = open_study(tmp_path / "journal", OptunaConfig(), metric)
    for value in (0.1, 0.9, 0.5):
        study.tell(study.ask(RANGES).number, value)
    assert study.best_value == best


def _with_good_trials(journal: Path, config: OptunaConfig) -> None:
    study = open_study(journal, config, METRIC)
    for _ in range(3):
        trial = study.ask(RANGES)
        for step in (5, 10):
            trial.report(0.8, step)
        study.tell(trial.number, 0.8)


def test_a_job_reports_through_the_file_and_is_pruned_below_the_median(tmp_path: Path) -> None:
    config = OptunaConfig(startup_trials=3, pruner_warmup_steps=6)
    _with_good_trials(tmp_path / "journal", config)
    number = open_study(tmp_path / "journal", config, METRIC).ask(RANGES).number
    report = TrialReporter(tmp_path / "journal", config, number)
    assert not report(0.1, 5)  # still warming up
    assert report(0.1, 10)
    assert report(0.9, 10)  # a resumed run comes by once more: the first report stands
    study = open_study(tmp_path / "journal", config, METRIC)
    assert study.trials[number].intermediate_values == {5: 0.1, 10: 0.1}
    study.tell(number, state=TrialState.PRUNED)
    assert study.trials[number].value == 0.1


def test_a_good_trial_goes_on_and_pruning_can_be_off(tmp_path: Path) -> None:
    config = OptunaConfig(startup_trials=3)
    _with_good_trials(tmp_path / "journal", config)
    number = open_study(tmp_path / "journal", config, METRIC).ask(RANGES).number
    assert not TrialReporter(tmp_path / "journal", config, number)(0.9, 5)
    assert not TrialReporter(tmp_path / "journal", OptunaConfig(pruner="off"), number)(0.0, 10)
