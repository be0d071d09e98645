"""The specialist on call during a training: carries out what `titans_trm.specialist.on_call` decides."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback

from titans_trm.diagnostics.engine import Engine
from titans_trm.diagnostics.signals import Signals
from titans_trm.specialist.on_call import Decision, OnCall
from titans_trm.training.callbacks.checkpoints import at_step_boundary
from titans_trm.training.levers import Levers
from titans_trm.training.module import TRMModule

BEFORE = "before_remedy.ckpt"  # what a remedy is rolled back to

logger = logging.getLogger(__name__)
Watch = Callable[[], tuple[Engine, Signals | None]]  # the diagnostics' engine and its newest signals


class SpecialistOnCall(Callback):
    """Apply remedies at step boundaries; place it after the diagnostics and before what saves checkpoints.

    The first process listens, asks and decides; all processes carry a decision out at the same step. Nothing here waits
    for a specialist, and nothing that goes wrong with one ends a training. Settings that a remedy has changed are in
    every checkpoint: a resumed run goes on with them.

    Args:
        folder: the run folder.
        on_call: decides.
        watch: gives the diagnostics' engine and newest signals.
    """

    def __init__(self, folder: Path, on_call: OnCall, watch: Watch) -> None:
        self.folder = folder
        self.on_call = on_call
        self._watch = watch
        self._changed: dict[str, Any] = {}  # settings that remedies have changed

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Put back what remedies had changed before the run was interrupted."""
        self._levers(trainer, pl_module).restore(self._changed)
        if not trainer.is_global_zero:
            self.on_call.follow()

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Decide and act at a step boundary."""
        alone, step = trainer.world_size == 1, trainer.global_step
        if not at_step_boundary(pl_module) or not (alone or step % self.on_call.settings.sync_every_steps == 0):
            return
        levers = self._levers(trainer, pl_module)
        decision = self._decide(levers, step) if trainer.is_global_zero else None
        if not alone:
            decision = trainer.strategy.broadcast(decision, src=0)
        if decision is not None:
            self._carry_out(decision, levers, step)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Write down what came, and leave."""
        if trainer.is_global_zero:
            self.on_call.close(trainer.global_step)

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        """Leave at once."""
        self.on_call.abandon()

    def state_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {"on_call": self.on_call.state_dict(), "changed": self._changed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue."""
        self.on_call.load_state_dict(state_dict["on_call"])
        self._changed = dict(state_dict["changed"])

    def _decide(self, levers: Levers, step: int) -> Decision | None:
        try:
            engine, signals = self._watch()
            return self.on_call.decide(step, engine, signals, levers.levels)
        except Exception as error:  # whatever it is, training matters more
            logger.exception("the specialist is off for the rest of this run")
            self.on_call.failed(f"{type(error).__name__}: {error}", step)
            return None

    def _carry_out(self, decision: Decision, levers: Levers, step: int) -> None:
        """Do what was decided; on all processes."""
        if decision["do"] == "apply":
            self._apply(decision, levers, step)
            return
        if decision["do"] == "roll_back":
            self._roll_back(levers)
        self.on_call.trial_ended(decision, step)

    def _apply(self, decision: Decision, levers: Levers, step: int) -> None:
        before = levers.settings()
        old = {"settings": before, "rates": levers.rates(), "changed": dict(self._changed)}
        self.on_call.trial_began(decision, old, step)
        try:
            levers.save(BEFORE)
            levers.pull(decision["remedy"]["id"], decision["remedy"].get("value"))
        except Exception as error:
            logger.exception("a remedy could not be applied")
            self._restore(levers)
            reason = f"could not be applied: {type(error).__name__}: {error}"
            self.on_call.trial_ended({"do": "roll_back", "reason": reason}, step)
            return
        self._changed |= {name: value for name, value in levers.settings().items() if value != before[name]}

    def _roll_back(self, levers: Levers) -> None:
        self._restore(levers)
        levers.load_weights(BEFORE)

    def _restore(self, levers: Levers) -> None:
        assert self.on_call.trial is not None
        old = self.on_call.trial.old
        levers.restore(old["settings"])
        levers.set_rates(old["rates"])
        self._changed = dict(old["changed"])

    def _levers(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> Levers:
        assert isinstance(module, TRMModule)
        return Levers(trainer, module, self.folder / "checkpoints")
