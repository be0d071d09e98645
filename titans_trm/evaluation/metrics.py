"""Metrics of solved examples, by torchmetrics: full run and adaptive run from the same supervision steps."""

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, MetricCollection

from titans_trm.models.inference import Solution


class SolveMetrics(nn.Module):
    """Accumulate over batches: accuracies, cross-entropy, depth; correct over ranks.

    `exact_accuracy` and `token_accuracy` are of the full run, `*_adaptive` of stopping each example at its first
    positive halting logit, `exact_accuracy_step_1` of a single supervision step: what recursion adds is the difference.
    """

    def __init__(self, ignore_index: int) -> None:
        super().__init__()
        self.ignore_index = ignore_index
        names = (
            "exact_accuracy",
            "token_accuracy",
            "cross_entropy",
            "exact_accuracy_adaptive",
            "mean_supervision_steps_adaptive",
            "exact_accuracy_step_1",
        )
        # torchmetrics warns when a mean is read before it was fed; here reading an empty one is the caller's error.
        self.means = MetricCollection({name: MeanMetric(nan_strategy="error") for name in names})
        self.num_examples = 0

    @torch.no_grad()
    def update(self, solution: Solution, targets: Tensor) -> None:
        """Add a batch solved with `keep_steps=True` against `targets` (B, N)."""
        if solution.step_answers is None:
            raise ValueError("the solution lacks its steps; solve with keep_steps=True.")
        scored = targets != self.ignore_index
        counts = scored.sum(dim=1).clamp_min(1)
        right = (solution.step_answers == targets[:, None]) | ~scored[:, None]
        exact = right.all(dim=2)  # (B, S)
        stop = adaptive_steps(solution.halting_logits) - 1
        log_probs = solution.logits.float().log_softmax(dim=-1)
        picked = log_probs.gather(-1, targets.clamp_min(0)[..., None]).squeeze(-1)
        values = {
            "exact_accuracy": exact[:, -1],
            "token_accuracy": (right[:, -1] & scored).sum(dim=1) / counts,
            "cross_entropy": -(picked * scored).sum(dim=1) / counts,
            "exact_accuracy_adaptive": exact.gather(1, stop[:, None]).squeeze(1),
            "mean_supervision_steps_adaptive": stop + 1,
            "exact_accuracy_step_1": exact[:, 0],
        }
        for name, value in values.items():
            self.means[name].update(value.float())
        self.num_examples += len(targets)

    def compute(self) -> dict[str, float]:
        """Return all means and `num_examples`."""
        values = {name: float(value) for name, value in self.means.compute().items()}
        return values | {"num_examples": float(self.num_examples)}

    def reset(self) -> None:
        """Forget everything."""
        self.means.reset()
        self.num_examples = 0


def adaptive_steps(halting_logits: Tensor) -> Tensor:
    """Return the supervision steps (B,) an adaptive run takes, from the halting logits (B, S) of a full run."""
    wants = halting_logits > 0
    first = wants.int().argmax(dim=1) + 1
    return torch.where(wants.any(dim=1), first, halting_logits.shape[1])
