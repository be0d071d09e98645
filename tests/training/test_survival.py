"""What a run meets: memory that is too small, weights that are not finite, a disk that fails."""

import dataclasses
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from training_cases import WARNINGS, last, run_differences, tiny_config, with_callback

from titans_trm.config import compose
from titans_trm.errors import InputError
from titans_trm.tasks.out_of_memory import in_smaller_batches
from titans_trm.tasks.strategy import build_strategy
from titans_trm.tasks.train import train
from titans_trm.training.callbacks.curves import LearningCurves
from titans_trm.training.callbacks.metrics_csv import read_metrics
from titans_trm.training.checkpoint_io import AtomicCheckpointIO, load_checkpoint, newest_readable
from titans_trm.training.config import RunConfig

pytestmark = [pytest.mark.filterwarnings(warning) for warning in WARNINGS]


@pytest.fixture(scope="module", autouse=True)
def _no_pictures() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LearningCurves, "_draw", lambda *_: None)
        patch.setattr("titans_trm.tasks.train.predict_training_peak", lambda *_: Mock(total_bytes=0))
        yield


class TooLarge(Callback):
    """A device on which batches of more than `fits` examples run out of memory from a step on."""

    def __init__(self, step: int, fits: int) -> None:
        self.step, self.fits = step, fits

    def on_before_backward(self, trainer: lightning.Trainer, pl_module: Any, *_: Any) -> None:
        if trainer.global_step >= self.step and pl_module.slots.batch_size > self.fits:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


class RuinAt(Callback):
    """Weights become NaN after a step, as after a gradient that overflowed."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: Any, *_: Any) -> None:
        if trainer.global_step == self.step:
            with torch.no_grad():
                for parameter in pl_module.parameters():
                    parameter.fill_(math.nan)


def with_own(config: RunConfig, name: str, **arguments: Any) -> RunConfig:
    node = {"_target_": f"{__name__}.{name}", **arguments}
    return dataclasses.replace(config, callbacks={**config.callbacks, name: node})


# A statistic of one batch, the diversity term differs between one batch of 6 and two of 3.
PLAIN = ("loss.diversity=off", "trainer.log_every_steps=1")


@pytest.mark.parametrize("step", [0, 6])
def test_out_of_memory_goes_on_in_smaller_batches_with_the_same_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, step: int
) -> None:
    """At step 0 there is no checkpoint, at step 6 one of step 5."""
    roomy, tight = tmp_path / "runs" / "roomy", tmp_path / "runs" / "tight"
    train(tiny_config(roomy, *PLAIN))
    summary = train(with_own(tiny_config(tight, *PLAIN), "TooLarge", step=step, fits=3))
    assert (summary["status"], summary["global_step"]) == ("completed", 12)
    assert "going on with trainer.batch_size=3 trainer.accumulate=2, 6 slots a step as before" in caplog.text
    one, other = last(roomy), last(tight)
    assert [len(group["halted"]) for group in other["titans_trm"]["slots"]["groups"]] == [3, 3]
    torch.testing.assert_close(other["state_dict"], one["state_dict"], rtol=0, atol=1e-5)
    first, second = (read_metrics(folder / "metrics.csv") for folder in (roomy, tight))
    assert first["step"] == second["step"] and first["examples_finished"] == second["examples_finished"]
    changed = json.loads((tight / "environment.json").read_text())["resumed"][-1]["overrides"]
    assert changed == ["trainer.batch_size=3", "trainer.accumulate=2"]


def test_batches_shrink_by_their_least_factor_and_slots_stay() -> None:
    config: RunConfig | None = compose(
        "train", ["experiment=quickstart", "trainer.batch_size=15", "trainer.accumulate=2"]
    )
    sizes = []
    while (config := in_smaller_batches(config)) is not None:
        sizes.append((config.trainer.batch_size, config.trainer.accumulate))
    assert sizes == [(5, 6), (1, 30)]


def test_a_batch_of_one_that_does_not_fit_is_one_message_with_what_helps(tmp_path: Path) -> None:
    config = tiny_config(tmp_path / "runs" / "one", "trainer.batch_size=2", "trainer.max_steps=2")
    with pytest.raises(InputError, match=r"out of memory \(hardware=cpu, batch 1.*Settings that help"):
        train(with_own(config, "TooLarge", step=0, fits=0))
    assert json.loads((tmp_path / "runs" / "one" / "summary.json").read_text())["status"] == "failed"


def test_a_validation_that_is_not_finite_is_reported_and_the_run_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "runs" / "ruined"
    config = tiny_config(folder, "specialist=off", "trainer.early_stopping_patience=5")
    summary = train(with_own(config, "RuinAt", step=6))
    assert (summary["status"], summary["global_step"]) == ("completed", 12)
    assert "validation at step 10: cross_entropy is not finite" in caplog.text
    rows = read_metrics(folder / "metrics.csv")
    at_ten = [
        i for i, (step, kind) in enumerate(zip(rows["step"], rows["split"], strict=True)) if (step, kind) == (10, "val")
    ]
    assert [math.isnan(rows["cross_entropy"][i]) for i in at_ten] == [True]
    assert load_checkpoint(folder / "checkpoints" / "best.ckpt")["global_step"] == 5


def test_a_full_disk_is_one_message_with_file_and_cure_and_nothing_is_lost(tmp_path: Path) -> None:
    """The operating system refuses to write beyond 64 KiB of a file, as a full disk would."""
    resource = pytest.importorskip("resource")  # of POSIX systems
    undisturbed, folder = tmp_path / "runs" / "undisturbed", tmp_path / "runs" / "full"
    train(tiny_config(undisturbed))
    train(with_callback(tiny_config(folder), "SignalAt", step=5))
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, limit[1]))
    try:
        with pytest.raises(InputError, match=r"last.ckpt could not be written .*free space .*continue with: .*resume="):
            train(tiny_config(folder, f"resume={folder}"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert last(folder)["global_step"] == 5
    train(tiny_config(folder, f"resume={folder}"))
    assert run_differences(undisturbed, folder) == []


def test_a_damaged_checkpoint_never_takes_the_place_of_a_readable_one(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    for step in (1, 2):
        AtomicCheckpointIO().save_checkpoint({"state_dict": {}, "hyper_parameters": {}, "global_step": step}, path)
    os.truncate(path, 100)
    assert newest_readable(tmp_path) == tmp_path / "previous.ckpt"
    assert sorted(one.name for one in tmp_path.iterdir()) == ["last.ckpt.damaged", "previous.ckpt"]
    AtomicCheckpointIO().save_checkpoint({"state_dict": {}, "hyper_parameters": {}, "global_step": 2}, path)
    assert [load_checkpoint(tmp_path / f"{name}.ckpt")["global_step"] for name in ("last", "previous")] == [2, 1]


def test_sharded_training_refuses_what_it_cannot_keep() -> None:
    fsdp = ["experiment=quickstart", "hardware=gpu", "hardware.devices=2", "hardware.strategy=fsdp"]
    for more, message in (
        (["hardware=cpu"], "strategy=fsdp needs GPUs"),
        ([], "set trainer.ema_decay=null"),
        (["trainer.ema_decay=null", "optimizer=muon"], "needs whole matrices"),
    ):
        with pytest.raises(InputError, match=message):
            compose("train", [*fsdp, *more])
    config = compose("train", [*fsdp, "trainer.ema_decay=null", "optimizer=adamw"])
    strategy: Any = build_strategy(config.hardware)
    assert strategy.sharding_strategy.name == "SHARD_GRAD_OP" and strategy._state_dict_type == "full"
