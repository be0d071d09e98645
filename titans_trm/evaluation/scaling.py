"""Accuracy that compute buys after training: more supervision steps, early exits, noisy rollouts, symmetric views.

- Steps: more (or fewer) supervision steps than trained.
- Halting, convergence: an example stops at its first positive halting logit, or once its answer has stayed the same.
- Rollouts: the recursion starts K times from initial y and z with Gaussian noise, the first time without; the answer
  with the highest halting logit counts (PTRM, arXiv 2605.19943, adds its noise at every step).
- Votes: V views of the question under symmetries of the task, the question itself first; the answer most views agree
  on counts.

Every method is really run, each example's cost is counted in net calls and in CPU-seconds of this process.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from titans_trm.data.batch import Batch
from titans_trm.data.examples import ExampleSet
from titans_trm.data.spec import TaskSpec, Undo
from titans_trm.evaluation.resampling import Intervals
from titans_trm.evaluation.results import Estimate
from titans_trm.evaluation.voting import rank_candidates
from titans_trm.models.inference import Solution, solve
from titans_trm.models.titans_trm import TitansTRM
from titans_trm.models.trm_wrapper import Carry

Method = Literal["steps", "halting", "convergence", "rollouts", "votes"]


class Words(NamedTuple):
    """How a method and one of its settings are called."""

    label: str
    setting: str

    def format(self, number: int) -> str:
        """Return the words for one setting."""
        return self.setting.format(number)


METHODS: dict[Method, Words] = {
    "steps": Words("supervision steps", "{} steps"),
    "halting": Words("halting head", "halting, {} at most"),
    "convergence": Words("convergence", "unchanged for {}"),
    "rollouts": Words("noisy rollouts", "{} noisy rollouts"),
    "votes": Words("symmetry votes", "{} views vote"),
}


@runtime_checkable
class Symmetric(Protocol):
    """A task whose questions can be shown otherwise and answered as they are."""

    def view(self, inputs: Tensor, generator: torch.Generator) -> tuple[Tensor, Undo]:
        """Return each question `(B, N)` under a random symmetry, and what leads answers `(B, N)` back."""
        ...


@dataclass(frozen=True, kw_only=True)
class ScalingPoint:
    """One way to spend compute on all examples."""

    method: Method
    setting: int  # supervision steps; most steps (halting); steps unchanged (convergence); rollouts; views
    accuracy: Estimate  # share right
    gain: Estimate  # over the trained number of steps, run once, on the same examples
    best_possible: Estimate | None  # share with a right answer among those chosen from; null where there is one only
    supervision_steps: float  # of an example, mean over examples and sum over rollouts or views
    net_calls: float  # of an example
    cpu_seconds: float  # of an example, all threads
    frontier: bool = False  # no other point is as accurate for fewer net calls, or more accurate for as many


@dataclass(frozen=True, kw_only=True)
class Spending:
    """What is tried."""

    steps: Sequence[int]  # supervision steps
    patience: Sequence[int]  # steps an answer must stay the same, before convergence ends an example
    rollouts: Sequence[int]
    noise: float  # standard deviation of what is added to initial y and z, whose entries are of order 1
    views: Sequence[int]


@dataclass
class _Outcome:
    """One way's results on n examples."""

    right: NDArray[np.bool_]  # (n,)
    steps: NDArray[np.float64]  # (n,) supervision steps spent
    cpu_seconds: float
    possible: NDArray[np.bool_] | None = None


