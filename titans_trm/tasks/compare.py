"""`titans-trm compare`: read the evaluations of runs, group them by configuration, write one table and one picture."""

import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from titans_trm.config import compose, load_config
from titans_trm.errors import InputError
from titans_trm.evaluation.comparison import (
    BY_EXAMPLE,
    Comparison,
    Scored,
    compare_groups,
    comparison_csv,
    comparison_markdown,
    draw_comparison,
    table_cells,
)
from titans_trm.evaluation.results import Evaluation
from titans_trm.tasks.evaluate import evaluate, read_evaluation
from titans_trm.training.run_folder import RunFolder, runs_under, write_json, write_text

# Keys that say nothing about what was trained; runs that differ in these alone are seeds of one row.
_NOT_THE_RECIPE = (
    "seed",
    "run_dir",
    "overrides",
    "resume",
    "sweep",
    "tags",
    "debug",
    "hardware",
    "callbacks",
    "logger",
)
_ON_SCREEN = (0, 2, 3, 4, 6, 7)  # columns; all of them are in the Markdown file
_NAME_WIDTH = 16  # characters of a name before it is wrapped
_MOST_NAMED = 3  # differing keys in the name of a row

Flat = dict[str, Any]


def compare(
    paths: Sequence[str], *, split: str, metric: str, confidence: float, out: str | Path, evaluate_missing: bool
) -> Comparison:
    """Compare runs, write `comparison.{json,csv,md,png}` into `out`, show the table and return it.

    Args:
        paths: run folders, or folders with runs below them, such as multiruns; the first run's row comes first.
        split: whose evaluations are read.
        metric: one of the evaluations' metrics.
        confidence: level of the intervals.
        out: folder of the results.
        evaluate_missing: evaluate runs on validation where that was not done yet.

    Raises:
        InputError: no run, a run that is not evaluated, an unknown metric, or two runs of one row with the same seed.
    """
    folders = _folders(paths)
    results = _results(folders, split, evaluate_missing)
    names = _group_names([_recipe(folder) for folder in folders])
    groups: dict[str, list[Scored]] = {}
    for folder, result, name in zip(folders, results, names, strict=True):
        groups.setdefault(name, []).append(_scored(folder, result, metric))
    for name, runs in groups.items():
        seeds = [run.seed for run in runs]
        if len(set(seeds)) < len(seeds):
            twice = [run.path for run in runs if seeds.count(run.seed) > 1]
            raise InputError(
                f"{' and '.join(twice)} are the same recipe ({name}) with the same seed; give one of them."
            )
    table = compare_groups(groups, split=split, metric=metric, confidence=confidence)
    target = Path(out)
    write_json(target / "comparison.json", dataclasses.asdict(table))
    write_text(target / "comparison.csv", comparison_csv(table))
    write_text(target / "comparison.md", comparison_markdown(table))
    draw_comparison(table, target / "comparison.png")
    _show(table, target)
    return table


def _folders(paths: Sequence[str]) -> list[RunFolder]:
    """Return the runs at or below `paths`, each once, in their order."""
    found: dict[Path, RunFolder] = {}
    for path in paths:
        if not Path(path).is_dir():
            raise InputError(f"{path} does not exist; give run folders, or a folder of a multirun.")
        below = sorted(runs_under(Path(path)), key=lambda run: run.path)
        if not below:
            raise InputError(f"{path} holds no run: there is no config.yaml in it or below.")
        found |= {run.path.resolve(): run for run in below if run.path.resolve() not in found}
    return list(found.values())


