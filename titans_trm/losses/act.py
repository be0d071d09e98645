"""Loss of the halting head: halting cross-entropy plus, where it is needed, a diversity term on the head alone.

Shapes: B batch, N tokens; halting logits are (B,), or (B, N) with one logit per token.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from titans_trm.losses.config import LossConfig
from titans_trm.losses.diversity import AllGather, logit_std_hinge, share_right, variance_hinge
from titans_trm.losses.halting import halting_loss


@dataclass(frozen=True)
class ACTLoss:
    """Terms of the halting head, scalars, before and after weighting."""

    halting: Tensor  # binary cross-entropy in nats, unweighted
    diversity: Tensor  # diversity hinge, unweighted, 0 while off; in logits (logit_std) or probability squared
    total: Tensor  # halting_weight * halting + weight of the diversity term * diversity


def compute_act_loss(
    halting_logits: Tensor,
    right: Tensor,
    config: LossConfig,
    *,
    detached_halting_logits: Tensor | None = None,
    signal: Tensor | None = None,
    scored: Tensor | None = None,
    undecided: Tensor | None = None,
    step: int = 0,
    all_gather: AllGather | None = None,
    count: Tensor | None = None,
) -> ACTLoss:
    """Return the loss of the halting head.

    Cross-entropy trains head and representation. The `logit_std` term trains the head only: it takes logits of a
    detached answer state (`model.act_head(output.halting_features.detach())`), because spreading the representation
    itself costs accuracy. It is off while the share of right examples lies in the guard band at 0 or 1, where one
    and the same logit for all is the right answer, and anneals with `step`. `variance_hinge`, the control, works on
    the live logits as it was published.

    Args:
        halting_logits: (B,) or (B, N).
        right: same shape, bool: the target. Per example: exactly right.
        config: weights and shape of the terms.
        detached_halting_logits: same shape, without gradient to the representation; needed for `logit_std`.
        signal: same shape: nearness to right, such as token accuracy; None takes `right`. Ties of logits are
            broken along it.
        scored: same shape, bool: entries that count at all; None = all.
        undecided: same shape, bool: entries whose halting is still the head's to decide (steps below the maximum), the
            only ones the diversity term looks at; None = all.
        step: optimiser step, for annealing.
        all_gather: gathers over DDP ranks (see `diversity.AllGather`); None = this rank only.
        count: what the halting loss is divided by in place of the number of scored entries.

    Raises:
        ValueError: shapes differ, or `detached_halting_logits` is missing.
    """
    halting = halting_loss(halting_logits, right, scored, count=count)
    mask = _both(scored, undecided)
    weight = diversity_weight(config, step)
    if config.diversity == "variance_hinge":
        diversity = variance_hinge(halting_logits.flatten(), _flat(mask), target=config.variance_hinge_target)
    elif config.diversity == "logit_std" and weight > 0.0:
        if detached_halting_logits is None:
            raise ValueError(
                "loss.diversity=logit_std needs detached_halting_logits: pass "
                "model.act_head(output.halting_features.detach()), or set loss.diversity=off."
            )
        diversity = _guarded_spread(detached_halting_logits, right, signal, mask, config, all_gather)
    else:
        diversity = torch.zeros_like(halting)
    return ACTLoss(halting, diversity, config.halting_weight * halting + weight * diversity)


def diversity_weight(config: LossConfig, step: int) -> float:
    """Return the weight of the diversity term at an optimiser step: 0 when off or annealed away."""
    if config.diversity == "off":
        return 0.0
    if config.diversity == "variance_hinge":
        return config.variance_hinge_weight
    if config.diversity_anneal_steps == 0:
        return config.diversity_weight
    return config.diversity_weight * max(0.0, 1.0 - step / config.diversity_anneal_steps)


def _guarded_spread(
    logits: Tensor,
    right: Tensor,
    signal: Tensor | None,
    mask: Tensor | None,
    config: LossConfig,
    all_gather: AllGather | None,
) -> Tensor:
    right, mask = right.flatten(), _flat(mask)
    spread = logit_std_hinge(
        logits.flatten(),
        mask,
        target_std=config.diversity_target_std,
        signal=right if signal is None else signal.flatten(),
        anchor=config.diversity_anchor,
        all_gather=all_gather,
    )
    share = share_right(right, mask, all_gather)
    # A product with 0 or 1 rather than a branch: no transfer to the host, static graph.
    return spread * ((share > config.diversity_guard) & (share < 1.0 - config.diversity_guard))


def _both(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    if first is None or second is None:
        return second if first is None else first
    return first & second


def _flat(mask: Tensor | None) -> Tensor | None:
    return None if mask is None else mask.flatten()
