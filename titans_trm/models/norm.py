"""Root-mean-square normalisation (arXiv 1910.07467), computed in fp32 whatever the input's precision."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

RMS_EPS = 1e-5  # as in TRM and Llama: far below the unit variance of every normalised state


def rms_norm(x: Tensor, gain: Tensor | None = None) -> Tensor:
    """Scale `x` (..., D) to unit root mean square over its last axis, then by `gain` (D,); keep the dtype of `x`."""
    precise = x.to(torch.promote_types(x.dtype, torch.float32))
    weight = None if gain is None else gain.to(precise.dtype)
    return F.rms_norm(precise, (x.shape[-1],), weight, RMS_EPS).to(x.dtype)


class RMSNorm(nn.Module):
    """RMS normalisation with a learned gain of shape (D,)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `x` (..., D)."""
        return rms_norm(x, self.gain)
