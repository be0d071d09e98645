"""Batched products of rows `(H, B, T, i)` with weights `(H, B, i, o)`, or `(H, 1, i, o)` shared by the batch.

Products run in the dtype of the rows; weights and what accumulates in them are at least float32.
"""

import torch
from torch import Tensor


def product(x: Tensor, weight: Tensor) -> Tensor:
    """Return `x` times `weight`, (H, B, T, o)."""
    weight = weight.to(x.dtype)
    if _shared(x, weight):
        return torch.bmm(x.flatten(1, 2), weight.squeeze(1)).unflatten(1, x.shape[1:3])
    return torch.bmm(x.flatten(0, 1), weight.flatten(0, 1)).unflatten(0, x.shape[:2])


def add_product(out: Tensor, x: Tensor, weight: Tensor, sign: int = 1) -> Tensor:
    """Add `sign` times `x` times `weight` to `out` (H, B, T, o) in place."""
    if _shared(x, weight):
        flat, x, weight = out.view(out.shape[0], -1, out.shape[-1]), x.flatten(1, 2), weight.squeeze(1)
    else:
        flat, x, weight = out.view(-1, *out.shape[2:]), x.flatten(0, 1), weight.flatten(0, 1)
    if flat.dtype == x.dtype:
        flat.baddbmm_(x, weight.to(x.dtype), alpha=sign)
    else:
        flat.add_(torch.bmm(x, weight.to(x.dtype)), alpha=sign)
    return out


def outer(a: Tensor, g: Tensor, batch: int) -> Tensor:
    """Return `sum_t a_t (x) g_t`, (H, B, i, o), or summed over the sequences too if `batch` is 1; in the wide dtype."""
    wide = torch.promote_types(a.dtype, torch.float32)
    if batch == 1:
        return torch.bmm(a.flatten(1, 2).mT, g.flatten(1, 2)).unsqueeze(1).to(wide)
    return torch.bmm(a.flatten(0, 1).mT, g.flatten(0, 1)).unflatten(0, a.shape[:2]).to(wide)


def add_outer(out: Tensor, a: Tensor, g: Tensor, sign: int = 1) -> None:
    """Add `sign` times `outer(a, g)` to `out` (H, B or 1, i, o), in place."""
    if out.dtype != a.dtype or not out.is_contiguous():  # in-place products of views run one by one
        out.add_(outer(a, g, out.shape[1]), alpha=sign)
    elif out.shape[1] == 1:
        out.squeeze(1).baddbmm_(a.flatten(1, 2).mT, g.flatten(1, 2), alpha=sign)
    else:
        out.view(-1, *out.shape[2:]).baddbmm_(a.flatten(0, 1).mT, g.flatten(0, 1), alpha=sign)


def scale(x: Tensor, factor: Tensor) -> Tensor:
    """Return rows `x` (H, B, T, i) times their `factor` (H, B, T)."""
    return x * factor.unsqueeze(-1).to(x.dtype)


def stack(x: Tensor, factors: Tensor) -> Tensor:
    """Return M copies of rows `x` (H, B, T, i) side by side, times their `factors` (H, B, T, M): (H, B, T, M i)."""
    return (x.unsqueeze(-2) * factors.unsqueeze(-1).to(x.dtype)).flatten(-2)


def weigh(stacked: Tensor, factors: Tensor) -> Tensor:
    """Return the sum of the M parts of rows (H, B, T, M i), times their `factors` (H, B, T, M): (H, B, T, i)."""
    first, *second = stacked.unflatten(-1, (factors.shape[-1], -1)).unbind(-2)
    factor = factors.unsqueeze(-1).to(stacked.dtype).unbind(-2)
    return torch.addcmul(first * factor[0], second[0], factor[1]) if second else first * factor[0]


def dots(stacked: Tensor, x: Tensor, count: int) -> Tensor:
    """Return the inner products of the M = `count` parts of rows (H, B, T, M i) with `x` (H, B, T, i): (H, B, T, M)."""
    return dot(stacked.unflatten(-1, (count, -1)), x.unsqueeze(-2))


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Return inner products over the last dimension, summed in at least float32."""
    return (a * b).sum(-1, dtype=torch.promote_types(a.dtype, torch.float32))


def _shared(x: Tensor, weight: Tensor) -> bool:
    return weight.shape[1] == 1 and x.shape[1] > 1
