"""The average of the weights: its rule, when it is used, and where it is kept."""

from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from training_cases import WARNINGS, Fitted, fit, last, tiny_config

from titans_trm.training.callbacks.curves import LearningCurves
from titans_trm.training.checkpoint_io import load_checkpoint

pytestmark = [pytest.mark.filterwarnings(warning) for warning in WARNINGS]

DECAY = 0.5  # the warm-up rule reaches it at step 8 of 12


class Record(Callback):
    """Copy the weights after every step, and those that are validated."""

    def __init__(self) -> None:
        self.after_step: list[list[Tensor]] = []
        self.before_step: list[list[Tensor]] = []
        self.validated: dict[int, list[Tensor]] = {}

    def on_train_batch_start(self, trainer: lightning.Trainer, module: Any, *_: Any) -> None:
        self.before_step.append(copied(module))

    def on_train_batch_end(self, trainer: lightning.Trainer, module: Any, *_: Any) -> None:
        self.after_step.append(copied(module))

    def on_validation_batch_start(self, trainer: lightning.Trainer, module: Any, *_: Any) -> None:
        self.validated[trainer.global_step] = copied(module)


def copied(module: Any) -> list[Tensor]:
    return [value.detach().clone() for value in module.model.state_dict().values()]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Fitted, Record]:
    record = Record()
    root = tmp_path_factory.mktemp("ema")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LearningCurves, "_draw", lambda *_: None)
        return fit(tiny_config(root / "runs" / "one", f"trainer.ema_decay={DECAY}"), record), record


@pytest.fixture(scope="module")
def averages(run: tuple[Fitted, Record]) -> list[list[Tensor]]:
    """The average after each step by hand: the first weights, then lerp with a decay that rises to `DECAY`."""
    steps = run[1].after_step
    found = [steps[0]]
    for t, weights in enumerate(steps[1:], start=1):
        decay = min(DECAY, (1 + t) / (10 + t))
        found.append([decay * old + (1 - decay) * new for old, new in zip(found[-1], weights, strict=True)])
    return found


def equal(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def saved(state: dict[str, Any]) -> list[Tensor]:
    return [value for name, value in state.items() if name.startswith("model.")]


def test_validation_sees_the_average_of_the_hand_rolled_rule(
    run: tuple[Fitted, Record], averages: list[list[Tensor]]
) -> None:
    validated = run[1].validated
    assert sorted(validated) == [5, 10]
    for step, weights in validated.items():
        torch.testing.assert_close(weights, averages[step - 1], rtol=1e-5, atol=1e-6)
        assert not equal(weights, run[1].after_step[step - 1])


def test_training_goes_on_with_the_raw_weights_after_validation(run: tuple[Fitted, Record]) -> None:
    record = run[1]
    for step in range(1, 12):
        assert equal(record.before_step[step], record.after_step[step - 1]), f"weights changed after step {step}"


def test_a_checkpoint_holds_the_average_as_state_dict_and_the_raw_weights_beside_it(
    run: tuple[Fitted, Record], averages: list[list[Tensor]]
) -> None:
    checkpoint = last(run[0].folder)
    torch.testing.assert_close(saved(checkpoint["state_dict"]), averages[11], rtol=1e-5, atol=1e-6)
    assert equal(saved(checkpoint["current_model_state"]), run[1].after_step[11])


def test_the_best_checkpoint_holds_the_weights_that_were_validated(run: tuple[Fitted, Record]) -> None:
    best = load_checkpoint(run[0].folder / "checkpoints" / "best.ckpt")
    assert equal(saved(best["state_dict"]), run[1].validated[best["global_step"]])


def test_after_training_the_module_has_the_average(run: tuple[Fitted, Record]) -> None:
    checkpoint = last(run[0].folder)
    assert equal(copied(run[0].module), saved(checkpoint["state_dict"]))


def test_a_resumed_average_is_not_overwritten(run: tuple[Fitted, Record], tmp_path: Path) -> None:
    """The first thing a resumed run saves is the average it was given."""
    from titans_trm.tasks.build import build_datamodule, build_model, build_module, build_trainer

    fitted = run[0]
    record = Record()
    config = tiny_config(tmp_path / "runs" / "resumed", f"trainer.ema_decay={DECAY}", "trainer.max_steps=13")
    model = build_model(config.model, fitted.data.spec)
    module, datamodule = build_module(config, model, fitted.data.spec), build_datamodule(config, fitted.data)
    trainer = build_trainer(config, tmp_path, len(fitted.data.train))
    trainer.callbacks[:] = [c for c in trainer.callbacks if not isinstance(c, LearningCurves)] + [record]  # type: ignore[attr-defined]
    trainer.fit(
        module,
        datamodule=datamodule,
        ckpt_path=fitted.folder / "checkpoints" / "last.ckpt",
        weights_only=True,
    )
    before, after = last(fitted.folder), last(tmp_path)
    assert equal(record.before_step[0], saved(before["current_model_state"]))
    decay = min(DECAY, 13 / 22)
    expected = [
        decay * old + (1 - decay) * new
        for old, new in zip(saved(before["state_dict"]), record.after_step[0], strict=True)
    ]
    torch.testing.assert_close(saved(after["state_dict"]), expected, rtol=1e-5, atol=1e-6)
