"""Metrics of solved examples, by torchmetrics: full run and adaptive run from the same supervision steps."""

import math

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, MetricCollection, SumMetric

from titans_trm.data.spec import Validity
from titans_trm.models.inference import Solution


class SolveMetrics(nn.Module):
    """Accumulate over batches: accuracies, cross-entropy, depth; correct over ranks.

    `exact_accuracy` and `token_accuracy` are of the full run, `*_adaptive` of stopping each example at its first
    positive halting logit, `exact_accuracy_step_1` of a single supervision step: what recursion adds is the difference.
    `valid_optimal` is there for tasks with several right answers (`TaskSpec.valid`), `bits_per_byte` for text, where
    every scored byte counts once.
    """

    def __init__(self, ignore_index: int, *, valid: Validity | None = None, bits_per_byte: bool = False) -> None:
        super().__init__()
        self.ignore_index = ignore_index
        self.valid = valid
        self.bits_per_byte = bits_per_byte
        names: tuple[str, ...] = (
            "exact_accuracy",
            "token_accuracy",
            "cross_entropy",
            "exact_accuracy_adaptive",
            "mean_supervision_steps_adaptive",
            "exact_accuracy_step_1",
        )
        names += ("valid_optimal",) * (valid is not None)
        # A NaN is what diverged weights give: it is passed on, for whoever watches the run, and must not end it here.
        self.means = MetricCollection({name: MeanMetric(nan_strategy="disable") for name in names})
        # Sums, not a weighted mean: with this strategy torchmetrics takes every weight as one.
        self.num_examples, self.nats, self.scored = (SumMetric(nan_strategy="disable") for _ in range(3))

    @torch.no_grad()
    def update(self, solution: Solution, targets: Tensor, inputs: Tensor | None = None) -> None:
        """Add a batch solved with `keep_steps=True` against `targets` (B, N); `inputs` (B, N) for `valid_optimal`."""
        if solution.step_answers is None:
            raise ValueError("the solution lacks its steps; solve with keep_steps=True.")
        scored = targets != self.ignore_index
        counts = scored.sum(dim=1).clamp_min(1)
        right = (solution.step_answers == targets[:, None]) | ~scored[:, None]
        exact = right.all(dim=2)  # (B, S)
        stop = adaptive_steps(solution.halting_logits) - 1
        log_probs = solution.logits.float().log_softmax(dim=-1)
        picked = log_probs.gather(-1, targets.clamp_min(0)[..., None]).squeeze(-1)
        nats = -(picked * scored).sum(dim=1)
        values = {
            "exact_accuracy": exact[:, -1],
            "token_accuracy": (right[:, -1] & scored).sum(dim=1) / counts,
            "cross_entropy": nats / counts,
            "exact_accuracy_adaptive": exact.gather(1, stop[:, None]).squeeze(1),
            "mean_supervision_steps_adaptive": stop + 1,
            "exact_accuracy_step_1": exact[:, 0],
        }
        if self.valid is not None:
            if inputs is None:
                raise ValueError("valid_optimal is judged against the question; pass inputs.")
            values["valid_optimal"] = self.valid(inputs, solution.answers)
        for name, value in values.items():
            self.means[name].update(value.float())
        self.nats.update(nats)
        self.scored.update(scored.sum().float())
        self.num_examples.update(float(len(targets)))

    def compute(self) -> dict[str, float]:
        """Return all means and `num_examples`."""
        values = {name: float(value) for name, value in self.means.compute().items()}
        if self.bits_per_byte:
            values["bits_per_byte"] = float(self.nats.compute() / self.scored.compute() / math.log(2.0))
        return values | {"num_examples": float(self.num_examples.compute())}

    def reset(self) -> None:
        """Forget everything."""
        for metric in (self.means, self.num_examples, self.nats, self.scored):
            metric.reset()


def adaptive_steps(halting_logits: Tensor, halt_above: float = 0.0) -> Tensor:
    """Return the supervision steps (B,) an adaptive run takes, from the halting logits (B, S) of a full run."""
    wants = halting_logits > halt_above
    first = wants.int().argmax(dim=1) + 1
    return torch.where(wants.any(dim=1), first, halting_logits.shape[1])
