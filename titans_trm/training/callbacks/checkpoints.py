"""Write `checkpoints/last.ckpt` every few steps and `checkpoints/best.ckpt` when validation improves."""

import logging
import math
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Checkpoint

from titans_trm.data.spec import LOWER_IS_BETTER, Headline
from titans_trm.training.checkpoint_io import BEST, LAST

logger = logging.getLogger(__name__)


class RunCheckpoints(Checkpoint):
    """Keep the last state, to resume from, and the best by the task's headline metric, to evaluate.

    Of equal ones the one with the lower cross-entropy wins. Where a validation is due, `last.ckpt` is written
    after it, so that a resumed run neither repeats nor skips one. Paths are relative to the run folder: a moved run
    still resumes.

    Args:
        folder: the run's `checkpoints/`.
        every_steps: steps between two writes of `last.ckpt`.
        val_every_steps: steps between validations.
        headline: name of the metric without `val/`.
    """

    def __init__(
        self, folder: Path, *, every_steps: int, val_every_steps: int, headline: Headline = "exact_accuracy"
    ) -> None:
        self.folder = folder
        self.every_steps = every_steps
        self.val_every_steps = val_every_steps
        self.headline = headline
        self.best: dict[str, float] | None = None  # step, the headline metric, cross_entropy
        self.saved_step = -1

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write `last.ckpt` where it is due and no validation follows."""
        step = trainer.global_step
        due = step % self.every_steps == 0 or step >= trainer.max_steps
        if due and at_step_boundary(pl_module) and not self.validation_follows(trainer):
            self.save_last(trainer)

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Write `best.ckpt` after an improvement, and `last.ckpt`."""
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        metrics = trainer.callback_metrics
        values = {name: float(metrics[f"val/{name}"]) for name in (self.headline, "cross_entropy")}
        unusable = [name for name, value in values.items() if not math.isfinite(value)]
        if unusable:
            logger.warning(
                "validation at step %d: %s is not finite, so these weights are not kept as the best; "
                "checkpoints/best.ckpt and the diagnostics tell what was before.",
                trainer.global_step,
                " and ".join(unusable),
            )
        elif self.best is None or self._score(values) > self._score(self.best):
            self.best = {"step": trainer.global_step, **values}
            trainer.save_checkpoint(self.folder / BEST)
        self.save_last(trainer)

    def _score(self, values: dict[str, float]) -> tuple[float, float]:
        sign = -1.0 if self.headline in LOWER_IS_BETTER else 1.0
        return sign * values[self.headline], -values["cross_entropy"]

    def validation_follows(self, trainer: lightning.Trainer) -> bool:
        """Tell whether this step ends with a validation."""
        return trainer.global_step % self.val_every_steps == 0

    def save_last(self, trainer: lightning.Trainer) -> None:
        """Write `last.ckpt` unless this step is saved already."""
        if trainer.global_step != self.saved_step:
            trainer.save_checkpoint(self.folder / LAST)
            self.saved_step = trainer.global_step

    def state_dict(self) -> dict[str, Any]:
        """Return the best result so far."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue with the best result so far."""
        self.best = state_dict["best"]


def at_step_boundary(module: lightning.LightningModule) -> bool:
    """Tell whether no gradient is half accumulated; always true for a module without slots."""
    slots = getattr(module, "slots", None)
    return slots is None or slots.at_step_boundary
