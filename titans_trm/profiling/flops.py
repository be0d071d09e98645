"""Count floating-point operations of a model without running it: shapes alone decide them.

Matrix products and attention count, 2 per multiply-add, as `torch.utils.flop_counter` defines it; element-wise work
does not.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from titans_trm.losses.config import LossConfig
from titans_trm.models.config import TitansTRMConfig
from titans_trm.models.titans_trm import TitansTRM
from titans_trm.profiling.training_step import forward, make_carry, make_examples


@dataclass(frozen=True)
class FlopCount:
    """Floating-point operations per example."""

    net_call: int  # one pass through the backbone
    step_forward: int  # one supervision step: T (n + 1) net calls, embeddings and heads
    step_backward: int  # its backward pass, through the n + 1 net calls that carry gradient
    recomputed: int  # what gradient checkpointing repeats in the backward pass; 0 without it
    solve: int  # all N_sup supervision steps, forward only

    @property
    def step(self) -> int:
        """Forward and backward pass of one supervision step, recomputation included."""
        return self.step_forward + self.step_backward + self.recomputed


def count_flops(config: TitansTRMConfig) -> FlopCount:
    """Count what one example costs the model of `config`; takes seconds and no memory, whatever the size."""
    recursion, keeps = (config.recursion, config.has_memory and config.memory.carry != "reset")
    # Recursions without gradient all cost the same once a carried memory is warm, so few of them are counted.
    counted = min(recursion.num_recursions, 2 if keeps else 1)
    few = dataclasses.replace(recursion, num_recursions=counted, checkpointing=False)
    with FakeTensorMode():
        model = TitansTRM(dataclasses.replace(config, recursion=few))
        examples, carry = make_examples(config, 1), make_carry(model, 1)
        net_call = _count_net_call(model, model.embed(examples.inputs, examples.puzzle_ids).detach(), keeps)
        loss: list[Tensor] = []
        step_forward = _count(lambda: loss.append(forward(model, examples, carry, LossConfig(), "32-true")[0]))
        step_backward = _count(lambda: loss[0].backward())
    step_forward += (recursion.num_recursions - counted) * (recursion.num_latent_steps + 1) * net_call
    with_gradient = 2 if recursion.gradient == "one_step" else recursion.num_latent_steps + 1
    return FlopCount(
        net_call=net_call,
        step_forward=step_forward,
        step_backward=step_backward,
        recomputed=with_gradient * net_call if recursion.checkpointing else 0,
        solve=config.halting.max_supervision_steps * step_forward,
    )


def _count_net_call(model: TitansTRM, hidden: Tensor, keeps: bool) -> int:
    """Count one pass through the backbone; with a carried memory, one that starts from a state.

    With gradient, which adds nothing to a forward pass: without it, a fake view of a parameter confuses the counter.
    """
    net = model.recursion.net
    states = net(hidden, None, return_states=True)[1] if keeps else None
    return _count(lambda: net(hidden, states, return_states=keeps))


def flop_counter() -> FlopCounterMode:
    """Return a counter that knows in-place batched products too, which the memory uses."""
    return FlopCounterMode(display=False, custom_mapping={torch.ops.aten.baddbmm_: _baddbmm_flops})


def _baddbmm_flops(_base: torch.Size, a: torch.Size, b: torch.Size, *_: object, **__: object) -> int:
    """Return the FLOPs of `a @ b`; torch's own formula expects tensors and would be handed shapes here."""
    return 2 * a[0] * a[1] * a[2] * b[2]


def _count(work: Callable[[], object]) -> int:
    with flop_counter() as counter:
        work()
    return counter.get_total_flops()
