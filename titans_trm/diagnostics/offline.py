"""Diagnose a run from what it left on disk: its recorded signals, or, without those, its `metrics.csv`."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from titans_trm.diagnostics.catalogue import build_rules
from titans_trm.diagnostics.config import DiagnosticsConfig
from titans_trm.diagnostics.engine import Engine
from titans_trm.diagnostics.signals import RunFacts, Signals

# Columns of metrics.csv and the signals they come nearest to. Training accuracy there is of finished examples.
_TRAIN_COLUMNS = {
    "loss": "loss/total",
    "cross_entropy": "loss/cross_entropy",
    "halting_loss": "loss/halting",
    "diversity_loss": "loss/diversity",
    "exact_accuracy": "solve/exact",
    "token_accuracy": "solve/token",
    "mean_supervision_steps": "halting/steps",
    "halting_std": "halting/logit_std",
    "learning_rate": "lr",
    "grad_norm": "grad/norm",
}


def replay(signals: Iterable[Signals], facts: RunFacts, config: DiagnosticsConfig) -> Engine:
    """Return the engine after it has seen all signals of a run and its end."""
    engine = Engine(build_rules(facts, config), facts, config)
    for one in signals:
        engine.update(one)
    engine.finish()
    return engine


def signals_from_metrics(columns: Mapping[str, Sequence[Any]]) -> Iterable[Signals]:
    """Yield what the columns of a `metrics.csv` tell, row by row; rules that need more stay silent."""
    for row, step in enumerate(columns["step"]):
        cells = {name: column[row] for name, column in columns.items() if column[row] is not None}
        if cells["split"] == "val":
            yield Signals(step, {f"val/{k}": v for k, v in cells.items() if isinstance(v, float) and k not in _INDEX})
            continue
        values = {_TRAIN_COLUMNS[name]: float(value) for name, value in cells.items() if name in _TRAIN_COLUMNS}
        if "cross_entropy" in cells:
            values["loss/cross_entropy_max"] = values["loss/cross_entropy"]
        if "grad_norm" in cells:
            values["grad/norm_max"] = values["grad/norm"]
        finite = [values.get(name, 0.0) for name in ("loss/total", "grad/norm")]
        values["loss/nonfinite"] = float(any(abs(v) == float("inf") or v != v for v in finite))
        yield Signals(step, values)


_INDEX = ("examples_finished", "epoch", "wall_seconds")
