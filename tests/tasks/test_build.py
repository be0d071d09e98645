"""Objects from a configuration, and what is said when one cannot be built."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor

from titans_trm.config import compose
from titans_trm.data.spec import TaskSpec
from titans_trm.errors import InputError
from titans_trm.tasks.build import build_model, build_trainer
from titans_trm.training.callbacks.checkpoints import RunCheckpoints
from titans_trm.training.callbacks.ema import EMA
from titans_trm.training.callbacks.metrics_csv import MetricsCSV
from titans_trm.training.callbacks.report import TrainingReport
from titans_trm.training.callbacks.stopping import StopCleanly
from titans_trm.training.config import ModelSettings, RunConfig

SPEC = TaskSpec(name="sudoku_4x4", seq_len=16, vocab_size=6, exactness="every cell is right")


@pytest.fixture(scope="module")
def config() -> RunConfig:
    composed = compose("train", ["experiment=quickstart", "hardware=cpu", "trainer.precision=32-true"])
    return dataclasses.replace(composed, logger={})


LOGGER = {"none": {"_target_": "lightning.pytorch.loggers.logger.DummyLogger"}}


def with_trainer(config: RunConfig, **changes: Any) -> RunConfig:
    return dataclasses.replace(config, trainer=dataclasses.replace(config.trainer, **changes))


def test_the_model_takes_its_sizes_from_the_task(config: RunConfig) -> None:
    model = build_model(config.model, SPEC)
    assert (model.config.vocab_size, model.config.seq_len) == (6, 16)


def test_a_model_outside_its_budget_is_refused_by_name() -> None:
    settings = ModelSettings(name="tiny", width=16, parameter_budget=(1, 2))
    with pytest.raises(InputError, match=r"model=tiny: the model has [\d,]+ parameters, outside parameter_budget"):
        build_model(settings, SPEC)


def test_callbacks_come_in_the_order_that_saving_needs(config: RunConfig, tmp_path: Path) -> None:
    """The average is updated first, and the report is made before anything reads or saves it."""
    callbacks = build_trainer(config, tmp_path, 10).callbacks  # type: ignore[attr-defined]
    kinds = [type(callback) for callback in callbacks]
    order = [kinds.index(kind) for kind in (EMA, TrainingReport, MetricsCSV, RunCheckpoints)]
    assert order == sorted(order) and kinds.index(MetricsCSV) < kinds.index(StopCleanly)
    assert EarlyStopping not in kinds


def test_the_average_and_early_stopping_are_optional(config: RunConfig, tmp_path: Path) -> None:
    changed = with_trainer(config, ema_decay=None, early_stopping_patience=3)
    callbacks = build_trainer(changed, tmp_path, 10).callbacks  # type: ignore[attr-defined]
    assert not any(isinstance(callback, EMA) for callback in callbacks)
    (stopping,) = [callback for callback in callbacks if isinstance(callback, EarlyStopping)]
    assert (stopping.monitor, stopping.mode, stopping.patience) == ("val/exact_accuracy", "max", 3)


def test_validation_counts_optimiser_steps(config: RunConfig, tmp_path: Path) -> None:
    trainer = build_trainer(with_trainer(config, accumulate=3, val_every_steps=7), tmp_path, 10)
    assert trainer.val_check_interval == 21 and trainer.accumulate_grad_batches == 3  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"_target_": "titans_trm.missing.Callback"}, r"callbacks\.mine cannot be built"),
        ({"_target_": "lightning.pytorch.callbacks.Timer", "length": 3}, r"callbacks\.mine cannot be built"),
        ({"_target_": "pathlib.Path"}, r"callbacks\.mine\._target_=pathlib\.Path is a \w+Path, not a Callback"),
    ],
)
def test_a_callback_that_cannot_be_built_is_named(
    config: RunConfig, tmp_path: Path, node: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        build_trainer(dataclasses.replace(config, callbacks={"mine": node}), tmp_path, 10)


@pytest.mark.parametrize(("logger", "callbacks", "there"), [(LOGGER, {}, True), (LOGGER, None, False), ({}, {}, False)])
def test_the_rate_monitor_needs_a_logger_and_can_be_left_out(
    config: RunConfig, tmp_path: Path, logger: dict[str, Any], callbacks: Any, there: bool
) -> None:
    chosen = config.callbacks if callbacks is not None else {"learning_rate": None}
    trainer = build_trainer(dataclasses.replace(config, logger=logger, callbacks=chosen), tmp_path, 10)
    kinds = [type(callback) for callback in trainer.callbacks]  # type: ignore[attr-defined]
    assert (LearningRateMonitor in kinds) == there
