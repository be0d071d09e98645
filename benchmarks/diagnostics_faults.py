"""Faults that `benchmarks/diagnostics.py` puts into runs: what each does, from when on, and which findings name it."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from titans_trm.data.batch import Batch
from titans_trm.data.examples import ExampleSet
from titans_trm.data.load import TaskData
from titans_trm.losses import act
from titans_trm.losses.diversity import variance_hinge
from titans_trm.training.module import TRMModule

START = 80  # optimiser steps before faults that strike a run under way; some puzzles are solved by then

Undo = ExitStack


@dataclass(frozen=True)
class Fault:
    """One fault. `strike(module, undo)` is called at step `start`; `undo` takes what must be put back afterwards."""

    name: str
    told: str  # for the table
    causes: frozenset[str]  # rules of ours that name it rightly
    debugger: frozenset[str]  # SageMaker Debugger rules that would
    autotrainer: frozenset[str]  # AUTOTRAINER problems that would
    start: int = 0
    strike: Callable[[TRMModule, Undo], None] | None = None
    rate: float | None = None  # factor on the learning rates
    data: Callable[[TaskData], TaskData] | None = None

    @property
    def branches(self) -> bool:
        """Whether it can be put into a run that began without it."""
        return self.rate is None and self.data is None


def _fault(
    name: str,
    told: str,
    causes: str,
    *,
    debugger: str = "",
    autotrainer: str = "",
    start: int = 0,
    strike: Callable[[TRMModule, Undo], None] | None = None,
    rate: float | None = None,
    data: Callable[[TaskData], TaskData] | None = None,
) -> Fault:
    names = (frozenset(words.split()) for words in (causes, debugger, autotrainer))
    return Fault(name, told, *names, start, strike, rate, data)


# The halting head


def _without_cure(strike: Callable[[TRMModule, Undo], None]) -> Callable[[TRMModule, Undo], None]:
    """Switch the diversity term off as well: it would mend what is to be found."""

    def both(module: TRMModule, undo: Undo) -> None:
        module.loss_config = replace(module.loss_config, diversity="off")
        strike(module, undo)

    return both


def _pin_logits(mean: float | None, scale: float) -> Callable[[TRMModule, Undo], None]:
    """Let the head's output be `mean` (None: as it is) plus `scale` times its deviation from its mean."""

    def strike(module: TRMModule, undo: Undo) -> None:
        def hook(head: nn.Module, inputs: Any, logits: Tensor) -> Tensor:
            centre = logits.mean()
            level = centre if mean is None else torch.full_like(centre, mean)
            return level + scale * (logits - centre.detach() if mean is None else logits - centre)

        undo.callback(module.model.act_head.register_forward_hook(hook).remove)

    return strike


def _constant_target(module: TRMModule, undo: Undo) -> None:
    true = act.halting_loss

    def constant(logits: Tensor, right: Tensor, scored: Tensor | None = None, **options: Any) -> Tensor:
        return true(logits, torch.full_like(logits, 0.5), scored, **options)

    undo.enter_context(mock.patch.object(act, "halting_loss", constant))


def punish_variance(module: TRMModule, undo: Undo) -> None:
    """Turn the sign of the variance hinge: it punishes the spread that it should ask for."""

    def turned(logits: Tensor, mask: Tensor | None = None, **_: float) -> Tensor:
        return 1.0 - variance_hinge(logits, mask, target=1.0)  # a variance of probabilities is at most a quarter

    module.loss_config = replace(module.loss_config, diversity="variance_hinge", variance_hinge_weight=100.0)
    undo.enter_context(mock.patch.object(act, "variance_hinge", turned))


# Gradients, rate, numbers


def _scale_gradients(factor: float, *parts: str) -> Callable[[TRMModule, Undo], None]:
    def strike(module: TRMModule, undo: Undo) -> None:
        for name, parameter in module.model.named_parameters():
            if any(part in name for part in parts):
                undo.callback(parameter.register_hook(lambda gradient: gradient * factor).remove)

    return strike


def _nan_batch(module: TRMModule, undo: Undo) -> None:
    def hook(layer: nn.Module, inputs: Any, embedded: Tensor) -> Tensor:
        handle.remove()
        return embedded * torch.nan

    handle = module.model.embedding.register_forward_hook(hook)
    undo.callback(handle.remove)


def _freeze(module: TRMModule, undo: Undo) -> None:
    frozen = {id(p) for p in module.model.recursion.net.blocks[0].mlp.parameters()}
    for group in module.trainer.optimizers[0].param_groups:
        group["params"] = [p for p in group["params"] if id(p) not in frozen]


# Memory and gate


def _detach_memory(module: TRMModule, undo: Undo) -> None:
    for block in module.model.recursion.net.blocks:
        hook = block.memory.register_forward_hook(lambda layer, inputs, out: (out[0].detach(), out[1]))
        undo.callback(hook.remove)


def _change_gate(gain: float, shift: float) -> Callable[[TRMModule, Undo], None]:
    """Scale the memory's part in the product gate by `gain` and shift its logits."""

    def strike(module: TRMModule, undo: Undo) -> None:
        for block in module.model.recursion.net.blocks:
            gate = block.gate

            def openness(y: Tensor, m: Tensor, gate: Any = gate) -> Tensor:
                normed = m * torch.rsqrt(m.square().mean(-1, keepdim=True) + 1e-6)
                return torch.sigmoid(normed * gate.memory_gain * gain + shift)

            undo.enter_context(mock.patch.object(gate, "openness", openness))

    return strike


def _blow_up_memory(module: TRMModule, undo: Undo) -> None:
    for block in module.model.recursion.net.blocks:
        config = block.memory.config
        block.memory.config = replace(
            config, max_step_size=100.0 * config.max_step_size, max_inner_grad=100.0 * config.max_inner_grad
        )


