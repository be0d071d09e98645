"""An interrupted run that is resumed ends in the same bits as one that was not."""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from training_cases import WARNINGS, Crash, differences, last, run_differences, tiny_config, with_callback

from titans_trm.tasks.train import train
from titans_trm.training.callbacks.curves import LearningCurves
from titans_trm.training.callbacks.metrics_csv import read_metrics

pytestmark = [pytest.mark.filterwarnings(warning) for warning in WARNINGS]

VARIANTS = {
    "plain": (),
    "memory_carried": ("model.memory.carry=steps",),
    "no_average": ("trainer.ema_decay=null",),
    "adam_atan2": ("optimizer=adam_atan2",),
    "muon": ("optimizer=muon",),
    "accumulate": ("trainer.accumulate=2", "trainer.batch_size=3"),
}
Undisturbed = Callable[[str], Path]


@pytest.fixture(scope="module", autouse=True)
def _no_pictures() -> Iterator[None]:
    """Leave out what takes longest and has no part in this: curves.png and the prediction of memory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LearningCurves, "_draw", lambda *_: None)
        patch.setattr("titans_trm.tasks.train.predict_training_peak", lambda *_: Mock(total_bytes=0))
        yield


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("exact_resume")


@pytest.fixture(scope="module")
def undisturbed(root: Path) -> Undisturbed:
    @functools.cache
    def run(variant: str) -> Path:
        folder = root / "undisturbed" / variant
        train(tiny_config(folder, *VARIANTS[variant]))
        return folder

    return run


# Steps 4 and 8 are checkpoints, 5 and 10 validations, 3, 6 and 9 reports; 12 is the end.
@pytest.mark.parametrize(
    ("variant", "step"),
    [("plain", step) for step in (1, 4, 5, 9)]
    + [("accumulate", step) for step in (2, 4, 5)]
    + [(variant, 5) for variant in ("memory_carried", "no_average", "adam_atan2", "muon")],
)
def test_stopped_and_resumed_equals_undisturbed(undisturbed: Undisturbed, root: Path, variant: str, step: int) -> None:
    expected, folder = undisturbed(variant), root / f"stopped_{step}" / variant
    config = tiny_config(folder, *VARIANTS[variant])
    stopped = train(with_callback(config, "SignalAt", step=step))
    assert (stopped["status"], stopped["global_step"], stopped["exit_status"]) == ("stopped", step, 130)
    assert last(folder)["global_step"] == step
    assert run_differences(expected, folder), "the comparison sees no difference between step 12 and an earlier one"

    resumed = train(tiny_config(folder, *VARIANTS[variant], f"resume={folder}"))
    assert (resumed["status"], resumed["global_step"]) == ("completed", 12)
    assert run_differences(expected, folder) == []


@pytest.mark.parametrize(("variant", "step"), [("plain", 7), ("plain", 10), ("accumulate", 9), ("memory_carried", 7)])
def test_crashed_and_resumed_equals_undisturbed(undisturbed: Undisturbed, root: Path, variant: str, step: int) -> None:
    """What was written after the last checkpoint is made again: rows of metrics.csv too."""
    expected, folder = undisturbed(variant), root / f"crashed_{step}" / variant
    config = tiny_config(folder, *VARIANTS[variant])
    with pytest.raises(Crash):
        train(with_callback(config, "CrashAt", step=step))
    assert last(folder)["global_step"] < step
    train(tiny_config(folder, *VARIANTS[variant], f"resume={folder}"))
    assert run_differences(expected, folder) == []


def test_two_runs_of_one_seed_are_equal_and_another_seed_differs(root: Path) -> None:
    folders = [root / "seeds" / name for name in ("one", "same", "other")]
    for folder, seed in zip(folders, (7, 7, 8), strict=True):
        train(tiny_config(folder, f"seed={seed}"))
    assert run_differences(folders[0], folders[1]) == []
    assert any("state_dict" in text for text in run_differences(folders[0], folders[2]))


@pytest.mark.parametrize("variant", ["plain", "no_average", "memory_carried"])
def test_a_checkpoint_has_all_that_decides_what_happens_next(undisturbed: Undisturbed, variant: str) -> None:
    saved = last(undisturbed(variant))
    averaged = variant != "no_average"
    assert ("current_model_state" in saved) == ("averaging_state" in saved) == averaged
    group = saved["titans_trm"]["slots"]["groups"][0]
    assert set(group) == {"batch", "carry", "min_steps", "halted"}
    assert saved["titans_trm"]["slots"]["examples_finished"] >= 0
    assert saved["optimizer_states"][0]["state"]
    assert saved["lr_schedulers"][0]["last_epoch"] == 12
    assert set(saved["titans_trm"]["slots"]["stream"]) >= {"position", "seed", "examples_sha256"}


def test_metrics_have_each_row_once_after_a_resume(root: Path) -> None:
    folder = root / "rows" / "run"
    train(with_callback(tiny_config(folder), "SignalAt", step=5))
    train(tiny_config(folder, f"resume={folder}"))
    columns = read_metrics(folder / "metrics.csv")
    rows = list(zip(columns["step"], columns["split"], strict=True))
    assert rows == [(3, "train"), (5, "val"), (6, "train"), (9, "train"), (10, "val"), (12, "train")]


def test_the_comparison_sees_a_single_bit() -> None:
    one = {"a": [torch.zeros(3), {"b": 1}], "c": float("nan")}
    assert list(differences(one, {"a": [torch.zeros(3), {"b": 1}], "c": float("nan")})) == []
    negative_zero = torch.zeros(3)
    negative_zero[1] = -0.0
    assert list(differences(one, {"a": [negative_zero, {"b": 1}], "c": float("nan")})) == [".a[0]"]
    assert list(differences(one, {"a": [torch.zeros(3), {"b": 2}], "c": float("nan")})) == [".a[1].b: 1 and 2"]
    assert list(differences(one, {"a": one["a"]}))
    assert list(differences(torch.zeros(3), torch.zeros(3, dtype=torch.float64)))
    assert list(differences([1], [1, 2]))
    assert list(differences(1, True))
