"""Solve examples with a run's weights and turn what came out into an `Evaluation` and its files."""

import functools
import hashlib
import io
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from titans_trm.data.examples import ExampleSet
from titans_trm.data.load import TaskData
from titans_trm.evaluation import plots
from titans_trm.evaluation.calibration import halting_calibration
from titans_trm.evaluation.confusion import confusion_csv, describe_confusion, token_confusion
from titans_trm.evaluation.difficulty import describe_difficulty
from titans_trm.evaluation.latency import measure_latency
from titans_trm.evaluation.measures import (
    baselines,
    by_step,
    difficulty_of,
    example_arrays,
    halting_gain,
    halting_mode,
    measure,
    slices,
)
from titans_trm.evaluation.positions import position_report
from titans_trm.evaluation.resampling import Intervals
from titans_trm.evaluation.results import Cost, Evaluation, Guard, Latency
from titans_trm.evaluation.solving import Solved, solve_examples
from titans_trm.models.config import TitansTRMConfig
from titans_trm.models.inference import solve
from titans_trm.models.titans_trm import TitansTRM
from titans_trm.profiling.flops import count_flops
from titans_trm.profiling.training_step import autocast
from titans_trm.tasks.hardware import peak_memory_bytes
from titans_trm.training.config import EvaluateConfig, RunConfig
from titans_trm.training.environment import git_state
from titans_trm.training.run_folder import RunFolder, write_bytes, write_text

_SHOWN = 12  # examples kept whole, to be drawn step by step
_CHUNK = 1 << 20  # bytes hashed at once


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is evaluated: a run's weights, loaded, with what they were trained on."""

    folder: RunFolder
    run: RunConfig
    data: TaskData
    model: TitansTRM  # on its device
    checkpoint: Path
    checkpoint_sha256: str
    global_step: int

    @property
    def weights(self) -> str:
        """Return which weights the checkpoint's model are."""
        return "raw" if self.run.trainer.ema_decay is None else "ema"

    def autocast(self) -> torch.autocast:
        """Return the precision the run was validated at."""
        device = next(self.model.parameters()).device
        return autocast(device.type, self.run.trainer.precision)  # type: ignore[arg-type]


def score(
    subject: Subject,
    name: str,
    examples: ExampleSet,
    guard: Guard,
    config: EvaluateConfig,
    *,
    modes: tuple[str, ...],
    brief: bool = False,
) -> Evaluation:
    """Solve `examples` and write `<name>_examples.npz`, the confusion matrix and the plots into the run's folder.

    Args:
        subject: run, data and model.
        name: of the split or file.
        examples: what is solved.
        guard: what was compared before.
        config: batch size, level of the intervals, latency, plots.
        modes: full, adaptive, or both; everything but `halting` is of the first one.
        brief: no latency and no plots.
    """
    solved = {mode: _solve(subject, examples, config, mode) for mode in modes}
    main, spec = solved[modes[0]], subject.data.spec
    intervals = Intervals(examples.keys, confidence=config.confidence, seed=config.seed)
    targets = examples.batch(torch.arange(len(examples))).targets
    matrix = token_confusion(main.answers, targets, spec.vocab_size, spec.ignore_index)
    labels = list(spec.labels) or [str(token) for token in range(spec.vocab_size)]
    difficulty = difficulty_of(examples, str(subject.data.manifest.get("rating_kind", "rating")))
    state = git_state(Path(__file__).resolve().parents[2])
    result = Evaluation(
        split=name,
        n=len(examples),
        groups=intervals.num_groups,
        headline=spec.headline,
        metrics=measure(main, targets, spec, intervals),
        halting={mode: halting_mode(one, intervals) for mode, one in solved.items()},
        halting_gain=halting_gain(solved["full"], solved["adaptive"], intervals) if len(modes) == 2 else None,
        steps=by_step(main, intervals),
        slices=slices(main, examples, intervals),
        confusion=describe_confusion(matrix, labels),
        calibration=halting_calibration(main, intervals),
        difficulty=describe_difficulty(main, *difficulty, intervals),
        positions=_positions(subject, main) if spec.headline == "bits_per_byte" else None,
        baselines=baselines(examples),
        cost=_cost(subject, examples, config, () if brief else modes),
        guard=guard,
        run=str(subject.folder.path),
        experiment=subject.run.experiment,
        task=spec.name,
        checkpoint=subject.checkpoint.name,
        checkpoint_sha256=subject.checkpoint_sha256,
        global_step=subject.global_step,
        weights=subject.weights,  # type: ignore[arg-type]
        halting_probability=config.halting_probability,
        confidence=config.confidence,
        examples_sha256=examples.sha256,
        file=config.file,
        seed=config.seed,
        commit=state["commit"] if state else None,
        date=datetime.now().astimezone().isoformat(timespec="seconds"),
    )
    arrays = example_arrays(main, examples) | _shown(subject, examples, main)
    files = _write_files(subject.folder, name, arrays, matrix, labels)
    if config.plots and not brief:
        files |= _draw(subject.folder, result, matrix, labels)
    return replace(result, files=files)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _solve(subject: Subject, examples: ExampleSet, config: EvaluateConfig, mode: str) -> Solved:
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(f"solving {examples.name}, {mode} halting", total=len(examples))
        return solve_examples(
            subject.model,
            examples,
            batch_size=config.batch_size,
            ignore_index=subject.data.spec.ignore_index,
            adaptive=mode == "adaptive",
            halt_above=config.halt_above,
            autocast=subject.autocast(),
            valid=subject.data.spec.valid,
            on_batch=lambda count: progress.advance(task, count),
        )