# Data


def _wrap_stream(change: Callable[[Batch], Batch]) -> Callable[[TRMModule, Undo], None]:
    def strike(module: TRMModule, undo: Undo) -> None:
        assert module.slots is not None
        stream = module.slots.stream
        read = stream.read
        undo.enter_context(mock.patch.object(stream, "read", lambda start, count: change(read(start, count))))

    return strike


def _shuffled(batch: Batch) -> Batch:
    order = torch.arange(len(batch)).roll(1)
    return replace(batch, targets=batch.targets[order])


def _relabelled(batch: Batch) -> Batch:
    return replace(batch, targets=torch.where(batch.targets == 3, torch.full_like(batch.targets, 4), batch.targets))


def _starve(module: TRMModule, undo: Undo) -> None:
    """Let every batch take as long as everything else since the last."""
    assert module.slots is not None
    stream = module.slots.stream
    read, last = stream.read, [time.perf_counter()]

    def slow(start: int, count: int) -> Batch:
        time.sleep(min(time.perf_counter() - last[0], 0.5))
        batch = read(start, count)
        last[0] = time.perf_counter()
        return batch

    undo.enter_context(mock.patch.object(stream, "read", slow))


def _leaked(data: TaskData) -> TaskData:
    """Copy half of the validation set from the training set."""
    half = len(data.val) // 2
    both = [data.train.select(range(half)), data.val.select(range(half, len(data.val)))]
    val = ExampleSet(
        "val",
        torch.cat([part.inputs for part in both]),
        torch.cat([part.targets for part in both]),
        both[0].keys + both[1].keys,
        both[0].sources + both[1].sources,
        torch.cat([part.ratings for part in both]),
    )
    return replace(data, val=val)


def _forget_carry(module: TRMModule, undo: Undo) -> None:
    """Start every supervision step from the initial states: nothing is carried over."""
    assert module.slots is not None
    for group in module.slots.groups:
        fill = group.fill

        def fresh(device: Any, group: Any = group, fill: Any = fill) -> Any:
            batch, carry = fill(device)
            start = group.owner.model.initial_carry(group.batch_size)
            group.carry = replace(carry, y=start.y, z=start.z)
            return batch, group.carry

        undo.enter_context(mock.patch.object(group, "fill", fresh))


FAULTS: tuple[Fault, ...] = (
    _fault("act_zero_head", "halting head: weights as good as zero", "act_collapse", start=START,
           strike=_without_cure(_pin_logits(None, 1e-3))),
    _fault("act_saturated_head", "halting head: saturated at -12", "act_collapse act_never_halt", start=START,
           strike=_without_cure(_pin_logits(-12.0, 1e-3))),
    _fault("act_constant_target", "halting head: taught a constant", "act_target act_collapse",
           strike=_without_cure(_constant_target)),
    _fault("act_variance_hinge", "halting head: variance hinge with its sign turned", "act_collapse",
           strike=punish_variance),
    _fault("act_never_halt", "never halts", "act_never_halt", start=START, strike=_pin_logits(-9.0, 1.0)),
    _fault("act_always_halt", "always halts", "act_always_halt", start=START, strike=_pin_logits(9.0, 1.0)),
    _fault("grad_vanish", "gradients of two parts times 1e-9", "grad_vanish", debugger="VanishingGradient",
           autotrainer="vanish", strike=_scale_gradients(1e-9, "embedding", "attention")),
    _fault("grad_explode", "gradients times 1e4", "grad_explode", debugger="ExplodingTensor WeightUpdateRatio",
           autotrainer="explode", start=START, strike=_scale_gradients(1e4, "")),
    _fault("nan_batch", "one batch of NaN", "nonfinite", debugger="ExplodingTensor", autotrainer="explode",
           start=START, strike=_nan_batch),
    _fault("memory_detached", "memory detached from the loss", "no_gradient", debugger="VanishingGradient AllZero",
           autotrainer="dying", strike=_detach_memory),
    _fault("gate_dead", "gate deaf to the memory", "gate_dead", start=START, strike=_change_gate(1e-3, 0.0)),
    _fault("gate_closed", "gate shut", "gate_closed", debugger="SaturatedActivation DeadRelu", start=START,
           strike=_change_gate(1.0, -14.0)),
    _fault("memory_blowup", "memory writes a hundred times too much", "memory_blowup", debugger="ExplodingTensor",
           start=START, strike=_blow_up_memory),
    _fault("lr_high", "learning rate times 100", "update_ratio_high",
           debugger="WeightUpdateRatio LossNotDecreasing PoorWeightInitialization", autotrainer="oscillate explode",
           rate=100.0),
    _fault("lr_low", "learning rate by 100", "update_ratio_low", debugger="WeightUpdateRatio LossNotDecreasing",
           autotrainer="slow", rate=0.01),
    _fault("label_shift", "one label becomes another", "label_shift invalid_examples", debugger="ClassImbalance",
           start=START, strike=_wrap_stream(_relabelled)),
    _fault("split_leak", "half of validation from training", "split_leak", data=_leaked),
    _fault("shuffled_labels", "targets of other examples", "invalid_examples", debugger="LossNotDecreasing",
           autotrainer="slow", strike=_wrap_stream(_shuffled)),
    _fault("frozen", "feed-forward layer not in the optimiser", "no_update", debugger="UnchangedTensor",
           strike=_freeze),
    _fault("starved", "waits for data half of the time", "data_bound", strike=_starve),
    _fault("carry_lost", "states not carried to the next step", "carry_lost no_step_gain", strike=_forget_carry),
)  # fmt: skip
