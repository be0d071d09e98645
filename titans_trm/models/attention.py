"""Sliding-window attention with persistent tokens: the short-term branch of a MAG block.

- Fused qkv, rotary positions, no biases; the output projection belongs to the block, behind the gate.
- `window=w`: a causal model sees positions i-w < j <= i, a grid |i-j| < w; `None` sees everything allowed.
- Persistent tokens (Titans eq. 19) are keys and values without a position, visible from everywhere.
- Long sequences run in blocks of w queries against the neighbouring blocks only: O(N w) memory, never an (N, N) mask.
- A stream keeps the keys and values of its last w - 1 positions; `Reach` says what new tokens see of them.

B batch, N sequence, D width, H heads, d = D / H, P persistent tokens, w window.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from titans_trm.models.rotary import apply_rotary, rotary_tables

KeysValues = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Reach:
    """What the N new tokens of a stream see; the same in every block and net call."""

    rotary: tuple[Tensor, Tensor]  # cos and sin at their absolute positions: (N, d / 2), or (B, 1, N, d / 2)
    visible: Tensor | None  # (N, P + M + N) or (B, 1, N, P + M + N) bool over all keys; None: each sees all of them
    keep: int  # positions whose keys and values the next tokens may need

    @classmethod
    def of(
        cls,
        positions: Sequence[int],
        num_new: int,
        *,
        window: int | None,
        num_persistent: int,
        head_width: int,
        theta: float,
        device: torch.device,
    ) -> "Reach":
        """Return the reach of `num_new` tokens behind sequences that have read `positions` (B) tokens."""
        longest = max(positions)
        most = longest + num_new if window is None else window - 1
        cached = min(longest, most)
        new = torch.arange(num_new, device=device)
        same = len(set(positions)) == 1
        starts = torch.tensor(positions[:1] if same else positions, device=device)
        places = starts[0] + new if same else starts[:, None, None] + new
        visible = None
        if num_new > 1 or min(positions) < cached:
            distance = cached + new[:, None] - torch.arange(cached + num_new, device=device)
            visible = (distance >= 0) & (distance <= most)
            if min(positions) < cached:  # a sequence that started later has its keys at the end of the cache
                exists = torch.arange(cached + num_new, device=device) >= cached - starts[:, None]
                visible = visible & exists[:, None, None]
            visible = F.pad(visible, (num_persistent, 0), value=True)
        return cls(rotary_tables(places, head_width, theta), visible, min(longest + num_new, most))


class SlidingWindowAttention(nn.Module):
    """Multi-head softmax attention over a band of positions and all persistent tokens."""

    def __init__(self, width: int, num_heads: int, *, causal: bool, window: int | None) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.causal = causal
        self.window = window
        self.qkv = nn.Linear(width, 3 * width, bias=False)

    def forward(self, x: Tensor, persistent: Tensor | None, rotary: tuple[Tensor, Tensor]) -> Tensor:
        """Attend within `x` (B, N, D) and to `persistent` (P, D).

        Args:
            x: tokens (B, N, D).
            persistent: learned tokens (P, D), or None.
            rotary: cos and sin (N, d / 2) of the positions of `x`.

        Returns:
            (B, N, D), heads concatenated, not yet projected.
        """
        q, k, v = self._heads(self.qkv(x))
        q, k = apply_rotary(q, *rotary), apply_rotary(k, *rotary)
        memory = None
        if persistent is not None:
            pq, pk, pv = self._heads(self.qkv(persistent)[None])
            memory = tuple(t.to(q.dtype).expand(x.shape[0], -1, -1, -1) for t in (pq, pk, pv))
        out = self._attend(q, k, v, memory)
        return out.transpose(1, 2).flatten(2)

    def persistent_keys(self, persistent: Tensor) -> KeysValues:
        """Return keys and values (1, H, P, d) of the learned tokens (P, D)."""
        _, k, v = self._heads(self.qkv(persistent)[None])
        return k, v

    def extend(
        self, x: Tensor, persistent: KeysValues | None, cache: KeysValues | None, reach: Reach
    ) -> tuple[Tensor, KeysValues]:
        """Attend from the next tokens `x` (B, N, D) of a stream to the cached ones, themselves and `persistent`.

        Returns (B, N, D), heads concatenated, not yet projected; and the cache (B, H, M, d) for the tokens to come.
        """
        q, k, v = self._heads(self.qkv(x))
        q, k = apply_rotary(q, *reach.rotary), apply_rotary(k, *reach.rotary)
        parts = [] if persistent is None else [tuple(t.to(k.dtype).expand(len(x), -1, -1, -1) for t in persistent)]
        parts += [] if cache is None else [cache]
        keys, values = (torch.cat(part, dim=2) for part in zip(*parts, (k, v), strict=True))
        out = F.scaled_dot_product_attention(q, keys, values, attn_mask=reach.visible)
        first = keys.shape[2] - reach.keep
        return out.transpose(1, 2).flatten(2), (keys[:, :, first:], values[:, :, first:])

    def _heads(self, fused: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Split (B, N, 3 D) into q, k, v of shape (B, H, N, d)."""
        q, k, v = fused.unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        return q, k, v

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, persistent: tuple[Tensor, ...] | None) -> Tensor:
        length = q.shape[2]
        if self.window is not None and self.window < length:
            return _banded_attention(q, k, v, persistent, self.window, self.causal)
        if persistent is None:
            return F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        pq, pk, pv = persistent
        k, v = torch.cat((pk, k), dim=2), torch.cat((pv, v), dim=2)
        if not self.causal:
            return F.scaled_dot_product_attention(q, k, v)
        # With the persistent tokens as the first queries too, "visible to all, then causal" is the plain causal
        # triangle, which needs no mask; their own outputs are dropped.
        out = F.scaled_dot_product_attention(torch.cat((pq, q), dim=2), k, v, is_causal=True)
        return out[:, :, pq.shape[2] :]


