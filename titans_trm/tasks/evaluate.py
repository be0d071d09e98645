"""`evaluate.py`: score the averaged weights of a run on a split or a file, with intervals, full and adaptive."""

import json
import logging
from datetime import datetime
from math import log
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from titans_trm.config import load_config
from titans_trm.data.examples import ExampleSet
from titans_trm.data.load import TaskData, load_data, read_examples
from titans_trm.data.spec import TaskSpec
from titans_trm.data.splits import assert_disjoint
from titans_trm.errors import InputError
from titans_trm.evaluation.positions import position_report
from titans_trm.evaluation.solving import Solved, solve_examples
from titans_trm.evaluation.statistics import mean_interval, ratio_interval, wilson_interval
from titans_trm.models.titans_trm import TitansTRM
from titans_trm.profiling.training_step import autocast
from titans_trm.tasks.build import build_model
from titans_trm.tasks.hardware import device_of, on_this_machine
from titans_trm.training.checkpoint_io import load_model_weights
from titans_trm.training.config import EvaluateConfig, RunConfig
from titans_trm.training.console import format_duration
from titans_trm.training.datamodule import seeded_subset
from titans_trm.training.run_folder import RunFolder, write_json

RUNS = "runs"  # where `run=latest` looks

logger = logging.getLogger(__name__)


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Score a run and write `evaluation/<split>.json` into its folder; return the same."""
    config = on_this_machine(config)
    folder, checkpoint = _find_weights(config)
    run = load_config(folder.path)
    data = load_data(run.data)
    _check_data(data, folder)
    name, examples = _choose_examples(config, run, data, folder)
    if config.max_examples is not None:
        examples = seeded_subset(examples, config.max_examples, config.seed)
    model = build_model(run.model, data.spec)
    step = int(load_model_weights(model, checkpoint)["global_step"])
    if name == "test":
        _write_ledger(folder, checkpoint, step, len(examples))
    modes = {"both": ("full", "adaptive"), "full": ("full",), "adaptive": ("adaptive",)}[config.halting]
    solved = _solve(config, run, model.to(device_of(config)), examples, modes, data.spec)
    result = {
        "split": name,
        "n": len(examples),
        "metrics": _metrics(solved[modes[0]], config, data.spec),
        "halting": {mode: _halting(solved[mode], config) for mode in modes},
        "run": str(folder.path),
        "checkpoint": checkpoint.name,
        "global_step": step,
        "weights": "raw" if run.trainer.ema_decay is None else "ema",
        "confidence": config.confidence,
        "examples_sha256": examples.sha256,
        "seed": config.seed,
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
    }
    if data.spec.headline == "bits_per_byte":
        chunk_size = model.config.memory.chunk_size if model.config.has_memory else None
        result["positions"] = position_report(solved[modes[0]], chunk_size)
    path = folder.evaluation(name)
    write_json(path, result)
    _show(result, path)
    return result


def _find_weights(config: EvaluateConfig) -> tuple[RunFolder, Path]:
    """Return the run and the checkpoint to score: the best by validation, else the last."""
    if config.ckpt is not None:
        checkpoint = Path(config.ckpt)
        if not checkpoint.is_file():
            raise InputError(f"ckpt={checkpoint} does not exist; give a file such as RUN/checkpoints/best.ckpt.")
        return RunFolder.open(checkpoint.resolve().parent.parent), checkpoint
    folder = RunFolder.latest(RUNS, with_checkpoint=True) if config.run == "latest" else RunFolder.open(config.run)
    if not folder.has_checkpoint:
        raise InputError(f"run={folder.path} has no checkpoint yet; wait for its first one, or choose another run.")
    best = folder.best_checkpoint
    return folder, best if best.is_file() else folder.last_checkpoint


def _check_data(data: TaskData, folder: RunFolder) -> None:
    """Refuse data that are not those of the run: its splits would not be the same."""
    then = json.loads(folder.data_manifest.read_text(encoding="utf-8"))["splits"]
    now = data.manifest["splits"]
    changed = [name for name in then if then[name] != now.get(name)]
    if changed:
        raise InputError(
            f"the data have changed since {folder.path} was trained (splits {', '.join(changed)}); "
            "put the files back as they were, or score a file of your own with file=PATH."
        )


def _choose_examples(
    config: EvaluateConfig, run: RunConfig, data: TaskData, folder: RunFolder
) -> tuple[str, ExampleSet]:
    """Return the name and the examples that are scored; training examples and a locked test split are refused."""
    if config.file is not None:
        examples, _ = read_examples(config.file, run.data)
        assert_disjoint(data.train, examples)
        return Path(config.file).name.split(".")[0], examples
    if config.split == "val":
        return "val", data.val
    if not config.final:
        raise InputError(
            f"split=test is locked: every look at it makes it less of a test. Choose on split=val; "
            f"when all is decided, add final=true (written down in {_ledger(folder)})."
        )
    return "test", data.test()


def _write_ledger(folder: RunFolder, checkpoint: Path, step: int, count: int) -> None:
    """Write down a use of the test split; warn of an earlier one."""
    ledger = _ledger(folder)
    ledger.parent.mkdir(exist_ok=True)
    uses = ledger.read_text(encoding="utf-8").splitlines() if ledger.is_file() else []
    if uses:
        logger.warning("the test split was used %d times before for this run; see %s.", len(uses), ledger)
    date = datetime.now().astimezone().isoformat(timespec="seconds")
    entry = {"date": date, "checkpoint": checkpoint.name, "global_step": step, "n": count}
    with ledger.open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")


def _ledger(folder: RunFolder) -> Path:
    return folder.path / "evaluation" / "test_uses.jsonl"


def _solve(
    config: EvaluateConfig,
    run: RunConfig,
    model: TitansTRM,
    examples: ExampleSet,
    modes: tuple[str, ...],
    spec: TaskSpec,
) -> dict[str, Solved]:
    device = next(model.parameters()).device
    solved = {}
    with Progress(console=Console(stderr=True), transient=True) as progress:
        for mode in modes:
            task = progress.add_task(f"solving, {mode} halting", total=len(examples))
            solved[mode] = solve_examples(
                model,
                examples,
                batch_size=config.batch_size,
                ignore_index=spec.ignore_index,
                valid=spec.valid,
                adaptive=mode == "adaptive",
                autocast=autocast(device.type, run.trainer.precision),  # type: ignore[arg-type]
                on_batch=lambda count, task=task: progress.advance(task, count),  # type: ignore[misc]
            )
    return solved


def _metrics(solved: Solved, config: EvaluateConfig, spec: TaskSpec) -> dict[str, dict[str, float]]:
    right, n = int(solved.exact.sum()), len(solved)
    low, high = wilson_interval(right, n, config.confidence)
    found = {"exact_accuracy": {"value": right / n, "ci_low": low, "ci_high": high}}
    for name in ("token_accuracy", "cross_entropy"):
        values = getattr(solved, name).tolist()
        low, high = mean_interval(values, config.confidence, seed=config.seed)
        found[name] = {"value": sum(values) / n, "ci_low": low, "ci_high": high}
    if spec.valid is not None:
        right = int(solved.valid.sum())
        low, high = wilson_interval(right, n, config.confidence)
        found["valid_optimal"] = {"value": right / n, "ci_low": low, "ci_high": high}
    if spec.headline == "bits_per_byte":
        low, high = ratio_interval(
            (solved.cross_entropy.double() * solved.scored / log(2.0)).tolist(),
            solved.scored.tolist(),
            config.confidence,
            seed=config.seed,
        )
        found["bits_per_byte"] = {"value": solved.bits_per_byte, "ci_low": low, "ci_high": high}
    return found


def _halting(solved: Solved, config: EvaluateConfig) -> dict[str, Any]:
    n = len(solved)
    low, high = wilson_interval(int(solved.exact.sum()), n, config.confidence)
    return {
        "exact_accuracy": {"value": float(solved.exact.double().mean()), "ci_low": low, "ci_high": high},
        "mean_supervision_steps": float(solved.steps.double().mean()),
        "net_calls": solved.net_calls,
        "seconds": solved.seconds,
        "examples_per_second": n / solved.seconds,
    }


def _show(result: dict[str, Any], path: Path) -> None:
    level = f"{100 * result['confidence']:g} %"
    weights = f"{result['weights']} weights of {result['checkpoint']}"
    title = f"{result['run']}: {result['split']}, {result['n']:,} examples, {weights}"
    table = Table(title=title, title_justify="left", title_style="bold")
    for column in ("metric", "value", f"{level} interval"):
        table.add_column(column)
    for name, metric in result["metrics"].items():
        table.add_row(name, f"{metric['value']:.4f}", f"{metric['ci_low']:.4f} to {metric['ci_high']:.4f}")
    costs = Table(title="halting", title_justify="left", title_style="bold")
    for column in ("mode", "exact_accuracy", "supervision steps", "net calls", "time", "examples/s"):
        costs.add_column(column)
    for mode, cost in result["halting"].items():
        costs.add_row(
            mode,
            f"{cost['exact_accuracy']['value']:.4f}",
            f"{cost['mean_supervision_steps']:.2f}",
            f"{cost['net_calls']:,}",
            format_duration(cost["seconds"]),
            f"{cost['examples_per_second']:.1f}",
        )
    console = Console()
    console.print(table)
    console.print(costs)
    console.print(str(path), soft_wrap=True, highlight=False)
