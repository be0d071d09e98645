"""The parts of a block as a first draft would have them: the baseline of `before_after.py`, on the same weights.

Each option is one thing that the package does differently; with all of them on, the computation is the package's.
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from titans_trm.models.attention import SlidingWindowAttention
from titans_trm.models.mlp import SwiGLU
from titans_trm.models.rotary import apply_rotary, rotary_tables
from titans_trm.models.titans_mag import MAGBlock
from titans_trm.models.titans_trm import TitansTRM


def plain_model(model: TitansTRM, *, fused: bool, sdpa: bool, tables: bool) -> TitansTRM:
    """Return a copy of `model` whose attention and SwiGLU are plain but for the options that are on."""
    model = copy.deepcopy(model)
    for block in model.recursion.net.blocks:
        assert isinstance(block, MAGBlock)
        if block.attention is not None:
            theta = model.config.backbone.rope_theta
            block.attention = PlainAttention(block.attention, theta, fused=fused, sdpa=sdpa, tables=tables)  # type: ignore[assignment]
        if not fused:
            block.mlp = PlainSwiGLU(block.mlp)  # type: ignore[assignment]
    return model


class PlainAttention(nn.Module):
    """Attention with a dense mask over all pairs of positions.

    Args:
        shipped: whose weights are taken.
        theta: base of the rotary wavelengths.
        fused: q, k and v by one product instead of three.
        sdpa: `scaled_dot_product_attention` instead of scores, softmax and product in turn.
        tables: take the rotary tables that the net call has made instead of making them here.
    """

    def __init__(self, shipped: SlidingWindowAttention, theta: float, *, fused: bool, sdpa: bool, tables: bool) -> None:
        super().__init__()
        self.shape = shipped.num_heads, shipped.causal, shipped.window
        self.theta, self.sdpa, self.tables = theta, sdpa, tables
        parts = [shipped.qkv.weight] if fused else shipped.qkv.weight.chunk(3)
        self.weights = nn.ParameterList(part.detach().clone() for part in parts)

    def forward(self, x: Tensor, persistent: Tensor | None, rotary: tuple[Tensor, Tensor]) -> Tensor:
        """Attend within `x` (B, N, D) and to `persistent` (P, D); return (B, N, D)."""
        heads, causal, window = self.shape
        q, k, v = self._project(x, heads)
        if not self.tables:
            rotary = rotary_tables(torch.arange(x.shape[1], device=x.device), q.shape[-1], self.theta)
        q, k = apply_rotary(q, *rotary), apply_rotary(k, *rotary)
        count = 0
        if persistent is not None:
            _, pk, pv = self._project(persistent[None], heads)
            count = pk.shape[2]
            k = torch.cat((pk.to(k.dtype).expand(len(x), -1, -1, -1), k), dim=2)
            v = torch.cat((pv.to(v.dtype).expand(len(x), -1, -1, -1), v), dim=2)
        mask = dense_mask(x.shape[1], count, causal, window)
        if self.sdpa:
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        else:
            scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
            if mask is not None:
                scores = scores.masked_fill(~mask, float("-inf"))
            out = scores.softmax(-1).to(v.dtype) @ v
        return out.transpose(1, 2).flatten(2)

    def _project(self, x: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
        parts = [F.linear(x, weight) for weight in self.weights]
        parts = list(parts[0].chunk(3, dim=-1)) if len(parts) == 1 else parts
        q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in parts)
        return q, k, v


class PlainSwiGLU(nn.Module):
    """SwiGLU with a product for the gate and one for what it gates."""

    def __init__(self, shipped: SwiGLU) -> None:
        super().__init__()
        gate, up = shipped.gate_up.weight.detach().chunk(2)
        self.gate, self.up = nn.Parameter(gate.clone()), nn.Parameter(up.clone())
        self.down = copy.deepcopy(shipped.down)

    def forward(self, x: Tensor) -> Tensor:
        """Map `x` (B, N, D) to (B, N, D)."""
        return self.down(F.silu(F.linear(x, self.gate)) * F.linear(x, self.up))


def dense_mask(length: int, count: int, causal: bool, window: int | None) -> Tensor | None:
    """Return which of `count` persistent tokens and `length` positions each position sees, (N, P + N); None: all."""
    if not causal and window is None:
        return None
    distance = torch.arange(length)[:, None] - torch.arange(length)
    seen = distance >= 0 if causal else torch.ones_like(distance, dtype=torch.bool)
    if window is not None:
        seen &= distance.abs() < window
    return F.pad(seen, (count, 0), value=True)
