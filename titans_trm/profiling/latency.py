"""Time training steps and solves on the device at hand, within a budget of seconds."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean, quantiles

import torch

from titans_trm.models.inference import solve
from titans_trm.models.titans_trm import TitansTRM
from titans_trm.profiling.memory import TrainingSetup, prime_optimizer, train_step
from titans_trm.profiling.training_step import autocast, make_examples


@dataclass(frozen=True, kw_only=True)
class TimingConfig:
    """How often a piece of work is timed."""

    warmup: int = 3  # repetitions before the measured ones
    repeats: int = 10  # measured repetitions; fewer where they would not fit into the budget
    budget_seconds: float = 20.0  # most time for one piece of work; a single repetition always runs to its end

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

    @property
    def examples_per_second(self) -> float:
        """Throughput at the mean time."""
        return 1000.0 * self.examples / self.mean


@dataclass(frozen=True)
class SolveTimings:
    """Time to solve one example at batch 1."""

    full: Timing  # all N_sup supervision steps
    adaptive: Timing  # as many steps as the halting head asks for
    adaptive_steps: int  # supervision steps that the adaptive solve ran
    halts: bool  # False: the head never fired (untrained, as a rule), so adaptive is full and was not timed again


def time_work(
    work: Callable[[], object], config: TimingConfig, *, examples: int = 1, device: torch.device | str = "cpu"
) -> Timing:
    """Time `work`, waiting for the device after each repetition.

    The first repetition tells how many fit into the budget. Work that is longer than the budget runs once, and that cold
    repetition is the result: `warmup` is 0 then.
    """
    device = torch.device(device)
    first = _seconds(work, device)
    affordable = int(config.budget_seconds / max(first, 1e-9)) - 1
    if affordable < 1:
        return _timing([first], 0, examples)
    warmup = 1 + max(0, min(config.warmup - 1, affordable - config.repeats))
    repeats = min(config.repeats, affordable)
    for _ in range(warmup - 1):
        _seconds(work, device)
    return _timing([_seconds(work, device) for _ in range(repeats)], warmup, examples)


def time_training_step(model: TitansTRM, setup: TrainingSetup, config: TimingConfig) -> Timing:
    """Time one optimiser step on one batch, forward, backward and update; changes the weights of `model`."""
    optimizer = prime_optimizer(model, setup)
    device = model.head.weight.device
    return time_work(lambda: train_step(model, optimizer, setup), config, examples=setup.batch_size, device=device)


def time_solve(model: TitansTRM, setup: TrainingSetup, config: TimingConfig) -> SolveTimings:
    """Time a full and an adaptive solve of one example, at the precision of `setup`."""
    device = model.head.weight.device
    examples = make_examples(model.config, 1, device)

    def run(adaptive: bool) -> torch.Tensor:
        with autocast(device.type, setup.precision):
            solution = solve(model, examples.inputs, examples.puzzle_ids, adaptive=adaptive)
        halting.append(solution.halting_logits)
        return solution.steps

    halting: list[torch.Tensor] = []
    full = time_work(lambda: run(adaptive=False), config, device=device)
    # The last step of a full solve ends it anyway: only a logit above 0 before it saves work.
    halts = bool((halting[0][:, :-1] > 0).any())
    if not halts:
        return SolveTimings(full, full, model.config.halting.max_supervision_steps, halts)
    steps = int(run(adaptive=True).item())
    return SolveTimings(full, time_work(lambda: run(adaptive=True), config, device=device), steps, halts)


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
