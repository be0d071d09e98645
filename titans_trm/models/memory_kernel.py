"""One chunk, or one set, as a single operation of autograd: it saves what goes in and recomputes the rest going back.

The arithmetic is that of `memory_chunk`, which records every step and stays the reference. Written out by hand, the
backward pass needs fewer passes over memory, and between forward and backward only chunk-start states are alive.

Layout: weights `W` and momentum `S` of a matrix travel as one tensor `(H, B, M, d, w)`, M = 1 without momentum, the
second matrix of a depth-2 memory transposed, so that its narrow side, too, comes first. B is 1 while the batch shares
its weights. One product then reads, or writes, both. d is the width of a head, w that of the memory's hidden layer.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from titans_trm.models.memory_decays import ChunkDecays
from titans_trm.models.memory_products import add_outer, add_product, dots, product, scale, stack, weigh
from titans_trm.models.memory_state import MemoryState
from titans_trm.models.memory_surprise import steps, surprise, surprise_backward


class Options(NamedTuple):
    """What a memory's configuration says about one chunk."""

    forgetting: bool
    momentum: bool  # whether there is an eta gate
    max_step: float  # of theta: of the chunk, divided by its tokens
    cap: float  # of the norm of a token's gradient
    before_write: bool  # read M_{t-1}


def pack(state: MemoryState, batch_size: int) -> tuple[Tensor, Tensor | None]:
    """Return the weights and momentum of `state` in the layout of this module."""
    packed = []
    for layer, weight in enumerate(state.weights):
        parts = [weight] if state.momentum is None else [weight, state.momentum[layer]]
        parts = [part.unsqueeze(1) if part.dim() == 3 else part for part in parts]
        if len({part.shape[1] for part in parts}) > 1:
            parts = [part.expand(-1, batch_size, -1, -1) for part in parts]
        wide = torch.promote_types(weight.dtype, torch.float32)
        parts = [part if layer == 0 else part.mT for part in parts]
        packed.append(torch.stack(parts, dim=2).to(wide))
    return packed[0], packed[1] if len(packed) == 2 else None


def unpack(first: Tensor, second: Tensor | None) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...] | None]:
    """Return weights and momentum per matrix `(H, B, d_in, d_out)`, views of packed states."""
    parts = [first.unbind(2)] if second is None else [first.unbind(2), second.mT.unbind(2)]
    return tuple(part[0] for part in parts), tuple(part[1] for part in parts) if len(parts[0]) == 2 else None


