"""Solve a batch: supervision steps in turn, all of them (`full`) or as many as each example needs (`adaptive`)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from titans_trm.models.titans_trm import TitansTRM
from titans_trm.models.trm_wrapper import Carry


@dataclass
class Solution:
    """What the model answered, and what it cost. S is the number of supervision steps run."""

    answers: Tensor  # tokens (B, N) int64 at each example's last step
    logits: Tensor  # (B, N, V) at each example's last step
    steps: Tensor  # supervision steps each example ran (B,) int64
    halting_logits: Tensor  # (B, S) fp32; NaN where an example had stopped
    step_answers: Tensor | None  # (B, S, N) int64, -1 where an example had stopped; on request
    net_calls: int  # passes through the backbone, counted per example: the compute really spent


@torch.no_grad()
def solve(
    model: TitansTRM,
    inputs: Tensor,
    puzzle_ids: Tensor | None = None,
    *,
    adaptive: bool = False,
    halt_above: float = 0.0,
    patience: int | None = None,
    max_steps: int | None = None,
    keep_steps: bool = False,
    start: Carry | None = None,
    on_step: Callable[[], None] | None = None,
) -> Solution:
    """Run supervision steps on `inputs` (B, N) until they are done.

    Args:
        model: the model; its training flag is left as it is (it has no dropout).
        inputs: tokens (B, N) int64.
        puzzle_ids: (B,) int64 where the model has puzzle embeddings.
        adaptive: stop an example once its halting logit is above `halt_above`, and take it out of the batch. Otherwise
            every example runs all steps.
        halt_above: halting logit; at 0, where training halts, being right is as likely as not. Higher is surer.
        patience: stop an example once its answer has stayed the same for so many further steps, and take it out of the
            batch: convergence, which needs no halting head. With `adaptive` whichever comes first.
        max_steps: most supervision steps; `halting.max_supervision_steps` if not given, more is allowed.
        keep_steps: also return the answer after every step.
        start: carry to start from, such as one with noise; `initial_carry` if not given.
        on_step: called after every supervision step, for a clock.

    Returns:
        The solution; rows that are still running are computed exactly as in a full run.
    """
    limit = model.config.halting.max_supervision_steps if max_steps is None else max_steps
    if limit < 1:
        raise ValueError(f"max_steps={limit} runs nothing; choose 1 or more.")
    if patience is not None and patience < 1:
        raise ValueError(f"patience={patience} stops before any answer could change; choose 1 or more.")
    batch, length = inputs.shape
    record = _Record(batch, length, limit, keep_steps, inputs.device)
    rows = torch.arange(batch, device=inputs.device)
    carry = model.initial_carry(batch, length) if start is None else start
    last, unchanged = torch.full_like(inputs, -1), torch.zeros_like(rows)  # answers so far; steps they have stayed
    net_calls = 0
    for step in range(limit):
        output = model(inputs[rows], carry, None if puzzle_ids is None else puzzle_ids[rows])
        carry = output.carry
        net_calls += len(rows) * model.net_calls_per_step
        halting = output.halting_logits if output.halting_logits.dim() == 1 else output.halting_logits.amin(dim=1)
        record.add(step, rows, output.logits, halting)
        if on_step is not None:
            on_step()
        running = ~(halting > halt_above) if adaptive else torch.ones_like(rows, dtype=torch.bool)
        if patience is not None:
            answers = output.logits.argmax(dim=-1)
            unchanged[rows] = torch.where((answers == last[rows]).all(dim=1), unchanged[rows] + 1, 0)
            last[rows] = answers
            running &= unchanged[rows] < patience
        if adaptive or patience is not None:
            rows, carry = rows[running], carry.select(running.nonzero().squeeze(1))
            if len(rows) == 0:
                break
    return record.solution(step + 1, net_calls)


class _Record:
    """Results by example, filled step by step."""

    def __init__(self, batch: int, length: int, limit: int, keep_steps: bool, device: torch.device) -> None:
        self.steps = torch.zeros(batch, dtype=torch.int64, device=device)
        self.halting_logits = torch.full((batch, limit), torch.nan, device=device)
        self.step_answers = torch.full((batch, limit, length), -1, device=device) if keep_steps else None
        self.logits: Tensor | None = None

    def add(self, step: int, rows: Tensor, logits: Tensor, halting: Tensor) -> None:
        """Store step `step` (from 0) of the examples `rows`."""
        if self.logits is None:
            self.logits = logits.clone()
        else:
            self.logits[rows] = logits
        self.steps[rows] = step + 1
        self.halting_logits[rows, step] = halting.float()
        if self.step_answers is not None:
            self.step_answers[rows, step] = logits.argmax(dim=-1)

    def solution(self, num_steps: int, net_calls: int) -> Solution:
        """Close the record after `num_steps` supervision steps."""
        assert self.logits is not None
        step_answers = None if self.step_answers is None else self.step_answers[:, :num_steps]
        answers = self.logits.argmax(dim=-1)
        return Solution(answers, self.logits, self.steps, self.halting_logits[:, :num_steps], step_answers, net_calls)
