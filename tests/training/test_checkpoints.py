"""When last.ckpt and best.ckpt are written, and which result is the best."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from titans_trm.training.callbacks.checkpoints import RunCheckpoints


class Trainer(SimpleNamespace):
    """As much of a trainer as decides about checkpoints; `saved` lists (name, step)."""

    def __init__(self, max_steps: int = 10) -> None:
        super().__init__(global_step=0, max_steps=max_steps, sanity_checking=False, state=SimpleNamespace(fn="fit"))
        self.saved: list[tuple[str, int]] = []
        self.callback_metrics: dict[str, float] = {}

    def save_checkpoint(self, path: Path) -> None:
        self.saved.append((path.name, self.global_step))


MODULE: Any = SimpleNamespace(slots=None)


def step_to(trainer: Any, callback: RunCheckpoints, steps: int, module: Any = MODULE) -> None:
    while trainer.global_step < steps:
        trainer.global_step += 1
        callback.on_train_batch_end(trainer, module, None, None, 0)


def validate(trainer: Any, callback: RunCheckpoints, accuracy: float, cross_entropy: float = 1.0) -> None:
    trainer.callback_metrics = {"val/exact_accuracy": accuracy, "val/cross_entropy": cross_entropy}
    callback.on_validation_end(trainer, MODULE)


@pytest.fixture
def callback(tmp_path: Path) -> RunCheckpoints:
    return RunCheckpoints(tmp_path, every_steps=3, val_every_steps=6)


def test_the_last_state_is_written_every_few_steps_and_at_the_end(callback: RunCheckpoints) -> None:
    trainer = Trainer()
    step_to(trainer, callback, 10)
    assert trainer.saved == [("last.ckpt", 3), ("last.ckpt", 9), ("last.ckpt", 10)]  # step 6 waits for its validation


def test_a_validation_writes_the_last_state_once(callback: RunCheckpoints) -> None:
    trainer = Trainer()
    step_to(trainer, callback, 6)
    validate(trainer, callback, 0.5)
    callback.save_last(trainer)  # type: ignore[arg-type]
    assert trainer.saved == [("last.ckpt", 3), ("best.ckpt", 6), ("last.ckpt", 6)]


def test_the_best_is_replaced_only_by_a_better_one_and_ties_go_to_the_lower_loss(callback: RunCheckpoints) -> None:
    trainer = Trainer()
    for step, (accuracy, loss) in enumerate([(0.5, 1.0), (0.4, 0.1), (0.5, 1.0), (0.5, 0.9), (0.6, 2.0)], start=1):
        trainer.global_step = 6 * step
        validate(trainer, callback, accuracy, loss)
    assert [step for name, step in trainer.saved if name == "best.ckpt"] == [6, 24, 30]
    assert callback.best == {"step": 30, "exact_accuracy": 0.6, "cross_entropy": 2.0}


def test_a_resumed_run_keeps_its_best(callback: RunCheckpoints, tmp_path: Path) -> None:
    trainer = Trainer()
    trainer.global_step = 6
    validate(trainer, callback, 0.5)
    resumed = RunCheckpoints(tmp_path, every_steps=3, val_every_steps=6)
    resumed.load_state_dict(callback.state_dict())
    trainer.saved.clear()
    trainer.global_step = 12
    validate(trainer, resumed, 0.4)
    assert trainer.saved == [("last.ckpt", 12)]


def test_validations_outside_training_write_nothing(callback: RunCheckpoints) -> None:
    trainer = Trainer()
    trainer.sanity_checking = True
    validate(trainer, callback, 0.5)
    trainer.sanity_checking, trainer.state.fn = False, "validate"
    validate(trainer, callback, 0.5)
    assert trainer.saved == []


def test_nothing_is_written_while_gradients_are_half_accumulated(callback: RunCheckpoints) -> None:
    """A resumed run starts at a step that is due, with one of its batches behind it."""
    trainer = Trainer()
    trainer.global_step = 3
    halfway: Any = SimpleNamespace(slots=SimpleNamespace(at_step_boundary=False))
    callback.on_train_batch_end(trainer, halfway, None, None, 0)  # type: ignore[arg-type]
    assert trainer.saved == []
