"""One set, written at once and then read, as a single operation of autograd: the counterpart of `memory_kernel`."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from titans_trm.models.memory_decays import Mix
from titans_trm.models.memory_kernel import Options
from titans_trm.models.memory_products import add_outer, dot, outer, product, scale
from titans_trm.models.memory_surprise import steps, surprise, surprise_backward


class SetStep(torch.autograd.Function):
    """Write all tokens of a set, read through the weights that result. Saves its inputs only."""

    @staticmethod
    def forward(
        ctx: Any,
        first: Tensor,
        second: Tensor | None,
        keys: Tensor,
        values: Tensor,
        queries: Tensor,
        logits: Tensor,
        gain: Tensor,
        options: Options,
        keep_state: bool,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return the last matrix's output for each query (H, B, Q, d), and with `keep_state` the packed states.

        Arguments as those of `ChunkStep`; alpha and eta of the set come from the mean of its tokens' logits.
        """
        written = _Set(first, second, keys, values, logits, gain, options)
        slots = 2 if options.momentum and keep_state else 1
        new = [written.write(layer, slots) for layer in range(len(written.states))]
        y = product(queries, new[0][:, :, 0])
        if second is not None:
            y = product(F.gelu(y), new[1][:, :, 0].mT)
        ctx.save_for_backward(first, second, keys, values, queries, logits, gain)
        ctx.options, ctx.slots = options, slots
        if not keep_state:
            return y, None, None
        return y, new[0], None if second is None else new[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor, grad_first: Tensor | None, grad_second: Tensor | None) -> tuple[Any, ...]:
        """Write the set again; return the gradients of all tensors."""
        first, second, keys, values, queries, logits, gain = ctx.saved_tensors
        written = _Set(first, second, keys, values, logits, gain, ctx.options)
        new = [written.write(layer, ctx.slots) for layer in range(len(written.states))]
        on_new = [
            torch.zeros_like(state) if given is None else given.clone(memory_format=torch.contiguous_format)
            for state, given in zip(new, (grad_first, grad_second), strict=False)
        ]
        if second is not None:
            y = product(queries, new[0][:, :, 0])
            add_outer(on_new[1][:, :, 0], grad, F.gelu(y))
            grad = torch.ops.aten.gelu_backward(product(grad, new[1][:, :, 0]), y)
        add_outer(on_new[0][:, :, 0], queries, grad)
        grad_queries = product(grad, new[0][:, :, 0].mT)
        backs = [written.write_backward(layer, on) for layer, on in enumerate(on_new)]
        on_inputs, on_written, on_states, log_steps, on_gates = zip(*backs, strict=True)
        grad_values, grad_gain, grad_theta = surprise_backward(
            first, second, gain, written.found, written.moves, on_inputs, on_written, torch.stack(log_steps), on_states
        )
        shared = torch.stack(on_gates, dim=1) / keys.shape[2]  # (G - 1, L, H, B)
        grad_logits = torch.cat((grad_theta.unsqueeze(0), shared.unsqueeze(-1).expand_as(logits[1:])))
        on_second = None if second is None else on_states[1]
        return on_states[0], on_second, on_inputs[0], grad_values, grad_queries, grad_logits, grad_gain, None, None


class _Set:
    """A set at the weights before it is written."""

    def __init__(
        self,
        first: Tensor,
        second: Tensor | None,
        keys: Tensor,
        values: Tensor,
        logits: Tensor,
        gain: Tensor,
        options: Options,
    ) -> None:
        self.states = (first,) if second is None else (first, second)
        self.options = options
        self.found = surprise(first, second, gain, keys, values)
        self.moves = steps(logits[0], self.found, options.max_step, options.cap)
        self.written = [scale(g, step) for g, step in zip(self.found.errors, self.moves.size, strict=True)]
        self.gates = torch.sigmoid(logits[1:].mean(-1))  # (G - 1, L, H, B)

    def write(self, layer: int, slots: int) -> Tensor:
        """Return a matrix's weights and, with two `slots`, momentum after the set."""
        narrow, wide = self._rows(layer)
        new = self._mix(layer).apply(self.states[layer], slots)
        if slots == 1:
            add_outer(new[:, :, 0], narrow, wide, -1)
        else:
            new.sub_(outer(narrow, wide, narrow.shape[1]).view(*new.shape[:2], 1, *new.shape[3:]))
        return new

    def write_backward(self, layer: int, on_new: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return gradients of inputs, written errors, state, log steps (H, B, T) and gate logits (G - 1, H, B)."""
        narrow, wide = self._rows(layer)
        on_state, (keep, carry, last) = self._mix(layer).backward(on_new, self.states[layer])
        on_outer = on_new.sum(2).neg_()
        on_wide, on_narrow = product(narrow, on_outer), product(wide, on_outer.mT)
        log_steps = dot(on_narrow, narrow)
        on_gates = [keep] if self.options.forgetting else []
        if self.options.momentum and carry is not None and last is not None:
            on_gates.append(carry + last)
        gates = self.gates[:, layer]
        logits = torch.stack(on_gates) * gates * (1.0 - gates) if on_gates else torch.zeros_like(gates)
        on_inputs, on_written = (on_narrow, on_wide) if layer == 0 else (on_wide, on_narrow)
        return on_inputs, on_written, on_state, log_steps, logits

    def _rows(self, layer: int) -> tuple[Tensor, Tensor]:
        """Return inputs and written errors of a matrix, the one of d columns first."""
        inputs, written = self.found.inputs[layer], self.written[layer]
        return (inputs, written) if layer == 0 else (written, inputs)

    def _mix(self, layer: int) -> Mix:
        keep = self.gates[0, layer] if self.options.forgetting else self.gates.new_ones(self.gates.shape[2:])
        momentum = self.gates[-1, layer] if self.options.momentum else None
        return Mix(keep, momentum, momentum)
