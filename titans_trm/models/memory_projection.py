"""Queries, keys and values from one projection: short convolution, SiLU, heads first, unit length, as one operation.

Recorded step by step, the convolution's shifted products alone save and pass over the widest tensor of a memory, (B, N,
3 D), about twenty times; here only the input is saved.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_UNIT_EPS = 1e-12  # as `F.normalize`


class ProjectedHeads(torch.autograd.Function):
    """`padded` (B, K - 1 + N, 3 D), taps (3 D, K) -> queries, keys of unit length and values, each (H, B, N, d)."""

    @staticmethod
    def forward(ctx: Any, padded: Tensor, taps: Tensor | None, num_heads: int) -> tuple[Tensor, Tensor, Tensor]:
        """Convolve over time where there are taps (the last one is of the token itself), activate, split, normalise."""
        ctx.save_for_backward(padded, taps)
        ctx.num_heads = num_heads
        heads = _heads(F.silu(_convolve(padded, taps)), num_heads)
        queries, keys = (_unit(part)[0] for part in heads[:2])
        return queries, keys, heads[2].contiguous()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None, None]:
        """Convolve and activate again; return the gradients of the input and of the taps."""
        padded, taps = ctx.saved_tensors
        before = _convolve(padded, taps)
        active = F.silu(before)
        grad = torch.empty_like(active)
        for part, (target, source, given) in enumerate(
            zip(_heads(grad, ctx.num_heads), _heads(active, ctx.num_heads), grads, strict=True)
        ):
            target.copy_(given if part == 2 else _unit_backward(source, given))
        grad = torch.ops.aten.silu_backward(grad, before)
        if taps is None:
            return grad, None, None
        length, width = grad.shape[1], taps.shape[1]
        on_padded, on_taps = torch.zeros_like(padded), []
        for i, tap in enumerate(taps.unbind(1)):
            on_padded[:, i : i + length].addcmul_(grad, tap)
            on_taps.append((padded[:, i : i + length] * grad).sum((0, 1)))
        assert len(on_taps) == width
        return on_padded, torch.stack(on_taps, dim=1), None


def _convolve(padded: Tensor, taps: Tensor | None) -> Tensor:
    """Return the causal convolution as shifted products: faster than a grouped one, and no transpose."""
    if taps is None:
        return padded
    first, *others = taps.unbind(1)
    length = padded.shape[1] - len(others)
    out = padded[:, :length] * first
    for i, tap in enumerate(others, start=1):
        out.addcmul_(padded[:, i : i + length], tap)
    return out


def _heads(x: Tensor, num_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Split (B, N, 3 D) into three views (H, B, N, d)."""
    queries, keys, values = x.unflatten(-1, (3, num_heads, -1)).permute(2, 3, 0, 1, 4).unbind(0)
    return queries, keys, values


def _unit(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return rows of unit length, contiguous, and the lengths they had (.., 1), in at least float32."""
    wide = torch.promote_types(x.dtype, torch.float32)
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=wide).clamp_min_(_UNIT_EPS)
    unit = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    return unit.copy_(x).div_(length), length


def _unit_backward(x: Tensor, grad: Tensor) -> Tensor:
    """Return the gradient before normalising: without its part along the row, over the row's length."""
    unit, length = _unit(x)
    along = (unit * grad).sum(-1, keepdim=True, dtype=length.dtype)
    return torch.addcmul(grad, unit, along.to(unit.dtype), value=-1).div_(length.to(unit.dtype))
