"""Titans memory-as-gate (arXiv 2501.00663, section 4.2): attention sees the near past exactly, memory keeps the rest.

- `x~ = [p_1 .. p_P ; x]`, `y = SWA(x~)`, `m = LMM(x~)`, `o = y (x) m` (eq. 26-28); the memory reads the block's input.
- The paper leaves (x) open ("normalised, then a non-linearity"): `product` is its reading, `convex` mixes the branches,
  `attention_only` and `memory_only` are the ablations.
- Post-norm keeps the recurrent state at unit RMS whatever the number of net calls; pre-norm is for a plain backbone.

B batch, N sequence, D width, P persistent tokens.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from titans_trm.models.attention import KeysValues, Reach, SlidingWindowAttention
from titans_trm.models.config import BackboneConfig, TitansTRMConfig
from titans_trm.models.memory import NeuralMemory
from titans_trm.models.memory_state import MemoryState
from titans_trm.models.mlp import SwiGLU
from titans_trm.models.norm import RMSNorm, rms_norm
from titans_trm.models.rotary import rotary_tables
from titans_trm.models.stream_state import BlockState


class TitansMAG(nn.Module):
    """A stack of MAG blocks: the one network `f` that the recursion calls again and again."""

    def __init__(self, config: TitansTRMConfig) -> None:
        super().__init__()
        self.head_width = config.width // config.backbone.num_heads
        self.rope_theta = config.backbone.rope_theta
        self.blocks = nn.ModuleList(MAGBlock(config) for _ in range(config.backbone.num_blocks))
        self.final_norm = RMSNorm(config.width) if config.backbone.norm == "pre" else nn.Identity()

    def forward(
        self, x: Tensor, states: list[MemoryState] | None = None, *, return_states: bool = False
    ) -> tuple[Tensor, list[MemoryState] | None]:
        """Run the blocks over `x` (B, N, D).

        Args:
            x: tokens (B, N, D).
            states: one memory state per block; None starts from the learned initial memory.
            return_states: also return the states after this call.

        Returns:
            The tokens (B, N, D), and the new states or None.
        """
        rotary = rotary_tables(torch.arange(x.shape[1], device=x.device), self.head_width, self.rope_theta)
        new_states: list[MemoryState] = []
        for index, block in enumerate(self.blocks):
            x, state = block(x, rotary, states[index] if states else None, return_state=return_states)
            if state is not None:
                new_states.append(state)
        return self.final_norm(x), new_states or None

    def extend(
        self, x: Tensor, persistent: list[KeysValues | None], states: list[BlockState], reach: Reach
    ) -> tuple[Tensor, list[BlockState]]:
        """Run the blocks over the next tokens `x` (B, N, D) of a stream; return them and each block's new state."""
        new_states = []
        for block, tokens, state in zip(self.blocks, persistent, states, strict=True):
            assert isinstance(block, MAGBlock)
            x, after = block.extend(x, tokens, state, reach)
            new_states.append(after)
        return self.final_norm(x), new_states


class MAGBlock(nn.Module):
    """Attention and memory side by side, a gate, then SwiGLU, each with a residual."""

    def __init__(self, config: TitansTRMConfig) -> None:
        super().__init__()
        width, backbone = config.width, config.backbone
        self.causal = config.causal
        self.pre_norm = backbone.norm == "pre"
        count = backbone.num_persistent_tokens
        self.persistent = nn.Parameter(torch.randn(count, width)) if count else None
        self.attention = (
            SlidingWindowAttention(width, backbone.num_heads, causal=config.causal, window=backbone.window)
            if config.has_attention
            else None
        )
        self.memory = NeuralMemory(width, config.memory, causal=config.causal) if config.has_memory else None
        self.gate = MAGGate(width, backbone)
        self.mlp = SwiGLU(width, backbone.mlp_hidden)
        if self.pre_norm:
            self.mixer_norm, self.mlp_norm = RMSNorm(width), RMSNorm(width)

    def forward(
        self, x: Tensor, rotary: tuple[Tensor, Tensor], state: MemoryState | None = None, *, return_state: bool = False
    ) -> tuple[Tensor, MemoryState | None]:
        """Map `x` (B, N, D) to (B, N, D); hand the memory's state on if asked."""
        h = self.mixer_norm(x) if self.pre_norm else x
        short_term = self.attention(h, self.persistent, rotary) if self.attention is not None else None
        long_term, state = self._remember(h, state, return_state) if self.memory is not None else (None, None)
        return self._mix(x, short_term, long_term), state

    def persistent_keys(self) -> KeysValues | None:
        """Return what attention sees of the persistent tokens, (1, H, P, d) each; None where there are none."""
        if self.attention is None or self.persistent is None:
            return None
        return self.attention.persistent_keys(self.persistent)

    def initial_memory(self) -> MemoryState | None:
        """Return the memory before the first token of a causal sequence, shared by all; None where there is none."""
        if self.memory is None:
            return None
        return self.memory.init_state(1) if self.persistent is None else self.memory.prime(self.persistent)

    def extend(
        self, x: Tensor, persistent: KeysValues | None, state: BlockState, reach: Reach
    ) -> tuple[Tensor, BlockState]:
        """Map the next tokens `x` (B, N, D) of a stream to (B, N, D), and the state to that after them."""
        h = self.mixer_norm(x) if self.pre_norm else x
        short_term = long_term = cache = memory = None
        if self.attention is not None:
            short_term, cache = self.attention.extend(h, persistent, state.cache, reach)
        if self.memory is not None:
            long_term, memory = self.memory(h, state.memory, return_state=True)
        return self._mix(x, short_term, long_term), BlockState(cache, memory)

    def _mix(self, x: Tensor, short_term: Tensor | None, long_term: Tensor | None) -> Tensor:
        """Join the branches, then SwiGLU, each with its residual."""
        mixed = self.gate(short_term, long_term)
        if self.pre_norm:
            x = x + mixed
            return x + self.mlp(self.mlp_norm(x))
        x = rms_norm(x + mixed)
        return rms_norm(x + self.mlp(x))

    def _remember(self, h: Tensor, state: MemoryState | None, return_state: bool) -> tuple[Tensor, MemoryState | None]:
        """Write the persistent tokens and `h` (B, N, D) to the memory and read it for `h`."""
        assert self.memory is not None
        if self.persistent is None:
            return self.memory(h, state, return_state=return_state)
        if self.causal:
            # Input-independent, so written once when a sequence starts: they are part of its initial state.
            return self.memory(h, self.initial_memory() if state is None else state, return_state=return_state)
        tokens = torch.cat((self.persistent.to(h.dtype).expand(h.shape[0], -1, -1), h), dim=1)
        return self.memory(tokens, state, num_queries_from=self.persistent.shape[0], return_state=return_state)


