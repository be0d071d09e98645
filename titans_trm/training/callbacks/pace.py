"""Say plainly, once the first steps are timed, when a run cannot finish within its time limit."""

import time
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback

from titans_trm.training.callbacks.progress import TrainingProgress
from titans_trm.training.console import format_duration

_WARM_UP_STEPS = 1  # the first step allocates and plans
_TIMED_STEPS = 3


class Pace(Callback):
    """Time a few steps; where all steps would take longer than the limit, tell how long, and how to go on.

    Args:
        progress: shows the message above its display.
        max_minutes: time limit of this process; without one there is nothing to say.
        command: continues the run.
    """

    def __init__(self, progress: TrainingProgress, *, max_minutes: float | None, command: str) -> None:
        self.progress = progress
        self.max_seconds = None if max_minutes is None else 60.0 * max_minutes
        self.command = command
        self._first_step = 0
        self._started = 0.0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Note where this process starts."""
        self._first_step = trainer.global_step

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Speak after the timed steps."""
        done = trainer.global_step - self._first_step
        if self.max_seconds is None or done > _WARM_UP_STEPS + _TIMED_STEPS or not trainer.is_global_zero:
            return
        if done == _WARM_UP_STEPS and not self._started:
            self._started = time.monotonic()
        elif done == _WARM_UP_STEPS + _TIMED_STEPS and self._started:
            seconds = (time.monotonic() - self._started) / _TIMED_STEPS
            self._started = 0.0
            remaining = trainer.max_steps - trainer.global_step
            if seconds * remaining > self.max_seconds:
                self.progress.print(self._message(seconds, remaining), highlight=False, soft_wrap=True)

    def _message(self, seconds: float, remaining: int) -> str:
        limit = format_duration(self.max_seconds or 0.0)
        return (
            f"slow: a step takes {format_duration(seconds)} here, the remaining {remaining:,} would take "
            f"{format_duration(seconds * remaining)}. This process stops after {limit} with a checkpoint and a "
            f"validation; continue with: {self.command}"
        )