def _positions(subject: Subject, solved: Solved) -> dict[str, Any]:
    config = subject.model.config
    return position_report(solved, config.memory.chunk_size if config.has_memory else None)


def _cost(subject: Subject, examples: ExampleSet, config: EvaluateConfig, timed: tuple[str, ...]) -> Cost:
    """Return what the model costs; latency in the modes `timed`."""
    device = next(subject.model.parameters()).device
    latency: dict[str, Latency | None] = {
        mode: measure_latency(
            subject.model,
            examples,
            adaptive=mode == "adaptive",
            halt_above=config.halt_above,
            most=config.latency_examples,
            seconds=config.latency_seconds,
            autocast=subject.autocast(),
        )
        for mode in timed
    }
    return Cost(
        parameters=subject.model.num_params(),
        weight_bytes=sum(weight.numel() * weight.element_size() for weight in subject.model.parameters()),
        checkpoint_bytes=subject.checkpoint.stat().st_size,
        net_calls_per_step=subject.model.net_calls_per_step,
        flops_per_example=_solve_flops(subject.model.config),
        peak_memory_bytes=peak_memory_bytes(),
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        threads=torch.get_num_threads(),
        latency_full_ms=latency.get("full"),
        latency_adaptive_ms=latency.get("adaptive"),
    )


@functools.lru_cache(maxsize=1)  # seconds of counting; validation and train probe have the same model
def _solve_flops(config: TitansTRMConfig) -> int:
    return count_flops(config).solve


def _shown(subject: Subject, examples: ExampleSet, solved: Solved) -> dict[str, NDArray[Any]]:
    """Return a few examples with the answer after each step: solved ones that took longest, then unsolved ones."""
    right = int(solved.exact.sum())
    half = max(_SHOWN // 2, _SHOWN - (len(solved) - right))
    first = solved.exact_by_step.int().argmax(dim=1)  # step, from 0, at which an example was right for the first time
    solved_rows = torch.argsort(torch.where(solved.exact, first, -1), descending=True, stable=True)[: min(half, right)]
    rows = torch.cat([solved_rows, torch.nonzero(~solved.exact).flatten()[: _SHOWN - len(solved_rows)]])
    batch = examples.batch(rows).to(next(subject.model.parameters()).device)
    training = subject.model.training
    with subject.autocast():
        solution = solve(subject.model.eval(), batch.inputs, batch.puzzle_ids, keep_steps=True)
    subject.model.train(training)
    assert solution.step_answers is not None
    return {
        "shown_rows": rows.numpy(),
        "shown_inputs": examples.inputs[rows].numpy(),
        "shown_targets": examples.targets[rows].numpy(),
        "shown_answers": solution.step_answers.to(solved.answers.dtype).cpu().numpy(),
    }


def _write_files(
    folder: RunFolder, name: str, arrays: dict[str, NDArray[Any]], matrix: NDArray[np.int64], labels: list[str]
) -> dict[str, str]:
    """Write single examples and the confusion matrix; return their paths below the run folder."""
    base = folder.evaluation(name).parent
    packed = io.BytesIO()
    np.savez_compressed(packed, allow_pickle=False, **arrays)
    write_bytes(base / f"{name}_examples.npz", packed.getvalue())
    write_text(base / f"{name}_confusion.csv", confusion_csv(matrix, labels))
    return {"examples": f"evaluation/{name}_examples.npz", "confusion_csv": f"evaluation/{name}_confusion.csv"}


def _draw(folder: RunFolder, result: Evaluation, matrix: NDArray[np.int64], labels: list[str]) -> dict[str, str]:
    base, title = folder.evaluation(result.split).parent, f"{result.experiment}, {result.split}, n = {result.n:,}"
    files = {kind: f"evaluation/{result.split}_{kind}.png" for kind in ("confusion", "calibration", "halting")}
    plots.draw_confusion(base / Path(files["confusion"]).name, matrix, labels, title)
    plots.draw_calibration(base / Path(files["calibration"]).name, result.calibration, title)
    plots.draw_halting(base / Path(files["halting"]).name, result.steps, result.difficulty, title)
    return files
