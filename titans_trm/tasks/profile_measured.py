"""What `profile.py` measures on the device at hand: times, memory, operators, timelines, waiting for data."""

import dataclasses
import time
from pathlib import Path
from typing import Any

from titans_trm.data.load import load_data
from titans_trm.errors import InputError
from titans_trm.models.inference import solve
from titans_trm.models.titans_trm import TitansTRM
from titans_trm.profiling.data_share import measure_data_share
from titans_trm.profiling.latency import (
    SolveTimings,
    Timing,
    TimingConfig,
    time_decode,
    time_solve,
    time_training_step,
)
from titans_trm.profiling.measured_memory import measure_training_peak, record_training_step
from titans_trm.profiling.recording import Recording, part_times, record
from titans_trm.profiling.timeline import draw_timeline
from titans_trm.profiling.training_step import autocast, make_examples
from titans_trm.tasks.build import build_datamodule
from titans_trm.tasks.hardware import training_setup
from titans_trm.tasks.out_of_memory import out_of_memory
from titans_trm.training.config import ProfileConfig
from titans_trm.training.ranks import Ranks


def measure_here(config: ProfileConfig, model: TitansTRM, folder: Path) -> dict[str, Any]:
    """Time solves and training steps, record one of each, measure memory; uses the model's weights up.

    Raises:
        InputError: the device has not enough memory; the message names settings that help.
    """
    if not config.profile.measure:
        nothing = {"p50": None, "p95": None, "p99": None}
        empty: dict[str, Any] = {name: {} for name in ("timings", "operators", "parts_ms", "files")}
        return {"latency_ms": nothing, "throughput": None, "data": None, "measured_bytes": None, **empty}
    try:
        return _measured(config, model, folder)
    except RuntimeError as error:
        told = out_of_memory(error, config)
        if told is None:
            raise
        raise told from error


def _measured(config: ProfileConfig, model: TitansTRM, folder: Path) -> dict[str, Any]:
    settings, setup = config.profile, training_setup(config)
    timing = TimingConfig(warmup=settings.warmup, repeats=settings.repeats, budget_seconds=settings.seconds)
    solves: SolveTimings = time_solve(model, setup, timing)
    recordings: dict[str, Recording] = {}
    if settings.trace:
        recordings["solve"] = _record_solve(config, model, folder)
    started = time.perf_counter()
    if settings.trace:
        recordings["training_step"], measured_bytes = record_training_step(
            model, setup, _trace(folder, "training_step")
        )
        seconds = recordings["training_step"].total_ms / 1000.0
    else:
        measured_bytes = measure_training_peak(model, setup)
        seconds = time.perf_counter() - started
    # Where the timing has no time for a second step, the recorded one is the timed one.
    first = seconds if 2 * seconds > settings.seconds else None
    step: Timing = time_training_step(model, setup, timing, first)
    timings = {
        "training_step": step,
        "full_solve": solves.full,
        "adaptive_solve": solves.adaptive,
        "decode": time_decode(model, setup, timing),  # a token of a text
    }
    return {
        # Of one full solve at batch 1: what a person waits for one answer.
        "latency_ms": {"p50": solves.full.p50, "p95": solves.full.p95, "p99": solves.full.p99},
        "throughput": step.examples_per_second,  # supervision steps of one example, trained, per second
        "timings": {
            name: dataclasses.asdict(t) | {"examples_per_second": t.examples_per_second}
            for name, t in timings.items()
            if t is not None
        },
        "adaptive_steps": solves.adaptive_steps,
        "data": _data_share(config, model, step) if settings.data else None,
        "measured_bytes": measured_bytes,
        **_told(config, recordings, folder),
    }


def _record_solve(config: ProfileConfig, model: TitansTRM, folder: Path) -> Recording:
    """Record one supervision step of a solve at batch 1; the others are like it."""
    device = model.head.weight.device
    examples = make_examples(model.config, 1, device)

    def work() -> None:
        with autocast(device.type, training_setup(config).precision):
            solve(model, examples.inputs, examples.puzzle_ids, max_steps=1)

    return record(work, model, trace=_trace(folder, "solve"))


def _trace(folder: Path, name: str) -> Path:
    return folder / "traces" / f"{name}.pt.trace.json.gz"  # the ending that TensorBoard's profiler looks for


def _data_share(config: ProfileConfig, model: TitansTRM, step: Timing) -> dict[str, Any]:
    """Return what waiting for data costs a training step, or why that is not known."""
    try:
        data = load_data(config.data)
    except InputError as error:
        return {"not_measured": str(error)}
    stream = build_datamodule(config, data).make_slots(model, Ranks()).stream
    most = model.config.halting.max_supervision_steps
    share = measure_data_share(stream, batch_size=step.examples, step_ms=step.p50, max_steps=most)
    return dataclasses.asdict(share)


def _told(config: ProfileConfig, recordings: dict[str, Recording], folder: Path) -> dict[str, Any]:
    """Draw the timelines and return what the recordings say."""
    per_recursion = config.model.recursion.num_latent_steps + 1
    titles = {
        "training_step": f"one training step, batch {config.trainer.batch_size}",
        "solve": "one supervision step of a solve, batch 1",
    }
    files: dict[str, Any] = {}
    for name, one in recordings.items():
        picture = folder / f"timeline_{name}.png"
        title = f"{config.model.name}: {titles[name]}, {config.trainer.precision}, {one.total_ms:,.0f} ms when recorded"
        draw_timeline(picture, one, title, calls_per_recursion=per_recursion)
        files[name] = {"timeline": str(picture), "trace": one.trace}
    shown = config.profile.operators
    return {
        "operators": {
            name: [dataclasses.asdict(op) for op in one.operators[:shown]] for name, one in recordings.items()
        },
        "parts_ms": {name: part_times(one.spans) for name, one in recordings.items()},
        "files": files,
    }
