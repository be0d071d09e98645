"""`Observation`: what one supervision step leaves for the diagnostics to look at; references, nothing is copied."""

from dataclasses import dataclass

from torch import Tensor

from titans_trm.data.batch import Batch
from titans_trm.models.trm_wrapper import Carry


@dataclass(frozen=True)
class Observation:
    """One supervision step of B slots; every tensor is detached."""

    total: Tensor  # scalar loss
    cross_entropy: Tensor  # scalar, nats per scored token
    halting: Tensor  # scalar, nats, unweighted
    diversity: Tensor  # scalar, unweighted
    example_cross_entropy: Tensor  # (B,)
    right: Tensor  # (B,) bool, exactly right
    token_accuracy: Tensor  # (B,)
    halting_logits: Tensor  # (B,) or (B, N)
    steps: Tensor  # (B,) supervision steps done, this one included
    halted: Tensor  # (B,) bool
    examples: Batch
    carry: Carry  # after the step
    wait_seconds: float  # host time until the examples were there
    before: Carry | None = None  # what the step began with; kept only where a check is due