def _results(folders: Sequence[RunFolder], split: str, evaluate_missing: bool) -> list[Evaluation]:
    """Return the evaluation of each run; validation is made up for on request."""
    found = [read_evaluation(folder, split) for folder in folders]
    lacking = [folder for folder, result in zip(folders, found, strict=True) if result is None]
    if lacking and not (evaluate_missing and split == "val"):
        final = " final=true" if split == "test" else ""
        commands = [
            f"  python evaluate.py run={shlex.quote(str(folder.path))} split={split}{final}" for folder in lacking
        ]
        cure = ", or add --evaluate" if split == "val" else ""
        raise InputError(
            f"{len(lacking)} of {len(folders)} runs are not evaluated on {split}; run{cure}:\n" + "\n".join(commands)
        )
    quick = ["criteria=none", "latency_examples=0", "plots=false", "report=false", "split=val"]
    for folder in lacking:
        evaluate(compose("evaluate", [f"run='{folder.path}'", *quick]))
    results = [result or read_evaluation(folder, split) for folder, result in zip(folders, found, strict=True)]
    return [result for result in results if result is not None]


def _scored(folder: RunFolder, result: Evaluation, metric: str) -> Scored:
    if metric not in result.metrics:
        raise InputError(f"metric={metric} is not in {folder.path}; choose from {', '.join(result.metrics)}.")
    estimate = result.metrics[metric]
    if estimate.value is None:
        raise InputError(f"metric={metric} is not defined on the examples of {folder.path}; choose another.")
    path = folder.path / result.files["examples"]
    try:
        with np.load(path, allow_pickle=False) as arrays:
            keys = [key.decode() for key in arrays["key"]]
            values = arrays[BY_EXAMPLE[metric]].astype(float) if metric in BY_EXAMPLE else None
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path} cannot be read ({error}); evaluate the run again.") from None
    return Scored(
        path=str(folder.path),
        seed=load_config(folder.path).seed,
        estimate=estimate,
        examples_sha256=result.examples_sha256,
        keys=keys,
        values=values,
    )


def _recipe(folder: RunFolder) -> Flat:
    """Return what was trained as flat keys, without what may differ between the seeds of a row."""
    flat = _flat(load_config(folder.path).to_dict())
    flat.pop("trainer.num_threads", None)
    return {key: value for key, value in flat.items() if key.partition(".")[0] not in _NOT_THE_RECIPE}


def _group_names(recipes: Sequence[Flat]) -> list[str]:
    """Return a name for each recipe: the experiment, with what differs between recipes of the same experiment."""
    names = []
    for recipe in recipes:
        like = [other for other in recipes if other.get("experiment") == recipe.get("experiment")]
        keys = sorted({key for other in like for key in {*other, *recipe} if other.get(key) != recipe.get(key)})
        base = str(recipe.get("experiment"))
        named = [f"{key.rpartition('.')[2]}={recipe.get(key)}" for key in keys[:_MOST_NAMED]]
        names.append(" ".join([base, *named]))
    for name in set(names):
        same = [number for number, other in enumerate(names) if other == name]
        kinds: list[Flat] = []
        for number in same:  # recipes that differ in more keys than are named
            if recipes[number] not in kinds:
                kinds.append(recipes[number])
            if (place := kinds.index(recipes[number])) > 0:
                names[number] = f"{name} ({place + 1})"
    return names


def _flat(values: Any, prefix: str = "") -> Flat:
    if not isinstance(values, dict):
        return {prefix: values}
    found: Flat = {}
    for key, value in values.items():
        found |= _flat(value, f"{prefix}.{key}" if prefix else str(key))
    return found


def _show(table: Comparison, folder: Path) -> None:
    head, rows = table_cells(table)
    shown = Table(title=f"{table.metric} on {table.split}", title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    for number in _ON_SCREEN:
        shown.add_column(head[number], justify="right" if number else "left", min_width=0 if number else _NAME_WIDTH)
    for row in rows:
        shown.add_row(*(row[number] for number in _ON_SCREEN))
    console = Console()
    console.print(shown)
    for note in table.notes:
        console.print(note, soft_wrap=True, highlight=False)
    console.print(str(folder / "comparison.md"), soft_wrap=True, highlight=False)
