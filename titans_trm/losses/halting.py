"""Halting loss: the halting logit predicts whether the answer is exactly right (arXiv 2510.04871, figure 3).

Shapes: B batch, N tokens, V vocabulary.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def halting_loss(
    halting_logits: Tensor, right: Tensor, scored: Tensor | None = None, *, count: Tensor | None = None
) -> Tensor:
    """Return the mean binary cross-entropy of halting logits against "this answer is right", a scalar in nats.

    Runs in float32 (float64 if the logits are), from logits, so that no probability can round to 0 or 1.

    Args:
        halting_logits: (B,), or (B, N) for one logit per token.
        right: same shape, bool, or a probability in float.
        scored: same shape, bool; entries that are False do not count. None: all count. None scored gives 0.
        count: what the sum is divided by in place of the number of scored entries.
    """
    if halting_logits.shape != right.shape:
        raise ValueError(
            f"halting logits {tuple(halting_logits.shape)} do not fit targets {tuple(right.shape)}; "
            "want (B,) per example or (B, N) per token for both."
        )
    logits = halting_logits.to(torch.promote_types(halting_logits.dtype, torch.float32))
    loss = F.binary_cross_entropy_with_logits(logits, right.to(logits.dtype), reduction="none")
    if scored is None:
        return loss.mean()
    return loss.masked_fill(~scored, 0.0).sum() / (scored.sum().clamp(min=1) if count is None else count)


def exactly_right(logits: Tensor, targets: Tensor, ignore_index: int = -100) -> Tensor:
    """Return which examples have every scored token right, (B,) bool; False for an example without a scored token."""
    right, scored = token_right(logits, targets, ignore_index)
    return exactly_right_from_tokens(right, scored)


def token_right(logits: Tensor, targets: Tensor, ignore_index: int = -100) -> tuple[Tensor, Tensor]:
    """Return which tokens are scored and predicted right, and which are scored: two (B, N) bool tensors."""
    scored = targets != ignore_index
    return (logits.detach().argmax(-1) == targets) & scored, scored


def exactly_right_from_tokens(right: Tensor, scored: Tensor) -> Tensor:
    """Return which examples have every scored token right, (B,) bool, from the two results of `token_right`."""
    return (right | ~scored).all(-1) & scored.any(-1)


def token_accuracy(right: Tensor, scored: Tensor) -> Tensor:
    """Return the share of scored tokens predicted right, (B,) float32; 0 for an example without a scored token."""
    return right.sum(-1) / scored.sum(-1).clamp(min=1)
