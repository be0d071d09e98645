"""A run that is told to stop ends at a step boundary, saved, and gives the signals back."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import lightning
import pytest
from lightning.pytorch.callbacks import Callback
from training_cases import WARNINGS, SignalAt, fit, last, tiny_config

from titans_trm.training.callbacks.curves import LearningCurves
from titans_trm.training.callbacks.metrics_csv import read_metrics
from titans_trm.training.callbacks.stopping import StopTraining

pytestmark = [pytest.mark.filterwarnings(warning) for warning in WARNINGS]
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


@pytest.fixture(autouse=True, scope="module")
def _no_pictures() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LearningCurves, "_draw", lambda *_: None)
        yield


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stopping")


@pytest.fixture(autouse=True)
def _signals_are_given_back() -> Any:
    before = [signal.getsignal(number) for number in SIGNALS]
    yield
    after = [signal.getsignal(number) for number in SIGNALS]
    for number, handler in zip(SIGNALS, before, strict=True):
        signal.signal(number, handler)
    assert after == before


class Sleep(Callback):
    """Make every step last long."""

    def on_train_batch_end(self, *_: Any) -> None:
        time.sleep(0.05)


class SignalWithin(Callback):
    """Send a signal in the middle of an optimiser step."""

    def on_train_batch_end(self, trainer: lightning.Trainer, module: Any, outputs: Any, batch: Any, index: int) -> None:
        if index == 4:  # the first of two batches
            assert not module.slots.at_step_boundary
            os.kill(os.getpid(), signal.SIGTERM)


class PressCtrlC(Callback):
    """Press Ctrl-C twice within a step."""

    def on_train_batch_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        if trainer.global_step == 6:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_stops_after_the_step_under_way_with_a_checkpoint(tmp_path: Path, cache: Path, number: int) -> None:
    with pytest.raises(StopTraining, match=f"stopped by {signal.Signals(number).name}") as caught:
        fit(tiny_config(tmp_path, cache=cache), SignalAt(7, number))
    assert caught.value.by_signal
    assert last(tmp_path)["global_step"] == 7


def test_a_signal_at_a_validation_step_lets_it_finish(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(StopTraining):
        fit(tiny_config(tmp_path, cache=cache), SignalAt(5))
    assert last(tmp_path)["global_step"] == 5
    assert read_metrics(tmp_path / "metrics.csv")["split"] == ["train", "val"]
    assert (tmp_path / "checkpoints" / "best.ckpt").is_file()


def test_a_signal_within_an_accumulated_step_waits_for_its_end(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(StopTraining):
        fit(tiny_config(tmp_path, "trainer.accumulate=2", cache=cache), SignalWithin())
    assert last(tmp_path)["global_step"] == 3


def test_a_signal_at_the_last_step_lets_the_run_complete(tmp_path: Path, cache: Path) -> None:
    assert fit(tiny_config(tmp_path, cache=cache), SignalAt(12)).trainer.global_step == 12


def test_the_time_limit_stops_without_an_interruption(tmp_path: Path, cache: Path) -> None:
    limit = 0.2 / 60
    with pytest.raises(StopTraining, match=r"reached trainer.max_time=") as caught:
        fit(tiny_config(tmp_path, f"trainer.max_time={limit}", cache=cache), Sleep())
    assert not caught.value.by_signal
    assert 1 <= last(tmp_path)["global_step"] < 12


def test_a_second_ctrl_c_ends_at_once_and_keeps_what_was_saved(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(SystemExit):  # Lightning's answer to KeyboardInterrupt; tasks.train gives it the status 130
        fit(tiny_config(tmp_path, cache=cache), PressCtrlC())
    assert last(tmp_path)["global_step"] == 5
