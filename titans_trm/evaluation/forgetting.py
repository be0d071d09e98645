"""What a trained model forgets when it goes on learning something else, and what keeps it from forgetting.

- Replay mixes examples of the old data into every batch (Robins 1995, Connection Science 7:123).
- L2-SP pulls the weights back to where they started (Li et al. 2018, arXiv 1802.01483).
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from titans_trm.data.batch import Batch
from titans_trm.data.examples import ExampleSet
from titans_trm.data.spec import Augment, AugmentWithIds
from titans_trm.data.stream import ExampleStream
from titans_trm.evaluation.resampling import Intervals
from titans_trm.evaluation.results import Estimate
from titans_trm.evaluation.solving import solve_examples
from titans_trm.losses.config import LossConfig
from titans_trm.losses.total import compute_loss
from titans_trm.models.titans_trm import TitansTRM

_RISE = 0.2  # of the steps over which the learning rate rises


@dataclass(frozen=True, kw_only=True)
class Material:
    """Data of one of the two tasks."""

    train: ExampleSet
    probe: ExampleSet  # whose accuracy is watched; shares no group with `train` of either task
    augment: Augment | AugmentWithIds | None


@dataclass(frozen=True, kw_only=True)
class ForgettingPoint:
    """Accuracy on both tasks after a number of optimiser steps on the new one."""

    step: int
    old: Estimate
    new: Estimate


@dataclass(frozen=True, kw_only=True)
class Forgetting:
    """One way of going on."""

    name: str
    replay: float  # share of old examples in a batch
    l2_sp: float  # weight of half the squared distance from the first weights
    points: list[ForgettingPoint]  # the first before any step


def learn_next(
    model: TitansTRM,
    old: Material,
    new: Material,
    *,
    name: str,
    steps: int,
    watch_every: int,
    replay: float = 0.0,
    l2_sp: float = 0.0,
    lr: float = 5e-4,
    batch_size: int = 64,
    ignore_index: int,
    loss: LossConfig,
    seed: int = 0,
    confidence: float = 0.95,
    on_step: Callable[[], None] | None = None,
) -> tuple[Forgetting, TitansTRM]:
    """Train a copy of `model` on the new data and watch both accuracies; return what was seen and the copy.

    A batch runs its supervision steps in turn, each with an optimiser step (AdamW without weight decay: what pulls the
    weights is `l2_sp` alone), until `steps` are done.
    """
    model = copy.deepcopy(model).train()
    anchors = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.0)
    # Adam's first steps are as long as its longest: without a rise they, not the new data, would do the damage.
    rise = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / max(1.0, _RISE * steps)))
    batches = _Batches(old, new, batch_size, replay, seed)
    device = next(model.parameters()).device

    def watch(step: int) -> ForgettingPoint:
        scores = [_accuracy(model, part.probe, batch_size, ignore_index, confidence) for part in (old, new)]
        return ForgettingPoint(step=step, old=scores[0], new=scores[1])

    points, batch, carry, turn = [watch(0)], None, None, 0
    for step in range(1, steps + 1):
        if batch is None or turn == model.config.halting.max_supervision_steps:
            batch, turn = batches.next().to(device), 0
            carry = model.initial_carry(len(batch))
        assert carry is not None
        output = model(batch.inputs, carry, batch.puzzle_ids)
        terms = compute_loss(
            output.logits,
            output.halting_logits,
            batch.targets,
            loss,
            detached_halting_logits=model.act_head(output.halting_features.detach()),
            undecided=output.carry.steps < model.config.halting.max_supervision_steps,
            step=step,
            ignore_index=ignore_index,
            all_gather=None,
        )
        total = terms.total + 0.5 * l2_sp * _distance(model, anchors) if l2_sp else terms.total
        optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        rise.step()
        carry, turn = output.carry, turn + 1
        if on_step is not None:
            on_step()
        if step % watch_every == 0 or step == steps:
            points.append(watch(step))
    return Forgetting(name=name, replay=replay, l2_sp=l2_sp, points=points), model


class _Batches:
    """Batches of the new task with a share of the old one."""

    def __init__(self, old: Material, new: Material, batch_size: int, replay: float, seed: int) -> None:
        self.streams = [ExampleStream(part.train, seed=seed, augment=part.augment) for part in (old, new)]
        replayed = round(replay * batch_size)
        self.counts = [replayed, batch_size - replayed]

    def next(self) -> Batch:
        """Return the next batch."""
        pairs = zip(self.streams, self.counts, strict=True)
        return Batch.concat([stream.take(count) for stream, count in pairs if count])


def _distance(model: TitansTRM, anchors: list[Tensor]) -> Tensor:
    """Return the squared L2 distance of the weights from `anchors`."""
    pairs = zip(model.parameters(), anchors, strict=True)
    return torch.stack([(parameter - anchor).square().sum() for parameter, anchor in pairs]).sum()


def _accuracy(
    model: TitansTRM, examples: ExampleSet, batch_size: int, ignore_index: int, confidence: float
) -> Estimate:
    solved = solve_examples(model, examples, batch_size=batch_size, ignore_index=ignore_index)
    return Intervals(examples.keys, confidence=confidence).proportion(solved.exact.numpy())