class ChunkStep(torch.autograd.Function):
    """Write a chunk and read it, each query through the weights of its own token."""

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
        write: bool,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return the last matrix's output for each query (H, B, Q, d), and with `write` the packed states afterwards.

        Args:
            ctx: of autograd.
            first: packed states (H, B or 1, M, d, w) of the first matrix.
            second: of the second, or None at depth 1.
            keys: (H, B, T, d).
            values: (H, B, T, d).
            queries: (H, B, Q, d), of the last Q tokens.
            logits: (G, L, H, B, T), of theta, then 1 - alpha, then eta, in at least float32.
            gain: (H, 1, 1, d).
            options: of the memory.
            write: False if no state is needed afterwards.
        """
        chunk = _Chunk(first, second, keys, values, queries, logits, gain, options)
        y, _ = chunk.read_first()
        seen = None
        if second is not None:
            y, seen = chunk.read_second(F.gelu(y), second)
        new_first = new_second = None
        if write:
            new_first = chunk.write(0, first, keys, chunk.written[0])
            if second is not None:
                new_second = chunk.write(1, second, chunk.written[1], chunk.found.inputs[1])
        ctx.save_for_backward(first, second, keys, values, queries, logits, gain, seen)
        ctx.options = options
        return y, new_first, new_second

    @staticmethod
    def backward(ctx: Any, grad: Tensor, grad_first: Tensor | None, grad_second: Tensor | None) -> tuple[Any, ...]:
        """Recompute the chunk from its first weights; return the gradients of all tensors."""
        first, second, keys, values, queries, logits, gain, seen = ctx.saved_tensors
        chunk = _Chunk(first, second, keys, values, queries, logits, gain, ctx.options)
        grads = [
            chunk.write_backward(layer, given)
            for layer, given in enumerate((grad_first, grad_second)[: len(chunk.states)])
        ]
        y, stacked = chunk.read_first()
        if second is not None:
            grad_x = chunk.read_second_backward(grads[1], grad.contiguous(), F.gelu(y), seen)
            grad = torch.ops.aten.gelu_backward(grad_x, y)
        grad_queries = chunk.read_first_backward(grads[0], grad, stacked)
        grad_logits, log_steps = chunk.decays_backward(grads)
        grad_values, grad_gain, grad_theta = surprise_backward(
            first,
            second,
            gain,
            chunk.found,
            chunk.moves,
            tuple(g.inputs for g in grads),
            tuple(g.written for g in grads),
            log_steps,
            tuple(g.state for g in grads),
        )
        grad_logits = torch.cat((grad_theta.unsqueeze(0), grad_logits))
        on_states = (grads[0].state, None if second is None else grads[1].state)
        return (*on_states, grads[0].inputs, grad_values, grad_queries, grad_logits, grad_gain, None, None)


class _MatrixGradients:
    """Gradients that gather for one weight matrix: those of its write first, of its read second."""

    def __init__(self, state: Tensor, inputs: Tensor, written: Tensor) -> None:
        self.state, self.inputs, self.written = state, inputs, written
        self.rows: Tensor | None = None  # (H, B, T, M)
        self.mix: tuple[Tensor, Tensor | None, Tensor | None] | None = None  # (H, B) each
        self.mask: Tensor | None = None  # (H, B, Q, T)
        self.at: Tensor | None = None  # (H, B, Q, M)


class _Chunk:
    """A chunk at its first weights: surprise, steps and decays, and what forward and backward make of them."""

    def __init__(
        self,
        first: Tensor,
        second: Tensor | None,
        keys: Tensor,
        values: Tensor,
        queries: Tensor,
        logits: Tensor,
        gain: Tensor,
        options: Options,
    ) -> None:
        self.states: tuple[Tensor, ...] = (first,) if second is None else (first, second)
        self.queries, self.before_write = queries, options.before_write
        self.found = surprise(first, second, gain, keys, values)
        self.moves = steps(logits[0], self.found, options.max_step, options.cap)
        self.written = [scale(g, step) for g, step in zip(self.found.errors, self.moves.size, strict=True)]
        self.decays = ChunkDecays(logits[1:], forgetting=options.forgetting, momentum=options.momentum)
        self.slots = 2 if options.momentum else 1
        both = [self.decays.keep, self.decays.carry][: first.shape[2]]
        at = self._select(torch.stack([part for part in both if part is not None], dim=-1))
        if self.before_write and queries.shape[2] == keys.shape[2]:
            at[..., 0, 0] = 1.0  # before the first token all weights are left
        self.at, self.masks = at, self._select(self.decays.write).to(keys.dtype)

    def read_first(self) -> tuple[Tensor, Tensor]:
        """Return the first matrix's output for the queries, and the queries as its state reads them."""
        stacked = stack(self.queries, self.at[0])
        y = product(stacked, self.states[0].flatten(2, 3))
        scores = (self.queries @ self.found.inputs[0].mT).mul_(self.masks[0])
        return add_product(y, scores, self.written[0], -1), stacked

    def read_second(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return the second matrix's output for `x`, and what each part of its state gave to it."""
        seen = product(x, state.flatten(2, 3).mT)
        scores = (x @ self.found.inputs[1].mT).mul_(self.masks[1])
        return add_product(weigh(seen, self.at[1]), scores, self.written[1], -1), seen

    def read_first_backward(self, grads: _MatrixGradients, grad: Tensor, stacked: Tensor) -> Tensor:
        """Return the gradient of the queries."""
        grad_stacked = product(grad, self.states[0].flatten(2, 3).mT)
        add_outer(_joined(grads.state), stacked, grad)
        grads.at = dots(grad_stacked, self.queries, self.at.shape[-1])
        grad_queries = weigh(grad_stacked, self.at[0])
        return self._scores_backward(0, grads, grad, self.queries, grad_queries)

    def read_second_backward(self, grads: _MatrixGradients, grad: Tensor, x: Tensor, seen: Tensor) -> Tensor:
        """Return the gradient of `x`."""
        stacked = stack(grad, self.at[1])
        add_outer(_joined(grads.state), stacked, x)
        grads.at = dots(seen, grad, self.at.shape[-1])
        grad_x = product(stacked, self.states[1].flatten(2, 3))
        return self._scores_backward(1, grads, grad, x, grad_x)

    def write(self, layer: int, state: Tensor, narrow: Tensor, wide: Tensor) -> Tensor:
        """Return a matrix's state after the chunk; of inputs and written errors `narrow` has d columns."""
        new = self.decays.after(layer).apply(state, self.slots)
        add_outer(_joined(new), stack(narrow, self.decays.rows[layer]), wide, -1)
        return new

    def write_backward(self, layer: int, grad: Tensor | None) -> _MatrixGradients:
        """Return the gradients of a matrix's state, inputs and written errors; zeros where nothing was written."""
        state, inputs, written = self.states[layer], self.found.inputs[layer], self.written[layer]
        if grad is None:
            return _MatrixGradients(torch.zeros_like(state), torch.zeros_like(inputs), torch.zeros_like(written))
        narrow, wide = (inputs, written) if layer == 0 else (written, inputs)
        rows, grad = self.decays.rows[layer], grad.contiguous()
        both = _joined(grad)
        on_state, mix = self.decays.after(layer).backward(grad, state)
        grad_stacked = product(wide, both.mT)
        on_narrow = weigh(grad_stacked, rows).neg_()
        on_wide = product(stack(narrow, rows).neg_(), both)
        grads = _MatrixGradients(on_state, *((on_narrow, on_wide) if layer == 0 else (on_wide, on_narrow)))
        grads.rows, grads.mix = dots(grad_stacked, narrow, self.slots).neg_(), mix
        return grads

    def decays_backward(self, grads: list[_MatrixGradients]) -> tuple[Tensor, Tensor]:
        """Return the gradients of the gate logits but theta's, and of the logarithm of the steps (L, H, B, T)."""
        decays, wide = self.decays, self.decays.write.dtype
        write = self._spread(torch.stack([g.mask for g in grads if g.mask is not None]).to(wide))
        at = self._spread(torch.stack([g.at for g in grads if g.at is not None]).to(wide))
        keep, carry, last, row = at[..., 0].contiguous(), None, None, None
        if decays.carry is not None:
            carry = at[..., 1].contiguous() if at.shape[-1] == 2 else torch.zeros_like(keep)
            last, row = torch.zeros_like(keep), torch.zeros_like(keep)
        for layer, g in enumerate(grads):
            if g.rows is None or g.mix is None:
                continue
            write[layer, ..., -1, :] += g.rows[..., 0]
            for total, part in zip((keep, carry, last), g.mix, strict=True):
                if total is not None and part is not None:
                    total[layer, ..., -1] += part
            if row is not None:
                row[layer] = g.rows[..., 1]
        log_steps = (write * decays.write).sum(-2)
        if row is not None:
            log_steps.addcmul_(row, decays.rows[..., 1])
        return decays.backward(write, keep, carry, last, row), log_steps

    def _scores_backward(self, layer: int, grads: _MatrixGradients, grad: Tensor, x: Tensor, on_x: Tensor) -> Tensor:
        """Add to `on_x`, return it: `x` read what the chunk wrote through masked scores."""
        inputs, written, mask = self.found.inputs[layer], self.written[layer], self.masks[layer]
        raw, on_scores = x @ inputs.mT, (grad @ written.mT).neg_()
        grads.mask = on_scores * raw
        on_scores.mul_(mask)
        add_product(on_x, on_scores, inputs)
        add_product(grads.inputs, on_scores.mT, x)
        add_product(grads.written, raw.mul_(mask).mT, grad, -1)
        return on_x

    def _select(self, by_token: Tensor) -> Tensor:
        """Take the rows (.., T, .) of the tokens whose weights the Q queries read."""
        if self.before_write:
            by_token = F.pad(by_token[..., :-1, :], (0, 0, 1, 0))
        return by_token[..., by_token.shape[-2] - self.queries.shape[2] :, :]

    def _spread(self, by_query: Tensor) -> Tensor:
        """Put gradients of rows by query back to their tokens; the counterpart of `_select`."""
        missing = self.decays.write.shape[-1] - by_query.shape[-2]
        by_token = F.pad(by_query, (0, 0, missing, 0)) if missing else by_query
        return F.pad(by_token[..., 1:, :], (0, 0, 0, 1)) if self.before_write else by_token


def _joined(state: Tensor) -> Tensor:
    """Return a packed state as one matrix (H, B, M d, w): a view, to be changed in place."""
    return state.view(*state.shape[:2], -1, state.shape[-1])
