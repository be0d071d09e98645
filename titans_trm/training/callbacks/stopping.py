"""End a run early and cleanly: signals, and the time limit."""

import signal
import time
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback

from titans_trm.training.callbacks.checkpoints import RunCheckpoints, at_step_boundary
from titans_trm.training.ranks import Ranks


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
        self._signal = 0  # number of the signal that came
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
        if trainer.global_step >= trainer.max_steps or not at_step_boundary(pl_module):
            return
        if not self.checkpoints.validation_follows(trainer) and (stop := self._agreed(trainer, pl_module)):
            self.checkpoints.save_last(trainer)
            raise stop

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Stop after a validation, which has saved this step."""
        if self.checkpoints.saved_step == trainer.global_step and (stop := self._agreed(trainer, pl_module)):
            raise stop

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
        if self._signal and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._signal = number

    def _agreed(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> StopTraining | None:
        """Return why to stop, as soon as any process is told to: all of them stop at the same step."""
        late = self.max_seconds is not None and time.monotonic() - self._started >= self.max_seconds
        ranks = Ranks(trainer.global_rank, trainer.world_size)
        told = torch.tensor([self._signal, int(late)], device=module.device if ranks.world_size > 1 else "cpu")
        number, late = ranks.gather(told).amax(0).tolist()
        if number:
            return StopTraining(f"stopped by {signal.Signals(number).name}", by_signal=True)
        if late:
            limit = (self.max_seconds or 0.0) / 60.0
            return StopTraining(f"reached trainer.max_time={limit:g} minutes", by_signal=False)
        return None
