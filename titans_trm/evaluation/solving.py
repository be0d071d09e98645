"""Solve a set of examples and measure it: the one loop behind validation at the end of a run and `evaluate.py`."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from titans_trm.data.examples import ExampleSet
from titans_trm.evaluation.metrics import adaptive_steps
from titans_trm.models.inference import Solution, solve
from titans_trm.models.titans_trm import TitansTRM


@dataclass(frozen=True)
class Solved:
    """What solving a set of n examples gave and cost."""

    exact: Tensor  # (n,) bool, exactly right at the last step run
    token_accuracy: Tensor  # (n,) share of scored tokens right
    cross_entropy: Tensor  # (n,) nats per scored token
    steps: Tensor  # (n,) supervision steps run
    adaptive_exact: Tensor  # (n,) bool, exactly right at the first positive halting logit
    adaptive_steps: Tensor  # (n,) supervision steps until then; of an adaptive run those it ran
    net_calls: int  # passes through the backbone, counted per example
    seconds: float  # wall clock

    def __len__(self) -> int:
        return len(self.exact)


def solve_examples(
    model: TitansTRM,
    examples: ExampleSet,
    *,
    batch_size: int,
    ignore_index: int,
    adaptive: bool = False,
    autocast: torch.autocast | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> Solved:
    """Solve every example once, in order.

    Args:
        model: on its device; its training flag is put back afterwards.
        examples: what to solve.
        batch_size: examples at once.
        ignore_index: targets that are not scored.
        adaptive: let each example stop by its halting logit and leave the batch.
        autocast: precision of the products; None for that of the weights.
        on_batch: told the number of examples after each batch, for a progress bar.
    """
    device = next(model.parameters()).device
    rows: list[tuple[Tensor, ...]] = []
    net_calls = 0
    training = model.training
    model.eval()
    started = time.perf_counter()
    for start in range(0, len(examples), batch_size):
        batch = examples.batch(torch.arange(start, min(start + batch_size, len(examples)))).to(device)
        with autocast or torch.autocast(device.type, enabled=False):
            solution = solve(model, batch.inputs, batch.puzzle_ids, adaptive=adaptive, keep_steps=True)
        rows.append(tuple(row.cpu() for row in _score(solution, batch.targets, ignore_index)))
        net_calls += solution.net_calls
        if on_batch is not None:
            on_batch(len(batch))
    model.train(training)
    exact, accuracy, nats, steps, at_stop, stop = (torch.cat(column) for column in zip(*rows, strict=True))
    return Solved(exact, accuracy, nats, steps, at_stop, stop, net_calls, time.perf_counter() - started)


def _score(solution: Solution, targets: Tensor, ignore_index: int) -> tuple[Tensor, ...]:
    """Return the columns of `Solved` (B,), from `exact` to `adaptive_steps`."""
    assert solution.step_answers is not None
    scored = targets != ignore_index
    counts = scored.sum(dim=1).clamp_min(1)
    right = ((solution.answers == targets) & scored).sum(dim=1)
    nats = F.cross_entropy(
        solution.logits.float().transpose(1, 2), targets, ignore_index=ignore_index, reduction="none"
    ).sum(dim=1)
    stop = adaptive_steps(solution.halting_logits)
    at_stop = solution.step_answers[torch.arange(len(stop), device=stop.device), stop - 1]
    return (
        right == scored.sum(dim=1),
        right / counts,
        nats / counts,
        solution.steps,
        ((at_stop == targets) | ~scored).all(dim=1),
        stop,
    )
