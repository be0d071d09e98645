"""`metrics.csv`: one row per report of training and per validation, appended and flushed at once."""

import csv
import io
import logging
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback

from titans_trm.errors import InputError
from titans_trm.training.disk import naming
from titans_trm.training.run_folder import write_text

logger = logging.getLogger(__name__)

Row = dict[str, str]

INDEX_COLUMNS = ("step", "split", "examples_finished", "epoch", "wall_seconds")
METRIC_COLUMNS = (
    "loss",
    "cross_entropy",
    "halting_loss",
    "diversity_loss",
    "exact_accuracy",
    "token_accuracy",
    "mean_supervision_steps",
    "halting_std",
    "learning_rate",
    "grad_norm",
    "examples_per_second",
    "num_examples",
    "exact_accuracy_adaptive",
    "mean_supervision_steps_adaptive",
    "exact_accuracy_step_1",
    "valid_optimal",
    "bits_per_byte",
)
TIME_COLUMNS = ("wall_seconds", "examples_per_second")  # differ between two runs of one seed; all others do not


class MetricsCSV(Callback):
    """Write the logged `train/...` and `val/...` metrics as rows, under their bare names.

    A training row is written every `log_every_steps` optimiser steps, a validation row at the end of each validation.
    They are read from `trainer.callback_metrics`; what was not logged is an empty cell. Place this callback after the
    one that logs and before the one that saves checkpoints: a resumed run then drops what came after its checkpoint,
    and its file equals that of an uninterrupted one but for `TIME_COLUMNS`.

    Args:
        path: the file; made on the first start, continued on a resumed one.
        log_every_steps: optimiser steps between two training rows.
        train_examples: size of the training set: an epoch is that many examples finished.
        extra_columns: metrics to write beside `METRIC_COLUMNS`.
    """

    def __init__(
        self, path: str | Path, *, log_every_steps: int, train_examples: int, extra_columns: Iterable[str] = ()
    ) -> None:
        if log_every_steps < 1 or train_examples < 1:
            raise ValueError(
                f"log_every_steps={log_every_steps} or train_examples={train_examples} is too small; choose 1 or more."
            )
        self.path = Path(path)
        self.columns = (*INDEX_COLUMNS, *METRIC_COLUMNS, *extra_columns)
        if len(set(self.columns)) < len(self.columns):
            raise ValueError(f"extra_columns={list(extra_columns)} repeats a column; give new names only.")
        self.log_every_steps = log_every_steps
        self.train_examples = train_examples
        self._earlier_seconds = 0.0  # of the parts of the run before this process
        self._started = time.monotonic()
        self._at_last_step: list[Row] = []  # rows of the newest step, against writing one twice
        self._unknown: set[str] = set()

    @property
    def wall_seconds(self) -> float:
        """Seconds of training and validation so far, resumed parts included up to their last row."""
        return self._earlier_seconds + time.monotonic() - self._started

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Begin the file, or drop the rows that a resumed run is about to write again."""
        if trainer.is_global_zero:
            self.start(trainer.global_step)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write a training row where one is due."""
        step = trainer.global_step
        due = step > 0 and step % self.log_every_steps == 0
        if trainer.is_global_zero and due and not self._has(step, "train"):
            self._append_logged(trainer, pl_module, "train")

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Write a validation row."""
        if trainer.is_global_zero and not trainer.sanity_checking:
            self._append_logged(trainer, pl_module, "val")

    def start(self, step: int) -> None:
        """Keep the rows up to `step`, where the checkpoint stands (0: none), and make the file where there is none.

        Raises:
            InputError: the file has columns this run does not write.
        """
        rows = [row for row in _read_rows(self.path) if int(row["step"]) <= step] if self.path.exists() else []
        unknown = sorted({name for row in rows for name in row} - set(self.columns))
        if unknown:
            raise InputError(
                f"{self.path} has columns this run does not write ({', '.join(unknown)}); "
                "resume with the version and callbacks that wrote it, or in a new run folder."
            )
        write_text(self.path, _lines([self.columns, *([row.get(c, "") for c in self.columns] for row in rows)]))
        self._at_last_step = [row for row in rows if row["step"] == rows[-1]["step"]]
        self._earlier_seconds = float(rows[-1]["wall_seconds"] or 0.0) if rows else 0.0
        self._started = time.monotonic()

    def append(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Write one row; a row that is there already (but for its times) is not written again.

        `values` are metrics under their bare names; other names are left out, with a warning the first time.
        """
        if not self.path.exists():
            self.start(0)
        unknown = sorted(set(values) - set(self.columns) - self._unknown)
        if unknown:
            self._unknown.update(unknown)
            logger.warning(
                "%s has no column for %s; give MetricsCSV extra_columns to keep it.", self.path.name, ", ".join(unknown)
            )
        index = {"step": str(step), "split": split, "wall_seconds": f"{self.wall_seconds:.3f}"}
        row = {name: _cell(value) for name, value in values.items() if name in self.columns} | index
        row = {name: row.get(name, "") for name in self.columns}
        self._at_last_step = [old for old in self._at_last_step if old["step"] == str(step)]
        if any(_untimed(old) == _untimed(row) for old in self._at_last_step):
            return
        self._at_last_step.append(row)
        with naming(self.path), self.path.open("a", encoding="utf-8", newline="") as file:
            file.write(_lines([row.values()]))

    def _has(self, step: int, split: str) -> bool:
        return any(row["step"] == str(step) and row["split"] == split for row in self._at_last_step)

    def _append_logged(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, split: str) -> None:
        prefix = f"{split}/"
        logged = trainer.callback_metrics.items()
        values = {name.removeprefix(prefix): float(value) for name, value in logged if name.startswith(prefix)}
        # Counted by the slots themselves: a logged number would be of the last report, and rounded to fp32.
        slots = getattr(pl_module, "slots", None)
        if slots is not None:
            finished = slots.examples_finished
            values |= {"examples_finished": finished, "epoch": finished / self.train_examples}
        self.append(trainer.global_step, split, values)


