"""Time training steps and solves on the device at hand, within a budget of seconds."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import fmean, quantiles

import torch

from titans_trm.models.inference import Solution, solve
from titans_trm.models.titans_trm import TitansTRM
from titans_trm.profiling.memory import TrainingSetup, prime_optimizer, train_step
from titans_trm.profiling.training_step import autocast, make_examples


@dataclass(frozen=True, kw_only=True)
class TimingConfig:
    """How often a piece of work is timed."""

    warmup: int = 3  # repetitions before the measured ones
    repeats: int = 10  # measured repetitions; fewer where they would not fit into the budget
    budget_seconds: float = 10.0  # most time for one piece of work; a single repetition always runs to its end

    def __post_init__(self) -> None:
        if self.warmup < 0:
            raise ValueError(f"warmup={self.warmup} is negative; choose 0 or more.")
        if self.repeats < 1:
            raise ValueError(f"repeats={self.repeats} measures nothing; choose 1 or more.")
        if not self.budget_seconds > 0.0:
            raise ValueError(f"budget_seconds={self.budget_seconds} must be greater than 0 (seconds).")


@dataclass(frozen=True)
class Timing:
    """Wall-clock time of one piece of work, in milliseconds, and how well it is known."""

    p50: float
    p95: float
    p99: float
    mean: float
    repeats: int  # measured
    warmup: int  # run before them
    examples: int  # worked on at once
    extrapolated: bool = False  # timed on one supervision step, times their number

    @property
    def examples_per_second(self) -> float:
        """Throughput at the mean time."""
        return 1000.0 * self.examples / self.mean


@dataclass(frozen=True)
class SolveTimings:
    """Time to solve one example at batch 1."""

    full: Timing  # all N_sup supervision steps
    adaptive: Timing | None  # as many steps as the halting head asks for; None: a solve is too long for the budget
    adaptive_steps: int | None  # of the adaptive solve; N_sup if the head never fired, as before training


def time_work(
    work: Callable[[], object],
    config: TimingConfig,
    *,
    examples: int = 1,
    device: torch.device | str = "cpu",
    first: float | None = None,
) -> Timing:
    """Time `work`, waiting for the device after each repetition.

    The first repetition tells how many fit into the budget. Work that is longer than the budget runs once, and that
    cold repetition is the result: `warmup` is 0 then.

    Args:
        work: what is timed.
        config: how often, and how long at most.
        examples: worked on at once, for the throughput.
        device: that `work` runs on.
        first: seconds of a first repetition that has been run already.
    """
    device = torch.device(device)
    first = _seconds(work, device) if first is None else first
    affordable = int(config.budget_seconds / max(first, 1e-9)) - 1
    if affordable < 1:
        return _timing([first], 0, examples)
    warmup = 1 + max(0, min(config.warmup - 1, affordable - config.repeats))
    repeats = min(config.repeats, affordable)
    for _ in range(warmup - 1):
        _seconds(work, device)
    return _timing([_seconds(work, device) for _ in range(repeats)], warmup, examples)


def time_training_step(
    model: TitansTRM, setup: TrainingSetup, config: TimingConfig, first: float | None = None
) -> Timing:
    """Time one optimiser step on one batch, forward, backward and update; changes the weights of `model`.

    `first`, if given, is the time in seconds of a step that has been run already.
    """
    optimizer = prime_optimizer(model, setup)
    device = model.head.weight.device
    return time_work(
        lambda: train_step(model, optimizer, setup), config, examples=setup.batch_size, device=device, first=first
    )


def time_solve(model: TitansTRM, setup: TrainingSetup, config: TimingConfig) -> SolveTimings:
    """Time a full and an adaptive solve of one example, at the precision of `setup`.

    A full solve is N_sup equal supervision steps: where it would not fit into the budget, single steps are timed and
    multiplied.
    """
    device, most = model.head.weight.device, model.config.halting.max_supervision_steps
    examples = make_examples(model.config, 1, device)

    def run(steps: int, adaptive: bool = False) -> None:
        with autocast(device.type, setup.precision):
            last.append(solve(model, examples.inputs, examples.puzzle_ids, adaptive=adaptive, max_steps=steps))

    last: deque[Solution] = deque(maxlen=1)
    if most * _seconds(lambda: run(1), device) > config.budget_seconds:
        return SolveTimings(_scaled(time_work(lambda: run(1), config, device=device), most), None, None)
    full = time_work(lambda: run(most), config, device=device)
    # The last step ends a solve anyway: only a logit above 0 before it saves work.
    if not (last[0].halting_logits[:, :-1] > 0).any():
        return SolveTimings(full, full, most)
    adaptive = time_work(lambda: run(most, adaptive=True), config, device=device)
    return SolveTimings(full, adaptive, int(last[0].steps.item()))


def time_decode(model: TitansTRM, setup: TrainingSetup, config: TimingConfig) -> Timing | None:
    """Time the reading of one more token of one text, with all supervision steps; None where a model cannot stream.

    The text is as long as the attention window by then (else as a training example), and at least a memory chunk of
    tokens is timed where there is time, so that the write which ends a chunk is among them.
    """
    if not model.config.causal:
        return None
    device, precision = model.head.weight.device, setup.precision
    text = make_examples(model.config, 1, device).inputs[:, : model.config.backbone.window]
    state = model.init_state(1)
    with autocast(device.type, precision):
        _, state = model(text, state)

    def read_token() -> None:
        nonlocal state
        with autocast(device.type, precision):
            _, state = model.decode(text[:, 0], state)

    chunk = model.config.memory.chunk_size if model.config.has_memory else 1
    return time_work(read_token, replace(config, repeats=max(config.repeats, chunk)), device=device)


def _scaled(timing: Timing, factor: int) -> Timing:
    values = {name: factor * getattr(timing, name) for name in ("p50", "p95", "p99", "mean")}
    return replace(timing, **values, extrapolated=True)


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    _wait(device)
    start = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _timing(seconds: list[float], warmup: int, examples: int) -> Timing:
    milliseconds = [1000.0 * value for value in seconds]
    points = quantiles(milliseconds, n=100, method="inclusive") if len(milliseconds) > 1 else milliseconds * 99
    mean = fmean(milliseconds)
    return Timing(points[49], points[94], points[98], mean, len(milliseconds), warmup, examples)
