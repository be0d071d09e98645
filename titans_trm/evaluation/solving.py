"""Solve a set of examples and measure it: the one loop behind validation at the end of a run and `evaluate.py`."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from titans_trm.data.examples import ExampleSet
from titans_trm.data.spec import Validity
from titans_trm.evaluation.metrics import adaptive_steps
from titans_trm.models.inference import Solution, solve
from titans_trm.models.titans_trm import TitansTRM


@dataclass(frozen=True)
class Solved:
    """What solving a set of n examples of N tokens in up to S supervision steps gave and cost."""

    exact: Tensor  # (n,) bool, exactly right at the last step run
    token_accuracy: Tensor  # (n,) share of scored tokens right
    cross_entropy: Tensor  # (n,) nats per scored token
    scored: Tensor  # (n,) scored tokens
    valid: Tensor  # (n,) bool, right by the rules of the task; where there are none beside the target, as `exact`
    steps: Tensor  # (n,) supervision steps run
    adaptive_exact: Tensor  # (n,) bool, exactly right at the first halting logit above `halt_above`
    adaptive_steps: Tensor  # (n,) supervision steps until then; of an adaptive run those it ran
    # After each step; an example that has stopped keeps what it had.
    exact_by_step: Tensor  # (n, S) bool, exactly right
    right_by_step: Tensor  # (n, S) int64, scored tokens right
    halting_logits: Tensor  # (n, S) fp32
    answers: Tensor  # (n, N) tokens at the last step run, in the smallest type that holds them
    position_nats: Tensor  # (N,) float64 nats over all examples at each position
    position_scored: Tensor  # (N,) scored tokens at each position
    net_calls: int  # passes through the backbone, counted per example
    seconds: float  # wall clock, without the task's judgement of the answers

    def __len__(self) -> int:
        return len(self.exact)

    @property
    def bits_per_byte(self) -> float:
        """Bits per scored token, each counted once; for text a token is a byte."""
        return float(self.position_nats.sum() / self.position_scored.sum().clamp_min(1)) / math.log(2.0)


def solve_examples(
    model: TitansTRM,
    examples: ExampleSet,
    *,
    batch_size: int,
    ignore_index: int,
    adaptive: bool = False,
    halt_above: float = 0.0,
    autocast: torch.autocast | None = None,
    on_batch: Callable[[int], None] | None = None,
    valid: Validity | None = None,
) -> Solved:
    """Solve every example once, in order.

    Args:
        model: on its device; its training flag is put back afterwards.
        examples: what to solve.
        batch_size: examples at once.
        ignore_index: targets that are not scored.
        adaptive: let each example stop by its halting logit and leave the batch.
        halt_above: halting logit above which it stops.
        autocast: precision of the products; None for that of the weights.
        on_batch: told the number of examples after each batch, for a progress bar.
        valid: the task's own judgement of an answer, where several are right.
    """
    device = next(model.parameters()).device
    most = model.config.halting.max_supervision_steps
    columns: dict[str, list[Tensor]] = {}
    positions = torch.zeros(2, examples.inputs.shape[1], dtype=torch.float64)
    net_calls, seconds = 0, 0.0
    training = model.training
    model.eval()
    for start in range(0, len(examples), batch_size):
        started = time.perf_counter()
        batch = examples.batch(torch.arange(start, min(start + batch_size, len(examples)))).to(device)
        with autocast or torch.autocast(device.type, enabled=False):
            solution = solve(
                model, batch.inputs, batch.puzzle_ids, adaptive=adaptive, halt_above=halt_above, keep_steps=True
            )
        nats = _nats(solution, batch.targets, ignore_index)
        columns_here = _score(solution, batch.targets, nats, ignore_index, most, halt_above)
        scores = {name: one.cpu() for name, one in columns_here.items()}
        positions += torch.stack((nats.double().sum(dim=0), (batch.targets != ignore_index).sum(dim=0))).cpu()
        seconds += time.perf_counter() - started
        scores["valid"] = scores["exact"] if valid is None else valid(batch.inputs, solution.answers).cpu()
        scores["answers"] = _narrow(scores["answers"], model.config.vocab_size)
        for name, column in scores.items():
            columns.setdefault(name, []).append(column)
        net_calls += solution.net_calls
        if on_batch is not None:
            on_batch(len(batch))
    model.train(training)
    return Solved(
        **{name: torch.cat(parts) for name, parts in columns.items()},
        position_nats=positions[0],
        position_scored=positions[1],
        net_calls=net_calls,
        seconds=seconds,
    )


def _nats(solution: Solution, targets: Tensor, ignore_index: int) -> Tensor:
    """Return the negative log-likelihood of each target (B, N), 0 where it is not scored."""
    return F.cross_entropy(
        solution.logits.float().transpose(1, 2), targets, ignore_index=ignore_index, reduction="none"
    )


def _score(
    solution: Solution, targets: Tensor, nats: Tensor, ignore_index: int, most: int, halt_above: float
) -> dict[str, Tensor]:
    """Return the columns of `Solved`, from `exact` to `answers`, with `most` steps."""
    assert solution.step_answers is not None
    scored = targets != ignore_index
    counts = scored.sum(dim=1)
    right = ((solution.answers == targets) & scored).sum(dim=1)
    right_by_step = ((solution.step_answers == targets[:, None]) & scored[:, None]).sum(dim=2)
    stop = adaptive_steps(solution.halting_logits, halt_above)
    exact_by_step = right_by_step == counts[:, None]
    ran = torch.arange(most, device=stop.device).minimum(solution.steps[:, None] - 1)  # step whose answer stands
    return {
        "exact": right == counts,
        "token_accuracy": right / counts.clamp_min(1),
        "cross_entropy": nats.sum(dim=1) / counts.clamp_min(1),
        "scored": counts,
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