def scale_compute(
    model: TitansTRM,
    examples: ExampleSet,
    spec: TaskSpec,
    spending: Spending,
    *,
    symmetric: Symmetric | None,
    batch_size: int,
    autocast: torch.autocast | None = None,
    confidence: float = 0.95,
    seed: int = 0,
    on_batch: Callable[[int], None] | None = None,
) -> list[ScalingPoint]:
    """Solve `examples` in every way and return the points of the curve, by method, cheapest first.

    Args:
        model: on its device; its training flag is put back afterwards.
        examples: what is solved.
        spec: ignore index, and the task's own judgement where several answers are right.
        spending: what is tried; the trained number of steps is always among the steps.
        symmetric: shows questions otherwise; None leaves the votes out.
        batch_size: examples at once.
        autocast: precision of the products; None for that of the weights.
        confidence: level of the intervals.
        seed: of noise, views and resampling.
        on_batch: told the number of examples after each pass over a batch, for a progress bar.
    """
    trained = model.config.halting.max_supervision_steps
    runner = _Runner(model, examples, spec, batch_size, autocast, on_batch)
    training = model.training
    model.eval()
    steps = sorted({*spending.steps, trained})
    outcomes: dict[tuple[Method, int], _Outcome] = {
        ("steps", number): one for number, one in runner.by_step(steps).items()
    }
    for number in steps:
        if number >= trained:
            outcomes["halting", number] = runner.run(adaptive=True, max_steps=number)
    for number in sorted(set(spending.patience)):
        outcomes["convergence", number] = runner.run(patience=number, max_steps=steps[-1])
    outcomes |= {("rollouts", k): one for k, one in runner.rollouts(spending.rollouts, spending.noise, seed).items()}
    if symmetric is not None:
        outcomes |= {("votes", v): one for v, one in runner.votes(spending.views, symmetric, seed).items()}
    model.train(training)
    intervals = Intervals(examples.keys, confidence=confidence, seed=seed)
    base = outcomes["steps", trained].right
    calls = model.net_calls_per_step
    points = [_point(method, number, one, base, calls, intervals) for (method, number), one in outcomes.items()]
    return [replace(point, frontier=not any(_beats(other, point) for other in points)) for point in points]


def noisy_carry(model: TitansTRM, batch: int, length: int, noise: float, generator: torch.Generator) -> Carry:
    """Return an initial carry whose y and z have Gaussian noise of standard deviation `noise` added.

    It counts as begun (one step done), so that learned initial values do not replace it.
    """
    carry = model.initial_carry(batch, length)
    y, z = (start + noise * torch.randn(start.shape, generator=generator).to(start) for start in (carry.y, carry.z))
    return replace(carry, y=y, z=z, steps=torch.ones_like(carry.steps))


