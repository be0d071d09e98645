"""Loss of one supervision step, with the statistics that training logs.

Shapes: B batch, N tokens, V vocabulary.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from titans_trm.losses.act import compute_act_loss
from titans_trm.losses.config import LossConfig
from titans_trm.losses.cross_entropy import token_cross_entropy
from titans_trm.losses.diversity import AllGather
from titans_trm.losses.halting import exactly_right_from_tokens, token_accuracy, token_right


@dataclass(frozen=True)
class LossTerms:
    """Loss of one supervision step; only `total` carries weights and is meant for `backward`.

    Watch `cross_entropy`, not `total`: the halting terms may rise while accuracy rises.
    """

    total: Tensor  # scalar: cross_entropy + weighted halting and diversity
    cross_entropy: Tensor  # scalar, nats per scored token, mean over examples
    halting: Tensor  # scalar, nats, unweighted
    diversity: Tensor  # scalar, unweighted, 0 while off
    example_cross_entropy: Tensor  # (B,) nats per scored token, detached
    exactly_right: Tensor  # (B,) bool: every scored token right
    token_accuracy: Tensor  # (B,) share of scored tokens right


def compute_loss(
    logits: Tensor,
    halting_logits: Tensor,
    targets: Tensor,
    config: LossConfig,
    *,
    detached_halting_logits: Tensor | None = None,
    undecided: Tensor | None = None,
    step: int = 0,
    ignore_index: int = -100,
    all_gather: AllGather | None = None,
    class_weights: Tensor | None = None,
) -> LossTerms:
    """Return the loss terms of one supervision step, averaged over the examples that have a scored token.

    Args:
        logits: (B, N, V).
        halting_logits: (B,), or (B, N) with one logit per token, then against "this token is right".
        targets: (B, N) int64, `ignore_index` where not scored.
        config: kinds and weights of the terms.
        detached_halting_logits: like `halting_logits`, of detached features; needed for `loss.diversity=logit_std`.
        undecided: (B,) bool, examples whose halting is still open: `output.carry.steps < max_supervision_steps`.
            None = all.
        step: optimiser step, for annealing of the diversity term.
        ignore_index: target of tokens that are not scored.
        all_gather: gathers over DDP ranks (see `diversity.AllGather`): every mean is then over the examples of all
            ranks, and gradients averaged over ranks, as DDP does, are those of one process with the whole batch.
        class_weights: (V,) factor of each scored token by its target (`class_weights` in the data); None = all 1.
    """
    right, scored = token_right(logits, targets, ignore_index)
    exact, accuracy = exactly_right_from_tokens(right, scored), token_accuracy(right, scored)
    example_cross_entropy = token_cross_entropy(
        logits,
        targets,
        kind=config.cross_entropy,
        ignore_index=ignore_index,
        label_smoothing=config.label_smoothing,
        focal_gamma=config.focal_gamma,
        class_weights=class_weights,
    )
    has_target, per_token = scored.any(-1), halting_logits.ndim == 2
    num_examples, num_entries = _mean_counts(has_target, scored if per_token else has_target, all_gather)
    cross_entropy = example_cross_entropy.sum() / num_examples
    if per_token and undecided is not None:
        undecided = undecided.unsqueeze(1).expand_as(scored)
    act = compute_act_loss(
        halting_logits,
        right if per_token else exact,
        config,
        detached_halting_logits=detached_halting_logits,
        signal=None if per_token else accuracy,
        scored=scored if per_token else has_target,
        undecided=undecided,
        step=step,
        all_gather=all_gather,
        count=num_entries,
    )
    return LossTerms(
        total=cross_entropy + act.total,
        cross_entropy=cross_entropy,
        halting=act.halting,
        diversity=act.diversity,
        example_cross_entropy=example_cross_entropy.detach(),
        exactly_right=exact,
        token_accuracy=accuracy,
    )


def _mean_counts(first: Tensor, second: Tensor, all_gather: AllGather | None) -> tuple[Tensor, Tensor]:
    """Return how many entries are True in each mask: the mean over ranks, since their gradients are averaged."""
    counts = torch.stack((first.sum(), second.sum()))
    if all_gather is None:
        counts = counts.clamp(min=1)
    else:
        of_ranks = all_gather(counts.float().unsqueeze(1))  # (R, 2, 1)
        counts = of_ranks.sum(0).clamp(min=1).squeeze(1) / len(of_ranks)
    return counts[0], counts[1]