class MAGGate(nn.Module):
    """Join the attention output y and the memory output m, both (B, N, D).

    `product`: `W_o[ RMS(y) g_y * sigma(RMS(m) g_m) ]`; `convex`: `W_o[ g * y + (1 - g) * m ]` with
    `g = sigmoid(W_g [y ; m])`; `attention_only`: `W_o y`; `memory_only`: m, which is projected already.
    """

    def __init__(self, width: int, config: BackboneConfig) -> None:
        super().__init__()
        self.mode = config.gate
        self.activation = config.gate_activation
        if self.mode == "product":
            self.attention_gain = nn.Parameter(torch.ones(width))
            self.memory_gain = nn.Parameter(torch.ones(width))
        elif self.mode == "convex":
            self.mix = nn.Linear(2 * width, width)
        if self.mode != "memory_only":
            self.out = nn.Linear(width, width, bias=False)

    def forward(self, y: Tensor | None, m: Tensor | None) -> Tensor:
        """Return the block's mixed output (B, N, D)."""
        if self.mode == "memory_only":
            assert m is not None
            return m
        assert y is not None
        if self.mode == "attention_only":
            return self.out(y)
        assert m is not None
        gate = self.openness(y, m)
        if self.mode == "product":
            return self.out(rms_norm(y, self.attention_gain) * gate)
        return self.out(gate * y + (1.0 - gate) * m)

    def openness(self, y: Tensor, m: Tensor) -> Tensor:
        """Return the gate's value (B, N, D): what multiplies the attention branch."""
        if self.mode == "convex":
            return torch.sigmoid(self.mix(torch.cat((y, m), dim=-1)))
        normed = rms_norm(m, self.memory_gain)
        return torch.sigmoid(normed) if self.activation == "sigmoid" else F.silu(normed)


@contextmanager
def gate_statistics(model: nn.Module) -> Iterator[dict[str, dict[str, float]]]:
    """Collect, for the last call of every gate inside `model`, how open it was.

    Yields a dict that fills while the model runs: gate name -> `mean`, `std` over all entries, `dead` (share of entries
    below 0.01) and `memory_rms`, `attention_rms` of the branches. Costs nothing outside the `with` block.
    """
    found: dict[str, dict[str, float]] = {}
    handles = []
    for name, module in model.named_modules():
        if isinstance(module, MAGGate) and module.mode in ("product", "convex"):
            handles.append(module.register_forward_pre_hook(_gate_hook(name, found)))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _gate_hook(name: str, found: dict[str, dict[str, float]]):  # type: ignore[no-untyped-def]
    @torch.no_grad()
    def hook(gate: MAGGate, inputs: tuple[Tensor, Tensor]) -> None:
        y, m = inputs
        value = gate.openness(y, m).float()
        found[name] = {
            "mean": value.mean().item(),
            "std": value.std().item(),
            "dead": (value.abs() < 0.01).float().mean().item(),
            "attention_rms": y.float().square().mean().sqrt().item(),
            "memory_rms": m.float().square().mean().sqrt().item(),
        }

    return hook
