"""The numbers of `titans-trm data stats`: what is in the splits, and how fast examples come and go."""

import dataclasses
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from titans_trm.data.config import CountFields
from titans_trm.data.examples import ExampleSet
from titans_trm.data.fitted import token_counts
from titans_trm.data.load import TaskData, load_data
from titans_trm.data.registry import make_task
from titans_trm.data.spec import PAD
from titans_trm.data.stream import ExampleStream
from titans_trm.errors import InputError
from titans_trm.models.titans_trm import TitansTRM
from titans_trm.profiling.training_step import forward, make_carry, make_examples
from titans_trm.training.config import RunConfig
from titans_trm.training.console import format_bytes

ENOUGH = 20.0  # times the consumption of training that a generator should reach
_SECONDS = 3.0  # spent on each measurement, at least one round
_GENERATED = 512  # examples of the first round of generation
_SERVED = 1024  # examples of one round of the stream
_BATCH = 8  # examples of a measured training step


def collect_stats(config: RunConfig, run: Path | None = None) -> dict[str, Any]:
    """Return splits in numbers, shares of target tokens, and lines on speed.

    `run` is a run folder whose measured consumption counts; without one a training step is timed here.
    """
    data = load_data(config.data)
    splits = {"train": data.train, "val": data.val, "test": data.test()}
    counts = token_counts(data.train.targets, data.spec.vocab_size)
    counts[PAD] = 0.0
    shares = sorted(enumerate((counts / counts.sum()).tolist()), key=lambda pair: -pair[1])
    return {
        "splits": {name: _describe(examples) for name, examples in splits.items()},
        "label_shares": [(token, share) for token, share in shares if share > 0],
        "speed": _speed(config, data, run),
    }


def _describe(examples: ExampleSet) -> dict[str, str]:
    ratings = np.quantile(examples.ratings.numpy(), [0.0, 0.25, 0.5, 0.75, 1.0])
    scored = (examples.targets != PAD).sum(dim=1).double().mean()
    size = examples.inputs.nbytes + examples.targets.nbytes
    return {
        "examples": f"{len(examples):,}",
        "groups": f"{len(set(examples.keys)):,}",
        "sources": f"{len(set(examples.sources)):,}",
        "tokens of an example": f"{examples.inputs.shape[1]:,}",
        "scored tokens, mean": f"{float(scored):,.1f}",
        "rating: min, quartiles, max": " ".join(f"{value:g}" for value in ratings),
        "in memory": format_bytes(size),
    }


def _speed(config: RunConfig, data: TaskData, run: Path | None) -> list[str]:
    served = _served_per_second(data)
    lines = [f"stream: {served:,.0f} examples per second served, augmentation included"]
    generated = _generated_per_second(config)
    if generated is not None:
        lines.append(f"generator: {generated:,.0f} examples per second on one core")
    consumed, how = _consumed_per_second(config, data) if run is None else _consumed_by(run)
    lines.append(f"training: {consumed:,.1f} examples per second, {how}")
    supply, name = (served, "the stream") if generated is None else (min(served, generated), "the slower of both")
    verdict = "keeps up" if supply >= ENOUGH * consumed else "does not keep up; prepare the data ahead of training"
    lines.append(f"ratio: {name} is {supply / consumed:,.1f} times as fast as training (wanted: {ENOUGH:g}): {verdict}")
    return lines


def _served_per_second(data: TaskData) -> float:
    stream = ExampleStream(data.train, seed=0, augment=data.augment)
    stream.take(1)
    return _rate(lambda: len(stream.take(_SERVED)))


def _generated_per_second(config: RunConfig) -> float | None:
    """Time the generator on other seeds, never from the cache; None for data that are not generated."""
    if config.data.resolved_source != "generated" or not isinstance(config.data, CountFields):
        return None
    seed, count = config.data.seed, _GENERATED

    def generate() -> int:
        nonlocal seed, count
        seed, count = seed + 1, 2 * count
        with tempfile.TemporaryDirectory() as folder:
            small = dataclasses.replace(
                config.data,
                seed=seed,
                num_train=count,
                num_val=1,
                num_test=1,
                cache_dir=folder,  # type: ignore[call-arg]
            )
            make_task(small).splits(small)
        return count + 2

    try:
        return _rate(generate)
    except InputError:  # a space so small that doubling exhausts it needs no speed
        return None


def _consumed_per_second(config: RunConfig, data: TaskData) -> tuple[float, str]:
    """Time forward and backward of one supervision step; an example lives between one step and all of them."""
    spec = data.spec
    model = TitansTRM(
        config.model.build(
            vocab_size=spec.vocab_size, seq_len=spec.seq_len, causal=spec.causal, num_puzzle_ids=spec.num_puzzle_ids
        )
    )
    examples, carry = make_examples(model.config, _BATCH), make_carry(model, _BATCH)

    def step() -> int:
        loss, _ = forward(model, examples, carry, config.loss, "32-true")
        loss.backward()
        return _BATCH

    step()
    steps = config.model.halting.max_supervision_steps
    how = f"timed here: {config.model.name}, {torch.get_num_threads()} threads, all {steps} supervision steps each"
    return _rate(step) / steps, how


def _consumed_by(run: Path) -> tuple[float, str]:
    try:
        summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
        return summary["examples_finished"] / summary["wall_seconds"], f"measured over the run {run}"
    except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError):
        raise InputError(f"--run {run}: has no summary.json of a finished run; give another run folder.") from None


def _rate(work: Any) -> float:
    """Return how many examples a second `work`, which returns a count, gets through."""
    done, started = 0, time.perf_counter()
    while (seconds := time.perf_counter() - started) < _SECONDS or not done:
        done += work()
    return done / seconds
