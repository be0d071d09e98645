"""End a trial of a search whose validation is not worth going on."""

from collections.abc import Callable
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback

from titans_trm.training.callbacks.stopping import StopTraining


class TrialPruning(Callback):
    """Report every validation to the search; stop before the next step once the search says so.

    Args:
        metric: val/<name>, the objective.
        report: takes the value and the optimiser step, returns whether the trial is to end; called in the first
            process only.
    """

    def __init__(self, metric: str, report: Callable[[float, int], bool]) -> None:
        self.metric = metric
        self.report = report
        self._verdict = ""

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Report, and let all processes know the verdict."""
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        ends = False
        if trainer.is_global_zero:
            ends = self.report(float(trainer.callback_metrics[self.metric]), trainer.global_step)
        if trainer.strategy.broadcast(ends):
            self._verdict = f"pruned by the search after step {trainer.global_step}"

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Stop where the checkpoint after the validation has been written."""
        if self._verdict:
            raise StopTraining(self._verdict, by_signal=False, pruned=True)
