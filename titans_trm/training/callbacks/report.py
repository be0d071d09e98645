"""Log the running means of training every few steps, as `train/<name>`."""

import time
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback

from titans_trm.training.module import TRMModule


class TrainingReport(Callback):
    """Turn the module's running means into logged metrics, before anything reads or saves them.

    Args:
        every_steps: optimiser steps between reports.
        train_examples: size of the training set: an epoch is that many examples finished.
    """

    def __init__(self, *, every_steps: int, train_examples: int) -> None:
        self.every_steps = every_steps
        self.train_examples = train_examples
        self._last_step = -1
        self._last_time = 0.0
        self._last_finished = 0.0
        self._validation_started = 0.0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Start the clock."""
        assert isinstance(pl_module, TRMModule) and pl_module.slots is not None
        self._last_step, self._last_time = trainer.global_step, time.monotonic()
        self._last_finished = float(pl_module.slots.examples_finished)

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Keep validation out of the training speed."""
        self._validation_started = time.monotonic()

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Go on with the clock."""
        self._last_time += time.monotonic() - self._validation_started

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Report at every `every_steps`-th optimiser step."""
        step = trainer.global_step
        if step == self._last_step or step % self.every_steps:
            return
        assert isinstance(pl_module, TRMModule) and pl_module.slots is not None
        now = time.monotonic()
        values = pl_module.running.report()
        values["learning_rate"] = float(trainer.optimizers[0].param_groups[0]["lr"])
        values["examples_finished"] = float(pl_module.slots.examples_finished)
        values["epoch"] = values["examples_finished"] / self.train_examples
        finished = values["examples_finished"] - self._last_finished
        values["examples_per_second"] = finished / max(now - self._last_time, 1e-9)
        self._last_step, self._last_time, self._last_finished = step, now, values["examples_finished"]
        pl_module.log_dict({f"train/{name}": value for name, value in values.items()})
