"""Watch a run while it trains: gather signals, let the rules look, tell the person, write it down."""

import json
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger

from titans_trm.diagnostics.alert import Alert
from titans_trm.diagnostics.catalogue import build_rules
from titans_trm.diagnostics.collect import Collector, Validate
from titans_trm.diagnostics.config import DiagnosticsConfig
from titans_trm.diagnostics.engine import Engine, Update
from titans_trm.diagnostics.events import EventLog
from titans_trm.diagnostics.preflight import preflight
from titans_trm.diagnostics.record import SignalLog
from titans_trm.diagnostics.report import write_report
from titans_trm.diagnostics.signals import RunFacts, Signals
from titans_trm.training.diagnostics_panel import draw_panel
from titans_trm.training.module import TRMModule

logger = logging.getLogger(__name__)

_CURVES = ("solve", "halting", "latent", "memory", "gate", "mlp", "labels", "time", "system")  # sent to TensorBoard

Listener = Callable[[str, Alert], None]


class Diagnostics(Callback):
    """Check a run every few steps; place it after what logs and before what saves checkpoints.

    Training computes the same with and without it, to the bit: it reads what the module leaves behind, and looks into
    the blocks by a call of its own. Its state is in every checkpoint. Only the first process looks; its slots speak for
    all. `subscribe` a function to be told of events of alerts as they are written.

    Args:
        folder: the run's `diagnostics/`.
        config: how closely to watch.
        facts: of the run; the vocabulary is taken from the module.
        validate: rules of the task that a few examples are held against at every check.
        memory_budget: bytes of the device; None = its own size.
        tell: shows a line to the person at the screen; None = the log.
    """

    def __init__(
        self,
        folder: Path,
        config: DiagnosticsConfig,
        facts: RunFacts,
        *,
        validate: Validate | None = None,
        memory_budget: int | None = None,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        self.folder = folder
        self.config = config
        self.facts = facts
        self.engine = Engine(build_rules(facts, config), facts, config)  # until the task is known
        self.events = EventLog(folder / "events.jsonl")
        self.record = SignalLog(folder / "signals.jsonl")
        self.seconds = 0.0  # CPU time spent here by this process
        self.latest: Signals | None = None  # of the newest check
        self._validate = validate
        self._memory_budget = memory_budget
        self._tell = tell or logger.warning
        self._listeners: list[Listener] = []
        self._collector: Collector | None = None
        self._restored: dict[str, Any] | None = None
        self._batch_started = 0.0
        self._last_check = 0
        self._last_validation = -1

    def subscribe(self, listener: Listener) -> None:
        """Call `listener(event, alert)` for every `alert`, `effect`, `escalated` and `cleared` from now on."""
        self._listeners.append(listener)

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Build the engine for the task, before a checkpoint is read."""
        assert isinstance(pl_module, TRMModule)
        self.facts = replace(self.facts, vocab_size=pl_module.spec.vocab_size)
        self.engine = Engine(build_rules(self.facts, self.config), self.facts, self.config)

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Look at the data before the first step, or go on where the checkpoint stands."""
        if not trainer.is_global_zero:
            return
        assert isinstance(pl_module, TRMModule)
        self._collector = Collector(
            pl_module.model,
            probe_examples=self.config.probe_examples,
            audit_examples=self.config.audit_examples,
            validate=self._validate,
            memory_budget=self._budget(pl_module.device),
        )
        step = trainer.global_step
        self.record.start(step)
        if self._restored is not None:
            self._last_check = self._restored["last_check"]
            self._collector.load_state_dict(self._restored["collector"], pl_module.device)
            self._restored = None
            self.events.append("resumed", step=step)
            return
        self.events.append(
            "started", step=step, data={"vocab_size": self.facts.vocab_size, "rules": list(self.engine.rules)}
        )
        data = trainer.datamodule.data  # type: ignore[attr-defined]
        self._take(preflight(data.train, data.val), trainer)

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Start the clock, and have the carry kept that a check compares with."""
        assert isinstance(pl_module, TRMModule)
        self._batch_started = time.perf_counter()
        pl_module.keep_before = self._collector is not None and self._due(trainer.global_step + 1)

    def on_before_optimizer_step(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Take the gradients before they are clipped, where a check is due."""
        if self._collector is not None and self._due(trainer.global_step + 1):
            started = time.thread_time()
            self._collector.parameters.before_update()
            self.seconds += time.thread_time() - started

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add the step to the sums; check where that is due."""
        if self._collector is None:
            return
        assert isinstance(pl_module, TRMModule) and pl_module.slots is not None and pl_module.observed is not None
        started, now = time.thread_time(), time.perf_counter()
        seen, step = pl_module.observed, trainer.global_step
        self._collector.observe(seen, pl_module.grad_norm, now - self._batch_started, group=pl_module.slots.latest)
        if pl_module.slots.at_step_boundary and self._due(step) and step > self._last_check:
            lr = float(trainer.optimizers[0].param_groups[0]["lr"])
            signals = self._collector.check(step, seen, lr, step - self._last_check)
            self._last_check, pl_module.observed = step, replace(seen, before=None)
            self._take(signals, trainer)
        self.seconds += time.thread_time() - started

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Hand what the validation found to the rules."""
        step = trainer.global_step
        if self._collector is None or trainer.sanity_checking or step == self._last_validation:
            return  # a run stopped at a validation makes it again when it is resumed
        self._last_validation = step
        logged = trainer.callback_metrics.items()
        values = {name: float(f"{float(value):.5g}") for name, value in logged if name.startswith("val/")}
        self._take(Signals(trainer.global_step, values), trainer)

    def on_fit_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Close the report."""
        self.close(trainer)

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        """Close the report of a run that was stopped or failed."""
        self.close(trainer)

    def close(self, trainer: lightning.Trainer) -> None:
        """Raise what still waits and write the report with its pictures."""
        if self._collector is None:
            return
        self._collector = None
        self._publish(self.engine.finish(), trainer)
        self.events.append("finished", step=self.engine.last_step, data={"seconds": round(self.seconds, 3)})
        try:
            text = write_report(self.folder, self.engine, self.events.path)
            draw_panel(self.folder)
            for board in self._boards(trainer):
                board.experiment.add_text("diagnostics", text, self.engine.last_step)
        except OSError as error:  # a report is not worth a run
            logger.warning("the report of the diagnostics could not be written: %s", error)

    def state_dict(self) -> dict[str, Any]:
        """Return all that decides later alerts, for the checkpoint."""
        collector = self._collector.state_dict() if self._collector is not None else None
        if collector is None:
            return {}
        return {
            "engine": self.engine.state_dict(),
            "collector": collector,
            "last_check": self._last_check,
            "last_validation": self._last_validation,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the engine's state over now, the collector's once the model is on its device."""
        if state_dict:
            self.engine.load_state_dict(state_dict["engine"])
            self._last_validation = state_dict["last_validation"]
            self._restored = state_dict

    def _due(self, step: int) -> bool:
        return step % self.config.every_steps == 0

    def _take(self, signals: Signals, trainer: lightning.Trainer) -> None:
        self.latest = signals
        self.record.append(signals)
        self._publish(self.engine.update(signals), trainer)
        for board in self._boards(trainer):
            for name, value in signals.values.items():
                if name.partition("/")[0] in _CURVES:
                    board.experiment.add_scalar(f"diagnostics/{name}", value, signals.step)

    def _publish(self, update: Update, trainer: lightning.Trainer) -> None:
        for event, alert in update.events():
            data = {key: value for key, value in alert.to_dict().items() if key not in ("rule", "severity", "step")}
            self.events.append(event, step=alert.step, rule=alert.rule, severity=alert.severity, data=data)
            if event in ("alert", "escalated") and alert.is_alarm:
                self._tell(f"{alert.severity}: {alert.message} (since step {alert.since_step}; {alert.rule})")
                for board in self._boards(trainer):
                    board.experiment.add_text(f"alert/{alert.rule}", json.dumps(alert.to_dict(), indent=2), alert.step)
            for listener in self._listeners:
                listener(event, alert)

    def _boards(self, trainer: lightning.Trainer) -> list[TensorBoardLogger]:
        return [one for one in trainer.loggers if isinstance(one, TensorBoardLogger)]

    def _budget(self, device: torch.device) -> int | None:
        if self._memory_budget is not None or device.type != "cuda":
            return self._memory_budget
        return int(torch.cuda.get_device_properties(device).total_memory)
