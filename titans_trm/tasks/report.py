"""`report.html` of a run folder: read what the run and its evaluations left, draw one page."""

import json
import logging
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import yaml

import titans_trm
from titans_trm import schema
from titans_trm.config import load_config
from titans_trm.data.maze.files import SYMBOLS
from titans_trm.data.registry import make_task
from titans_trm.data.sudoku.config import SudokuConfig
from titans_trm.data.sudoku.geometry import Geometry
from titans_trm.errors import InputError
from titans_trm.evaluation.criteria import Verdict
from titans_trm.evaluation.html.boards import Drawing, Solving
from titans_trm.evaluation.html.report import RunFacts, Shown, render_report
from titans_trm.evaluation.results import Evaluation
from titans_trm.training.callbacks.metrics_csv import read_metrics
from titans_trm.training.run_folder import RunFolder, write_text

_ORDER = ("test", "val")  # which evaluation stands first; files and the train probe follow by name
_MOST_SHOWN = 4  # examples drawn of one split

logger = logging.getLogger(__name__)


def write_report(folder: RunFolder) -> Path:
    """Write `report.html` from what lies in the run folder, and return its path.

    Parts that a run does not have are named on the page with the command that makes them; a damaged file is named in a
    warning and left out.
    """
    write_text(folder.report, render_report(_read_facts(folder)))
    return folder.report


def _read_facts(folder: RunFolder) -> RunFacts:
    evaluations = _evaluations(folder)
    return RunFacts(
        run=str(folder.path),
        config=_yaml(folder.config),
        summary=_json(folder.summary),
        environment=_json(folder.environment),
        manifest=_json(folder.data_manifest),
        metrics=read_metrics(folder.metrics) if folder.metrics.is_file() else {},
        checklist=folder.reproducibility.read_text(encoding="utf-8") if folder.reproducibility.is_file() else "",
        evaluations=evaluations,
        shown=[shown for one in evaluations if (shown := _shown(folder, one)) is not None],
        events=_events(folder.path / "diagnostics" / "events.jsonl"),
        verdicts=_verdicts(folder, evaluations),
        robustness=_json(folder.evaluation("robustness")),
        made=f"titans_trm {titans_trm.__version__}, {datetime.now().astimezone():%Y-%m-%d %H:%M}",
    )


def _evaluations(folder: RunFolder) -> list[Evaluation]:
    """Return the evaluations of this run, the one that counts first."""
    found = []
    for path in sorted((folder.path / "evaluation").glob("*.json")):
        values = _json(path)
        if "metrics" not in values or "split" not in values:
            continue  # robustness and other results that are no evaluation
        try:
            found.append(schema.build(Evaluation, values))
        except InputError as error:
            logger.warning("%s is left out of the report: %s Evaluate again to renew it.", path, error)
    return sorted(found, key=lambda one: _ORDER.index(one.split) if one.split in _ORDER else len(_ORDER))


def _verdicts(folder: RunFolder, evaluations: Sequence[Evaluation]) -> list[Verdict]:
    """Return the verdicts on the weights that are shown; one on earlier weights says nothing about these."""
    path = folder.evaluation("criteria")
    shown = {one.split: one.checkpoint_sha256 for one in evaluations}
    found = []
    for split, values in _json(path).items():
        try:
            verdict = schema.build(Verdict, values)
        except InputError as error:
            logger.warning("%s is left out of the report: %s Evaluate again to renew it.", path, error)
            continue
        if shown.get(split) == verdict.checkpoint_sha256:
            found.append(verdict)
    return found


def _shown(folder: RunFolder, evaluation: Evaluation) -> Shown | None:
    """Return the examples that the evaluation kept whole."""
    path = folder.path / evaluation.files.get("examples", f"evaluation/{evaluation.split}_examples.npz")
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as arrays:
            rows = arrays["shown_rows"][:_MOST_SHOWN]
            kept = {name: arrays[f"shown_{name}"][:_MOST_SHOWN].tolist() for name in ("inputs", "targets", "answers")}
            logits = arrays["halting_logits"][rows].tolist()
            numbers, ratings = arrays["index"][rows].tolist(), arrays["difficulty"][rows].tolist()
    except (OSError, ValueError, KeyError) as error:
        logger.warning("%s is left out of the report: %s", path, error)
        return None
    columns = zip(kept["inputs"], kept["targets"], kept["answers"], logits, numbers, ratings, strict=True)
    examples = [
        Solving(f"{evaluation.split}, example {number}, rating {rating}", inputs, targets, answers, logit)
        for inputs, targets, answers, logit, number, rating in columns
    ]
    return Shown(split=evaluation.split, examples=examples, drawing=_drawing(folder, evaluation))


def _drawing(folder: RunFolder, evaluation: Evaluation) -> Drawing:
    """Return how tokens of the run's task look."""
    config = load_config(folder.path).data
    grid = make_task(config).spec.grid_shape
    if isinstance(config, SudokuConfig):
        geometry = Geometry.of(config.size)
        digits = {digit + 1: str(digit) for digit in range(1, config.size + 1)}
        return Drawing({0: "", 1: "", **digits}, grid, (geometry.box_rows, geometry.box_cols))
    if config.task == "maze":
        return Drawing({0: "", **dict(enumerate(SYMBOLS, start=1))}, grid)
    return Drawing({one.token: one.label for one in evaluation.confusion.classes}, grid)


def _events(path: Path) -> list[dict[str, Any]]:
    """Return the events of a run; lines that cannot be read are left out."""
    if not path.is_file():
        return []
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            found.append(value)
    return found


def _json(path: Path) -> dict[str, Any]:
    return _read(path, json.loads)


def _yaml(path: Path) -> dict[str, Any]:
    return _read(path, yaml.safe_load)


def _read(path: Path, parse: Any) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = parse(path.read_text(encoding="utf-8"))
    except (ValueError, yaml.YAMLError) as error:
        logger.warning("%s is left out of the report: it cannot be read (%s).", path, error)
        return {}
    return dict(value) if isinstance(value, Mapping) else {}