class _Runner:
    """Solves the examples again and again, each time in another way."""

    def __init__(
        self,
        model: TitansTRM,
        examples: ExampleSet,
        spec: TaskSpec,
        batch_size: int,
        autocast: torch.autocast | None,
        on_batch: Callable[[int], None] | None,
    ) -> None:
        self.model, self.spec, self.on_batch = model, spec, on_batch
        self.device = next(model.parameters()).device
        self.autocast = autocast or torch.autocast(self.device.type, enabled=False)
        rows = torch.arange(len(examples))
        self.batches = [examples.batch(part) for part in rows.split(batch_size)]

    def run(self, *, adaptive: bool = False, patience: int | None = None, max_steps: int) -> _Outcome:
        """Let each example stop by itself."""
        right, steps, seconds = [], [], 0.0
        for batch in self.batches:
            started = time.process_time()
            solution = self._solve(batch, adaptive=adaptive, patience=patience, max_steps=max_steps)
            seconds += time.process_time() - started
            right.append(self._right(batch, solution.answers.cpu()))
            steps.append(solution.steps.cpu())
        return _Outcome(torch.cat(right).numpy(), torch.cat(steps).double().numpy(), seconds)

    def by_step(self, wanted: Sequence[int]) -> dict[int, _Outcome]:
        """Run the most steps once, and return the answers and the time as they stand after each of `wanted`."""
        right: dict[int, list[Tensor]] = {number: [] for number in wanted}
        seconds = dict.fromkeys(wanted, 0.0)
        for batch in self.batches:
            times = [time.process_time()]
            solution = self._solve(batch, max_steps=max(wanted), keep_steps=True, on_step=partial(_stamp, times))
            assert solution.step_answers is not None
            for number in wanted:
                right[number].append(self._right(batch, solution.step_answers[:, number - 1].cpu()))
                seconds[number] += times[number] - times[0]
        return {
            number: _Outcome(found := torch.cat(parts).numpy(), np.full(len(found), float(number)), seconds[number])
            for number, parts in right.items()
        }

    def rollouts(self, wanted: Sequence[int], noise: float, seed: int) -> dict[int, _Outcome]:
        """Start several times, the first time without noise; the first k of them are what k rollouts are."""
        length = self.batches[0].inputs.shape[1]
        right, logits, seconds = [], [], [0.0]
        for number in range(max(wanted, default=0)):
            generator = torch.Generator().manual_seed(1_000_003 * seed + number)
            found, halting = [], []
            started_at = seconds[-1]
            for batch in self.batches:
                started = time.process_time()
                start = noisy_carry(self.model, len(batch), length, noise, generator) if number else None
                solution = self._solve(batch, start=start)
                started_at += time.process_time() - started
                found.append(self._right(batch, solution.answers.cpu()))
                halting.append(solution.halting_logits[:, -1].cpu())
            right.append(torch.cat(found))
            logits.append(torch.cat(halting))
            seconds.append(started_at)
        return {
            k: self._chosen(torch.stack(right[:k]), torch.stack(logits[:k]), seconds[k]) for k in sorted(set(wanted))
        }

    def votes(self, wanted: Sequence[int], symmetric: Symmetric, seed: int) -> dict[int, _Outcome]:
        """Show each question in several views, itself first; the first v of them vote."""
        most = max(wanted, default=0)
        answers, halting, seconds = [], [], [0.0]
        for number in range(most):
            generator = torch.Generator().manual_seed(1_000_003 * seed + number)
            found, logits = [], []
            spent = seconds[-1]
            for batch in self.batches:
                started = time.process_time()
                shown, undo = symmetric.view(batch.inputs, generator) if number else (batch.inputs, lambda same: same)
                solution = self._solve(replace(batch, inputs=shown))
                found.append(undo(solution.answers.cpu()))
                spent += time.process_time() - started
                logits.append(solution.halting_logits[:, -1].double().sigmoid().cpu())
            answers.append(torch.cat(found))
            halting.append(torch.cat(logits))
            seconds.append(spent)
        if not most:
            return {}
        views, sure = torch.stack(answers, dim=1), torch.stack(halting, dim=1)  # (n, V, N), (n, V)
        return {v: self._elected(views[:, :v], sure[:, :v], seconds[v]) for v in sorted(set(wanted))}

    def _chosen(self, right: Tensor, logits: Tensor, seconds: float) -> _Outcome:
        """Let the halting head choose among rollouts: `right` and `logits` (K, n)."""
        count = len(right)
        best = right.gather(0, logits.argmax(dim=0, keepdim=True)).squeeze(0)
        steps = np.full(len(best), float(count * self.model.config.halting.max_supervision_steps))
        return _Outcome(best.numpy(), steps, seconds, right.any(dim=0).numpy() if count > 1 else None)

    def _elected(self, views: Tensor, sure: Tensor, seconds: float) -> _Outcome:
        """Let answers (n, V, N) vote; the mean halting probability `sure` (n, V) breaks ties."""
        grids = views.numpy()
        winners = [rank_candidates(list(one), who.tolist())[0].grid for one, who in zip(grids, sure, strict=True)]
        count = grids.shape[1]
        right = self._right_of_all(torch.from_numpy(np.stack(winners)))
        possible = torch.stack([self._right_of_all(views[:, v]) for v in range(count)]).any(dim=0)
        steps = np.full(len(grids), float(count * self.model.config.halting.max_supervision_steps))
        return _Outcome(right.numpy(), steps, seconds, possible.numpy() if count > 1 else None)

    def _solve(self, batch: Batch, **options: object) -> Solution:
        there = batch.to(self.device)
        with self.autocast:
            solution = solve(self.model, there.inputs, there.puzzle_ids, **options)  # type: ignore[arg-type]
        if self.on_batch is not None:
            self.on_batch(len(batch))
        return solution

    def _right(self, batch: Batch, answers: Tensor) -> Tensor:
        """Return which answers (B, N) are right, (B,) bool: by the rules where the task has some, else exactly."""
        if self.spec.valid is not None:
            return self.spec.valid(batch.inputs, answers)
        return ((answers == batch.targets) | (batch.targets == self.spec.ignore_index)).all(dim=1)

    def _right_of_all(self, answers: Tensor) -> Tensor:
        sizes = [len(batch) for batch in self.batches]
        return torch.cat([self._right(*pair) for pair in zip(self.batches, answers.split(sizes), strict=True)])


def _point(
    method: Method, number: int, one: _Outcome, base: NDArray[np.bool_], calls: int, intervals: Intervals
) -> ScalingPoint:
    steps = float(one.steps.mean())
    return ScalingPoint(
        method=method,
        setting=number,
        accuracy=intervals.proportion(one.right),
        gain=intervals.means(one.right.astype(float) - base)[0],
        best_possible=None if one.possible is None else intervals.proportion(one.possible),
        supervision_steps=steps,
        net_calls=steps * calls,
        cpu_seconds=one.cpu_seconds / len(one.right),
    )


def _stamp(times: list[float]) -> None:
    times.append(time.process_time())


def _beats(other: ScalingPoint, point: ScalingPoint) -> bool:
    better, mine = other.accuracy.value or 0.0, point.accuracy.value or 0.0
    no_worse = better >= mine and other.net_calls <= point.net_calls
    return no_worse and (better > mine or other.net_calls < point.net_calls)