def read_metrics(path: str | Path) -> dict[str, list[Any]]:
    """Return the columns of a `metrics.csv`: `step` as int, `split` as text, the rest as float or None.

    A last line cut short by a crash is left out.

    Raises:
        InputError: there is no such file, or it is not of this form.
    """
    if not Path(path).is_file():
        raise InputError(f"{path} does not exist; give the metrics.csv of a run folder.")
    rows = _read_rows(Path(path))
    names = list(rows[0]) if rows else _header(Path(path))
    return {name: [_value(name, row[name]) for row in rows] for name in names}


def _read_rows(path: Path) -> list[Row]:
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    whole = [line for line in lines if line.endswith("\n")]  # only a last line can lack its end
    reader = csv.DictReader(whole)
    if whole and list(reader.fieldnames or [])[:2] != list(INDEX_COLUMNS[:2]):
        raise InputError(f"{path} is not a metrics.csv: its first columns are not step and split.")
    rows = []
    for number, row in enumerate(reader, start=2):
        if None in row or None in row.values() or not row["step"].isdigit():
            width = len(reader.fieldnames or [])
            raise InputError(f"{path}, line {number} does not fit the {width} columns of its header; remove the line.")
        rows.append(row)
    return rows


def _header(path: Path) -> list[str]:
    return next(csv.reader([path.read_text(encoding="utf-8").partition("\n")[0]]), [])


def _lines(rows: Iterable[Iterable[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _cell(value: float) -> str:
    """Return integers whole, others in nine significant digits: all that a logged fp32 number has."""
    return str(value) if isinstance(value, int) else f"{value:.9g}"


def _value(name: str, cell: str) -> Any:
    if name == "split":
        return cell
    if not cell:
        return None
    return int(cell) if name == "step" else float(cell)


def _untimed(row: Row) -> Row:
    return {name: cell for name, cell in row.items() if name not in TIME_COLUMNS}
