"""Diversity of halting logits: two losses against a halting head that gives every example the same logit.

`logit_std_hinge` is the remedy, `variance_hinge` the failing control it is measured against.

Why the control fails: the gradient of a variance is proportional to the deviations q_i - mean(q), so it vanishes as
they do, and on probabilities it is scaled down once more by the slope of the sigmoid. A standard deviation has the
gradient (q_i - mean) / (n std), whose norm 1 / sqrt(n) does not depend on how small the deviations are. Only at exact
equality, where every symmetric function of the logits is flat, does it vanish too; hence the anchor.
"""

from collections.abc import Callable

import torch
from torch import Tensor

# Gathers equal-shaped tensors (K, n) of all ranks into (world_size, K, n). It must be differentiable, its backward
# summing over ranks; `titans_trm.training.ranks.Ranks.gather_with_gradient` is.
AllGather = Callable[[Tensor], Tensor]


def logit_std_hinge(
    logits: Tensor,
    mask: Tensor | None = None,
    *,
    target_std: float,
    signal: Tensor | None = None,
    anchor: float = 0.0,
    eps: float = 1e-8,
    all_gather: AllGather | None = None,
) -> Tensor:
    """Return relu(target_std - spread), spread = sqrt(var(logits + anchor * c) + eps) - anchor, a scalar in logits.

    c is `signal` shifted and scaled to mean 0 and variance 1 over the masked examples; a signal that is constant there
    has nothing to tell and drops out together with the anchor. With anchor 0 the spread is the standard deviation of
    the logits. With an anchor

    - it never exceeds that standard deviation (triangle inequality), so a loss of 0 still promises sigma*;
    - at equal logits its gradient is c / n, of norm 1 / sqrt(n): logits of nearly right examples rise, those of wrong
      ones fall, even at exact equality, where the gradient of any symmetric function is 0;
    - spread along the signal counts in full, spread against it counts as negative. The plain standard deviation
      would rather grow along the loudest feature, whatever it means.

    With `all_gather`, mean and variance run over the examples of all ranks, and gradients averaged over ranks (as DDP
    does) equal those of one process with the whole batch.

    Args:
        logits: (n,) halting logits, of a detached answer state.
        mask: (n,) bool, the examples that count; None = all. Fewer than two over all ranks give 0.
        target_std: sigma*, spread above which the loss and its gradient are exactly zero, in logits.
        signal: (n,) how near each answer is to right, such as token accuracy; detached here. None = no anchor.
        anchor: how much alignment with the signal counts, in logits; of the order of `target_std`.
        eps: keeps the root differentiable at variance 0; the spread counts as at least sqrt(eps).
        all_gather: see `AllGather`; every rank must hold the same n.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    weight = torch.ones_like(logits) if mask is None else mask.to(logits.dtype)
    signal = torch.zeros_like(logits) if signal is None else signal.detach().to(logits.dtype)
    logits, weight, signal = _over_ranks(torch.stack((logits, weight, signal)), all_gather)
    c = anchor * _standardised(signal, weight)
    spread = (_variance(logits + c, weight) + eps).sqrt() - _variance(c, weight).sqrt()
    # One example has no spread to speak of: no gradient, and no constant sigma* in the reported loss.
    return (target_std - spread).relu() * (weight.sum() > 1)


def variance_hinge(logits: Tensor, mask: Tensor | None = None, *, target: float = 0.1) -> Tensor:
    """Return relu(target - var(q)) of halting probabilities q = sigmoid(logits), a scalar.

    The control: no gradient at collapse, next to none at a saturated head.
    """
    q = logits.to(torch.promote_types(logits.dtype, torch.float32)).sigmoid()
    weight = torch.ones_like(q) if mask is None else mask.to(q.dtype)
    return (target - _variance(q, weight)).relu() * (weight.sum() > 1)


def share_right(right: Tensor, mask: Tensor | None = None, all_gather: AllGather | None = None) -> Tensor:
    """Return the share of masked examples (over all ranks) that are right, a scalar; 0 without any."""
    weight = torch.ones_like(right, dtype=torch.float32) if mask is None else mask.float()
    counts = torch.stack((right.float(), weight))
    right_everywhere, weight = _over_ranks(counts, all_gather)
    return (right_everywhere * weight).sum() / weight.sum().clamp(min=1)


def _over_ranks(rows: Tensor, all_gather: AllGather | None) -> Tensor:
    """Return rows (K, n) of this rank, or (K, world_size * n) of all ranks."""
    if all_gather is None:
        return rows
    return all_gather(rows).transpose(0, 1).flatten(1)


def _variance(values: Tensor, weight: Tensor) -> Tensor:
    """Return the population variance over entries of weight 1, two-pass so that a large mean costs no digits."""
    count = weight.sum().clamp(min=1)
    mean = (values * weight).sum() / count
    return (weight * (values - mean) ** 2).sum() / count


def _standardised(signal: Tensor, weight: Tensor) -> Tensor:
    """Return the signal with mean 0 and variance 1 over entries of weight 1; all zeros if it is constant there."""
    count = weight.sum().clamp(min=1)
    centred = signal - (signal * weight).sum() / count
    std = ((weight * centred**2).sum() / count).sqrt()
    # Relative to the signal's own size: rounding of the mean of equal values is not a spread.
    smallest = 1e-5 * (signal.abs() * weight).amax().clamp(min=torch.finfo(signal.dtype).tiny)
    return torch.where(std > smallest, centred / std.clamp(min=smallest), torch.zeros_like(centred))
