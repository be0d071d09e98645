"""Root-mean-square normalisation (arXiv 1910.07467), computed in fp32 whatever the input's precision."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

RMS_EPS = 1e-5  # as in TRM and Llama: far below the unit variance of every normalised state


def rms_norm(x: Tensor, gain: Tensor | None = None) -> Tensor:
    """Scale `x` (..., D) to unit root mean square over its last axis, then by `gain` (D,); keep the dtype of `x`."""
    precise = x.to(torch.promote_types(x.dtype, torch.float32))
    weight = None if gain is None else gain.to(precise.dtype)
    if precise.device.type != "cpu" or torch.compiler.is_compiling():  # one kernel there
        return F.rms_norm(precise, (x.shape[-1],), weight, RMS_EPS).to(x.dtype)
    normed = _UnitRMS.apply(precise)
    return (normed if weight is None else normed * weight).to(x.dtype)


class RMSNorm(nn.Module):
    """RMS normalisation with a learned gain of shape (D,)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `x` (..., D)."""
        return rms_norm(x, self.gain)


class _UnitRMS(torch.autograd.Function):
    """`F.rms_norm` for the CPU, where that is a chain of operators: a third of its time, forward and backward.

    The output is what the next layer keeps for its own gradient, so nothing of the size of the input is kept besides.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        scale = norm.square_().div_(x.shape[-1]).add_(RMS_EPS).rsqrt_()
        normed = x * scale
        ctx.save_for_backward(normed, scale)
        return normed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        normed, scale = ctx.saved_tensors
        along = (grad * normed).mean(-1, keepdim=True)
        return torch.addcmul(grad, normed, along, value=-1).mul_(scale)
