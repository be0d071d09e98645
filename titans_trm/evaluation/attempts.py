"""Two attempts at each question: show it in several views, let the answers vote, score puzzle by puzzle."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from titans_trm.data.batch import Batch
from titans_trm.data.examples import ExampleSet
from titans_trm.evaluation.resampling import Intervals
from titans_trm.evaluation.results import Estimate
from titans_trm.evaluation.voting import rank_candidates, score_puzzles, solved_within
from titans_trm.models.inference import solve
from titans_trm.models.titans_trm import TitansTRM

ATTEMPTS = (1, 2)  # scored; the public score is that of 2

# A batch -> its answers (B, N) and the probability that each is right (B,), on the CPU
Solver = Callable[[Batch], tuple[Tensor, Tensor]]


@runtime_checkable
class Viewed(Protocol):
    """A task that can show a question in several views and lead the answers back."""

    def views(self, examples: ExampleSet, count: int) -> ExampleSet:
        """Return `count` views of each example, side by side, the original first."""
        ...

    def undo(self, answers: Tensor, puzzle_ids: Tensor) -> list[np.ndarray]:
        """Return the grids in answers `(n, N)` as the original would show them."""
        ...


def score_attempts(
    task: Viewed,
    examples: ExampleSet,
    solver: Solver,
    *,
    views: int,
    batch_size: int,
    confidence: float = 0.95,
    seed: int = 0,
    on_batch: Callable[[int], None] | None = None,
) -> dict[str, Estimate]:
    """Return `pass_at_1` and `pass_at_2`: the share of a puzzle's questions solved so, averaged over puzzles.

    An example's source is its puzzle; intervals are over puzzles.

    Args:
        task: gives the views.
        examples: questions as they are.
        solver: `model_solver`, or anything else that answers.
        views: of each question, the original included.
        batch_size: views answered at once.
        confidence: level of the intervals.
        seed: of resampling.
        on_batch: told the number of views after each batch, for a progress bar.
    """
    shown = task.views(examples, views)
    assert shown.puzzle_ids is not None
    per_question = len(shown) // len(examples)
    answers: list[Tensor] = []
    confidences: list[float] = []
    for start in range(0, len(shown), batch_size):
        batch = shown.batch(torch.arange(start, min(start + batch_size, len(shown))))
        found, right = solver(batch)
        answers.append(found)
        confidences += right.tolist()
        if on_batch is not None:
            on_batch(len(batch))
    grids = task.undo(torch.cat(answers), shown.puzzle_ids)
    assert examples.puzzle_ids is not None
    targets = task.undo(examples.targets, examples.puzzle_ids)
    ranked = [
        rank_candidates(grids[start : start + per_question], confidences[start : start + per_question])
        for start in range(0, len(grids), per_question)
    ]
    columns = []
    for attempts in ATTEMPTS:
        solved = [solved_within(one, target, attempts) for one, target in zip(ranked, targets, strict=True)]
        shares = score_puzzles(solved, examples.sources)
        columns.append(np.array(list(shares.values())))
    means = Intervals(list(shares), confidence=confidence, seed=seed).means(*columns)
    return {f"pass_at_{attempts}": estimate for attempts, estimate in zip(ATTEMPTS, means, strict=True)}


def model_solver(model: TitansTRM, autocast: torch.autocast | None = None) -> Solver:
    """Return a solver that runs all supervision steps of `model`, on its device."""
    device = next(model.parameters()).device

    def answer(batch: Batch) -> tuple[Tensor, Tensor]:
        there = batch.to(device)
        with autocast or torch.autocast(device.type, enabled=False):
            solution = solve(model, there.inputs, there.puzzle_ids)
        return solution.answers.cpu(), solution.halting_logits[:, -1].double().sigmoid().cpu()

    return answer