def _banded_attention(
    q: Tensor, k: Tensor, v: Tensor, persistent: tuple[Tensor, ...] | None, window: int, causal: bool
) -> Tensor:
    """Attend in blocks of `window` queries, each to its own and the neighbouring blocks (B, H, N, d)."""
    batch, heads, length, width = q.shape
    num_blocks = -(-length // window)
    padding = num_blocks * window - length
    q, k, v = (F.pad(t, (0, 0, 0, padding)).unflatten(2, (num_blocks, window)) for t in (q, k, v))
    k, v = _with_neighbours(k, causal), _with_neighbours(v, causal)
    mask = _band_mask(num_blocks, window, length, causal, q.device)
    if persistent is not None:
        _, pk, pv = persistent
        count = pk.shape[2]
        k = torch.cat((pk[:, :, None].expand(-1, -1, num_blocks, -1, -1), k), dim=3)
        v = torch.cat((pv[:, :, None].expand(-1, -1, num_blocks, -1, -1), v), dim=3)
        mask = F.pad(mask, (count, 0), value=True)
    # Blocks join the heads, so that the fused kernel sees its usual four axes.
    q, k, v = (t.flatten(1, 2) for t in (q, k, v))
    mask = mask.repeat(heads, 1, 1)[None]
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return out.reshape(batch, heads, num_blocks * window, width)[:, :, :length]


def _with_neighbours(t: Tensor, causal: bool) -> Tensor:
    """Join each block of (B, H, blocks, w, d) with the one before it and, for grids, the one after it."""
    parts = [F.pad(t[:, :, :-1], (0, 0, 0, 0, 1, 0)), t]
    if not causal:
        parts.append(F.pad(t[:, :, 1:], (0, 0, 0, 0, 0, 1)))
    return torch.cat(parts, dim=3)


def _band_mask(num_blocks: int, window: int, length: int, causal: bool, device: torch.device) -> Tensor:
    """Return which keys each query may see: (blocks, w, 2 w) causal, (blocks, w, 3 w) bidirectional."""
    query = torch.arange(num_blocks * window, device=device).view(num_blocks, window, 1)
    key = torch.arange((2 if causal else 3) * window, device=device).view(1, 1, -1)
    key = key + (torch.arange(num_blocks, device=device).view(-1, 1, 1) - 1) * window
    distance = query - key
    near = (distance >= 0) & (distance < window) if causal else distance.abs() < window
    seen = near & (key >= 0) & (key < length)
    # A padded query sees itself, so that no row is empty (an empty softmax row is NaN and would reach the gradient).
    return seen | (distance == 0)
