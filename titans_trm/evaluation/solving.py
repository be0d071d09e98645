"""Solve a set of examples and measure it: the one loop behind validation at the end of a run and `evaluate.py`."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from titans_trm.data.examples import ExampleSet
from titans_trm.data.spec import Check
from titans_trm.evaluation.metrics import adaptive_steps
from titans_trm.models.inference import Solution, solve
from titans_trm.models.titans_trm import TitansTRM


@dataclass(frozen=True)
class Solved:
    """What solving a set of n examples of N tokens in up to S supervision steps gave and cost."""

    exact: Tensor  # (n,) bool, exactly right at the last step run
    token_accuracy: Tensor  # (n,) share of scored tokens right
    cross_entropy: Tensor  # (n,) nats per scored token
    num_scored: Tensor  # (n,) scored tokens
    steps: Tensor  # (n,) supervision steps run
    adaptive_exact: Tensor  # (n,) bool, exactly right at the first positive halting logit
    adaptive_steps: Tensor  # (n,) supervision steps until then; of an adaptive run those it ran
    # After each step; an example that has stopped keeps what it had.
    exact_by_step: Tensor  # (n, S) bool, exactly right
    right_by_step: Tensor  # (n, S) int64, scored tokens right
    halting_logits: Tensor  # (n, S) fp32
    answers: Tensor  # (n, N) tokens at the last step run, in the smallest type that holds them
    checks: dict[str, Tensor]  # (n,) bool each, what the task's own checks say of the answers
    net_calls: int  # passes through the backbone, counted per example
    seconds: float  # wall clock, checks not counted

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
    checks: Mapping[str, Check] | None = None,
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
        checks: the task's own tests of an answer, by the name of their metric.
        on_batch: told the number of examples after each batch, for a progress bar.
    """
    device = next(model.parameters()).device
    columns: dict[str, list[Tensor]] = {}
    net_calls, seconds = 0, 0.0
    training = model.training
    model.eval()
    for start in range(0, len(examples), batch_size):
        rows = torch.arange(start, min(start + batch_size, len(examples)))
        started = time.perf_counter()
        batch = examples.batch(rows).to(device)
        with autocast or torch.autocast(device.type, enabled=False):
            solution = solve(model, batch.inputs, batch.puzzle_ids, adaptive=adaptive, keep_steps=True)
        most = model.config.halting.max_supervision_steps
        scores = {name: column.cpu() for name, column in _score(solution, batch.targets, ignore_index, most).items()}
        seconds += time.perf_counter() - started
        scores["answers"] = _narrow(scores["answers"], model.config.vocab_size)
        for name, check in (checks or {}).items():
            scores[f"checks.{name}"] = check(examples.inputs[rows], examples.targets[rows], scores["answers"])
        for name, column in scores.items():
            columns.setdefault(name, []).append(column)
        net_calls += solution.net_calls
        if on_batch is not None:
            on_batch(len(rows))
    model.train(training)
    whole = {name: torch.cat(parts) for name, parts in columns.items()}
    verdicts = {name: whole.pop(f"checks.{name}") for name in checks or {}}
    return Solved(**whole, checks=verdicts, net_calls=net_calls, seconds=seconds)


def _score(solution: Solution, targets: Tensor, ignore_index: int, most: int) -> dict[str, Tensor]:
    """Return the columns of `Solved`, from `exact` to `answers`, with `most` steps."""
    assert solution.step_answers is not None
    scored = targets != ignore_index
    counts = scored.sum(dim=1)
    right = ((solution.answers == targets) & scored).sum(dim=1)
    right_by_step = ((solution.step_answers == targets[:, None]) & scored[:, None]).sum(dim=2)
    nats = F.cross_entropy(
        solution.logits.float().transpose(1, 2), targets, ignore_index=ignore_index, reduction="none"
    ).sum(dim=1)
    stop = adaptive_steps(solution.halting_logits)
    exact_by_step = right_by_step == counts[:, None]
    ran = torch.arange(most, device=stop.device).minimum(solution.steps[:, None] - 1)  # step whose answer stands
    return {
        "exact": right == counts,
        "token_accuracy": right / counts.clamp_min(1),
        "cross_entropy": nats / counts.clamp_min(1),
        "num_scored": counts,
        "steps": solution.steps,
        "adaptive_exact": exact_by_step.gather(1, stop[:, None] - 1).squeeze(1),
        "adaptive_steps": stop,
        "exact_by_step": exact_by_step.gather(1, ran),
        "right_by_step": right_by_step.gather(1, ran),
        "halting_logits": solution.halting_logits.gather(1, ran),
        "answers": solution.answers,
    }


def _narrow(tokens: Tensor, vocab_size: int) -> Tensor:
    """Return tokens in the smallest integer type that holds the vocabulary: a set may have millions of them."""
    return tokens.to(torch.uint8 if vocab_size <= 256 else torch.int32)
