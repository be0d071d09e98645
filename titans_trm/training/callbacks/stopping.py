"""End a run early and cleanly: signals, and the time limit."""

import signal
import time
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback

from titans_trm.training.callbacks.checkpoints import RunCheckpoints, at_step_boundary


class StopTraining(Exception):
    """Training ended before its last step, with `last.ckpt` written: by a signal, by a search, or at a limit."""

    def __init__(self, reason: str, *, by_signal: bool, pruned: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.by_signal = by_signal
        self.pruned = pruned

    @property
    def by(self) -> str:
        """What stopped it, as in `summary.json`: signal, pruning or time."""
        return "signal" if self.by_signal else "pruning" if self.pruned else "time"


class StopCleanly(Callback):
    """On SIGINT, SIGTERM, SIGUSR1 or at the time limit finish the step, write `last.ckpt`, raise `StopTraining`.

    A second Ctrl-C ends the process at once; what was written before stays.

    Args:
        checkpoints: writes the last state.
        max_minutes: wall-clock limit of this process, or None.
    """

    def __init__(self, checkpoints: RunCheckpoints, *, max_minutes: float | None) -> None:
        self.checkpoints = checkpoints
        self.max_seconds = None if max_minutes is None else 60.0 * max_minutes
        self._signal: str | None = None
        self._handlers: dict[int, Any] = {}
        self._started = 0.0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Take the signals over and start the clock."""
        self._started = time.monotonic()
        for number in (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGUSR1", signal.SIGTERM)):
            if number not in self._handlers:
                self._handlers[number] = signal.signal(number, self._note)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop at a step boundary; where a validation is due, it runs first, so that none is lost."""
        reason = self._reason()
        if reason is None or trainer.global_step >= trainer.max_steps or not at_step_boundary(pl_module):
            return
        if not self.checkpoints.validation_follows(trainer):
            self.checkpoints.save_last(trainer)
            raise StopTraining(reason, by_signal=self._signal is not None)

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Stop after a validation, which has saved this step."""
        reason = self._reason()
        if reason and self.checkpoints.saved_step == trainer.global_step:
            raise StopTraining(reason, by_signal=self._signal is not None)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Give the signals back, before Lightning gives back its own."""
        self._give_back()

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        """Give the signals back."""
        self._give_back()

    def _give_back(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}

    def _note(self, number: int, frame: Any) -> None:
        if self._signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._signal = signal.Signals(number).name

    def _reason(self) -> str | None:
        if self._signal is not None:
            return f"stopped by {self._signal}"
        if self.max_seconds is not None and time.monotonic() - self._started >= self.max_seconds:
            return f"reached trainer.max_time={self.max_seconds / 60.0:g} minutes"
        return None
