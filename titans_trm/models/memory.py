"""Long-term memory learned at test time: the module. State: `memory_state`; arithmetic: `memory_chunk`."""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from titans_trm.models import memory_chunk as dual
from titans_trm.models.config import MemoryConfig
from titans_trm.models.memory_chunk import Rows
from titans_trm.models.memory_kernel import ChunkStep, Options, pack, unpack
from titans_trm.models.memory_projection import ProjectedHeads
from titans_trm.models.memory_set_kernel import SetStep
from titans_trm.models.memory_state import MemoryState

_KEEP_LOGIT = 5.0  # 1 - alpha = .993 at the start: half of a memory is left after about 100 tokens
_MOMENTUM_LOGIT = 0.0  # eta = .5 at the start: a token's surprise counts twice over, without a long overshoot
_STEP_LOGIT = 0.0  # theta = half its cap at the start: the middle of the gate's linear range
_GATE_WEIGHT_STD = 0.1  # of gate logits at the start: tokens differ, yet no gate starts saturated
_TAP_STD = 0.1  # of the convolution's taps at the start, around the tap each projection starts from


class NeuralMemory(nn.Module):
    """Titans long-term memory (arXiv 2501.00663, section 3.1): a small MLP per head, trained by what it reads.

    Each head learns, during the forward pass, to map keys to values by gradient descent with momentum (past surprise)
    and forgetting; queries read it. `M(x) = x + LN(W2 gelu(W1 x))`, or `x + LN(W1 x)` at depth 1. In the causal mode
    tokens are written in order and token t reads what tokens up to t wrote. In the set mode all tokens are written at
    once, without order, and all read the result: permuted inputs give permuted outputs.
    """

    def __init__(self, width: int, config: MemoryConfig, *, causal: bool) -> None:
        """Build the projections, the gates and the learned initial memory of each head.

        Raises ValueError if the heads do not divide `width`, or if a set is to be read before it is written.
        """
        super().__init__()
        if width % config.num_heads:
            raise ValueError(
                f"width={width} is not divisible by memory.num_heads={config.num_heads}; choose a divisor."
            )
        if not causal and config.read == "pre":
            raise ValueError("memory.read=pre reads nothing of a set that is written at once; choose memory.read=post.")
        self.width, self.config, self.causal = width, config, causal
        head = width // config.num_heads
        sizes = [head, head] if config.depth == 1 else [head, config.expansion * head, head]
        self.carries_state = causal or config.carry != "reset"
        # A set that is written once never reads its momentum: no eta gate then, whose weights would never learn.
        self.has_momentum = config.momentum and self.carries_state
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        conv_width = config.conv_width if causal else 0
        self.conv = nn.Parameter(torch.empty(3 * width, 1, conv_width)) if conv_width else None
        self.gates = nn.Linear(width, len(self._gate_logits()) * config.depth * config.num_heads)
        self.out_gate = nn.Linear(width, width, bias=False)
        self.out_proj = nn.Linear(width, width, bias=False)
        self.initial_weights = nn.ParameterList(
            torch.empty(config.num_heads, d_in, d_out) for d_in, d_out in zip(sizes[:-1], sizes[1:], strict=True)
        )
        self.gain = nn.Parameter(torch.empty(width))  # of LN in each head's memory: a slow weight
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw initial parameters: unit variance through every projection, gates at the module's starting logits.

        Where there is an order, the memory starts by binding every token to the one before it: keys look one token
        back, queries and values at their own token, and queries begin in the space of keys. Read by a token, it answers
        what followed that token last time. From independent draws queries first have to find the keys, which took most
        of the training in recall tasks.
        """
        for linear in (self.qkv, self.out_gate, self.out_proj):
            nn.init.normal_(linear.weight, std=self.width**-0.5)
        if self.conv is not None:
            self._bind_to_the_token_before()
        nn.init.normal_(self.gates.weight, std=_GATE_WEIGHT_STD * self.width**-0.5)
        per_gate = self.config.depth * self.config.num_heads
        with torch.no_grad():
            self.gates.bias.copy_(torch.tensor(self._gate_logits()).repeat_interleave(per_gate))
        for weight in self.initial_weights:
            nn.init.normal_(weight, std=weight.shape[1] ** -0.5)
        nn.init.ones_(self.gain)

    @torch.no_grad()
    def _bind_to_the_token_before(self) -> None:
        """Start the convolution at one tap each: the token before for keys, the token itself for queries and values."""
        assert self.conv is not None
        queries, keys, values = nn.init.normal_(self.conv, std=_TAP_STD).unflatten(0, (3, self.width))
        for part in (queries, values):
            part[..., -1] += 1.0
        keys[..., -min(2, self.conv.shape[-1])] += 1.0
        self.qkv.weight[: self.width] = self.qkv.weight[self.width : 2 * self.width]

    def init_state(
        self, batch_size: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> MemoryState:
        """Return the learned initial memory, shared by the batch (a view of the parameters: gradients reach them)."""
        weights = tuple(self.initial_weights)
        tail = None
        if self.conv is not None:
            tail = weights[0].new_zeros(1, self.conv.shape[-1] - 1, 3 * self.width)
        state = MemoryState(weights, None, None, (0,) * batch_size, tail, self._chunk_size)
        return state if device is None and dtype is None else state.to(device, dtype)

    def prime(self, tokens: Tensor) -> MemoryState:
        """Return the state after writing persistent `tokens` (P, D) as one completed chunk of their own.

        They do not depend on the input, so the state has no batch dimension; chunks count from the first token after.
        Causal mode only: ValueError in the set mode, where persistent tokens are written with the set.
        """
        if not self.causal:
            raise ValueError("prime() is for causal memories; write persistent tokens with the set instead.")
        state = replace(self.init_state(1), phases=(0,))
        if tokens.shape[0] == 0:
            return state
        x = tokens.unsqueeze(0)
        _, keys, values, tail = self._project(x, state.conv_tail, tokens.shape[0] - 1)
        logits = self._gate_logit_rows(x)
        with torch.autocast(x.device.type, enabled=False):
            rows = self._rows(state.weights, keys, values, logits, None)
            weights, momentum = dual.write(state.weights, None, rows, dual.causal_decays(rows))
        shared = None if momentum is None else tuple(s.squeeze(1) for s in momentum)
        return replace(state, weights=tuple(w.squeeze(1) for w in weights), momentum=shared, conv_tail=tail)

    def forward(
        self,
        x: Tensor,
        state: MemoryState | None = None,
        *,
        num_queries_from: int = 0,
        return_state: bool = False,
        stats: dict[str, Tensor] | None = None,
    ) -> tuple[Tensor, MemoryState | None]:
        """Write the tokens of `x` (B, N, D) and read for all but the first `num_queries_from` of them.

        Returns `(out, state)`: `out` (B, N - num_queries_from, D), and the state after the last token where
        `return_state` asks for it, else None. `stats`, if given, receives detached means: `inner_loss`,
        `surprise_norm` and per weight matrix (L,) `theta`, `alpha`, `eta`, `memory_norm`. Raises ValueError for a state
        of another chunk size, or for any state where `memory.carry=reset` keeps none.
        """
        self._check(x, state, num_queries_from, return_state)
        state = state or self.init_state(x.shape[0])
        queries, keys, values, tail = self._project(x, state.conv_tail, num_queries_from)
        logits = self._gate_logit_rows(x)
        seen: list[dict[str, Tensor]] | None = None if stats is None else []
        with torch.autocast(x.device.type, enabled=False):  # the core casts its products itself
            run = self._in_order if self.causal else self._at_once
            out, after = run(state, queries, keys, values, logits, return_state, seen)
            out = dual.finish(queries, out, self._head_gain)
            out = F.rms_norm(out, out.shape[-1:]).permute(1, 2, 0, 3).flatten(2)
        if stats is not None and seen:
            stats.update({name: torch.stack([entry[name] for entry in seen]).mean(0) for name in seen[0]})
        out = self.out_proj(out.to(x.dtype) * F.silu(self.out_gate(x[:, num_queries_from:])))
        return out, None if after is None else replace(after, conv_tail=tail)

    @property
    def _chunk_size(self) -> int:
        return self.config.chunk_size if self.causal else 0

    @property
    def _recomputes(self) -> bool:
        # A compiler decides itself what to recompute, and fuses the recorded steps.
        return self.config.recompute != "none" and not torch.compiler.is_compiling()

    @property
    def _head_gain(self) -> Tensor:
        return self.gain.view(self.config.num_heads, 1, 1, -1)

    def _gate_logits(self) -> list[float]:
        """Starting logits of the gates there are: theta, then 1 - alpha, then eta."""
        keep = [_KEEP_LOGIT] if self.config.forgetting else []
        return [_STEP_LOGIT, *keep, *([_MOMENTUM_LOGIT] if self.has_momentum else [])]

    def _check(self, x: Tensor, state: MemoryState | None, num_queries_from: int, return_state: bool) -> None:
        if not 0 <= num_queries_from < x.shape[1]:
            raise ValueError(
                f"num_queries_from={num_queries_from} leaves no query of {x.shape[1]} tokens; choose fewer."
            )
        if (state is not None or return_state) and not self.carries_state:
            raise ValueError("memory.carry=reset keeps no state between calls of a set; choose cycles or steps.")
        if state is not None and state.chunk_size != self._chunk_size:
            raise ValueError(
                f"the state was written with chunk_size={state.chunk_size}, this memory has {self._chunk_size}; "
                "use the chunk size of the state."
            )
        if state is not None and len(state.phases) not in (1, x.shape[0]):
            raise ValueError(f"the state holds {len(state.phases)} sequences, x {x.shape[0]}; use state.select(index).")

    def _project(
        self, x: Tensor, conv_tail: Tensor | None, num_queries_from: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Return queries, keys, values `(H, B, T, d)` in the dtype of products, and the new tail of the convolution."""
        qkv, tail, taps = self.qkv(x), None, None
        if self.conv is not None and conv_tail is not None:
            qkv = torch.cat((conv_tail.to(qkv.dtype).expand(x.shape[0], -1, -1), qkv), dim=1)
            tail, taps = qkv[:, x.shape[1] :], self.conv.to(qkv.dtype).squeeze(1)
        queries, keys, values = ProjectedHeads.apply(qkv, taps, self.config.num_heads)
        return queries[:, :, num_queries_from:], keys, values, tail

    def _gate_logit_rows(self, x: Tensor) -> Tensor:
        """Return gate logits `(gates, L, H, B, N)` in at least float32."""
        logits = F.linear(x, self.gates.weight).to(_wide(x.dtype)) + self.gates.bias
        shape = (len(self._gate_logits()), self.config.depth, self.config.num_heads)
        return logits.unflatten(-1, shape).permute(2, 3, 4, 0, 1).contiguous()

    def _rows(
        self,
        weights: tuple[Tensor, ...],
        keys: Tensor,
        values: Tensor,
        logits: Tensor,
        seen: list[dict[str, Tensor]] | None,
    ) -> Rows:
        """Take the surprise of tokens at `weights` and put their gates beside it."""
        inputs, errors, loss = dual.surprise(weights, self._head_gain, keys, values)
        norms = dual.gradient_norms(inputs, errors)
        theta = torch.sigmoid(logits[0]) * (self.config.max_step_size / (self._chunk_size or keys.shape[2]))
        # One alpha and one eta for a set: from the mean of its tokens' logits, so that no order enters.
        shared = logits[1:] if self.causal else logits[1:].mean(-1, keepdim=True)
        log_gates = F.logsigmoid(shared)
        every = theta if self.causal else theta[..., :1]
        log_keep = log_gates[0] if self.config.forgetting else torch.zeros_like(every)
        log_momentum = log_gates[-1] if self.has_momentum else None
        if seen is not None:
            with torch.no_grad():
                entry = {"inner_loss": loss.mean(), "surprise_norm": norms.mean()}
                entry["theta"] = theta.mean((1, 2, 3))
                entry["alpha"] = -torch.expm1(log_keep).mean((1, 2, 3))
                entry["eta"] = (
                    torch.zeros_like(entry["alpha"]) if log_momentum is None else log_momentum.exp().mean((1, 2, 3))
                )
                entry["memory_norm"] = torch.stack([w.flatten(-2).norm(dim=-1).mean() for w in weights])
                seen.append({name: value.detach() for name, value in entry.items()})
        return Rows(inputs, errors, log_keep, log_momentum, theta * dual.cap_scale(norms, self.config.max_inner_grad))

    def _at_once(
        self,
        state: MemoryState,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        logits: Tensor,
        return_state: bool,
        seen: list[dict[str, Tensor]] | None,
    ) -> tuple[Tensor, MemoryState | None]:
        """Write a set, then read it."""
        if self._recomputes and seen is None:
            options = self._options(keys.shape[2])
            first, second = pack(state, keys.shape[1])
            out, first, second = SetStep.apply(
                first, second, keys, values, queries, logits, self._head_gain, options, return_state
            )
            if not return_state:
                return out, None
            weights, momentum = unpack(first, second)
            return out, replace(state, weights=weights, momentum=momentum)
        rows = self._rows(state.weights, keys, values, logits, seen)
        decays = dual.set_decays(rows)
        out = dual.read(state.weights, state.momentum, rows, decays, queries)
        if not return_state:
            return out, None
        weights, momentum = dual.write(state.weights, state.momentum, rows, decays)
        return out, replace(state, weights=weights, momentum=momentum)

    def _in_order(
        self,
        state: MemoryState,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        logits: Tensor,
        return_state: bool,
        seen: list[dict[str, Tensor]] | None,
    ) -> tuple[Tensor, MemoryState | None]:
        """Write and read tokens chunk by chunk; a piece ends where the chunk of any sequence does."""
        lengths = self._piece_lengths(state.phases, keys.shape[2])
        unread = keys.shape[2] - queries.shape[2]
        whole = range(0)
        if self._recomputes and seen is None:
            whole = self._whole_chunks(state.phases, lengths, unread, return_state)
        # Split once: slices would each fill a zero gradient as long as the sequence.
        pieces = list(zip(keys.split(lengths, 2), values.split(lengths, 2), logits.split(lengths, -1), strict=True))
        reads = iter(queries.split(_read_lengths(lengths, unread), 2))
        outs: list[Tensor] = []
        for index, (length, piece) in enumerate(zip(lengths, pieces, strict=True)):
            goes_on = return_state or index + 1 < len(pieces)
            if index in whole:
                if index == whole.start:
                    chunks = [(*pieces[i], next(reads)) for i in whole]
                    read, state = self._recomputed(state, chunks, return_state or whole.stop < len(pieces))
                    outs += read
                continue
            rows = self._rows(state.weights, *piece, seen)
            if state.pending is not None:
                rows = state.pending.append(rows)
            decays = dual.causal_decays(rows, self._present(state.phases, len(rows), rows.step.device))
            if sum(lengths[: index + 1]) > unread:
                wanted = next(reads)
                at = dual.decays_at_queries(decays, wanted.shape[2], before_write=self.config.read == "pre")
                outs.append(dual.read(state.weights, state.momentum, rows, at, wanted))
            if goes_on:
                state = self._advance(state, rows, decays, length)
        return torch.cat(outs, dim=2), state if return_state else None

    def _whole_chunks(self, phases: tuple[int, ...], lengths: list[int], unread: int, return_state: bool) -> range:
        """Return which pieces are chunks of their own: nothing is pending before them, all tokens are read."""
        size = self.config.chunk_size
        if len(set(phases)) > 1:
            return range(0)
        start = 0 if phases[0] == 0 else 1
        while start < len(lengths) and sum(lengths[:start]) < unread:
            start += 1
        stop = len(lengths)
        if return_state and stop and lengths[-1] < size:
            stop -= 1  # its tokens are the next call's pending rows
        return range(start, max(start, stop))

    def _recomputed(
        self, state: MemoryState, chunks: Sequence[tuple[Tensor, ...]], goes_on: bool
    ) -> tuple[list[Tensor], MemoryState]:
        """Write and read whole chunks, each one operation of autograd; in segments if their states are recomputed."""
        options = self._options(self.config.chunk_size)
        length, count = len(chunks), len(chunks)
        if self.config.recompute == "segment" and torch.is_grad_enabled():
            length = math.isqrt(count - 1) + 1
        first, second = pack(state, chunks[0][0].shape[1])
        outs: list[Tensor] = []
        for start in range(0, count, length):
            segment = chunks[start : start + length]
            arguments = (first, second, self._head_gain, options, goes_on or start + length < count, segment)
            if length < count:
                read, first, second = checkpoint(_segment, *arguments, use_reentrant=False, preserve_rng_state=False)
            else:
                read, first, second = _segment(*arguments)
            outs += read
        if not goes_on:
            return outs, state
        weights, momentum = unpack(first, second)
        return outs, replace(state, weights=weights, momentum=momentum, pending=None, phases=(0,) * len(state.phases))

    def _options(self, length: int) -> Options:
        config = self.config
        return Options(
            config.forgetting,
            self.has_momentum,
            config.max_step_size / length,
            config.max_inner_grad,
            config.read == "pre",
        )

    def _piece_lengths(self, phases: tuple[int, ...], total: int) -> list[int]:
        """Split `total` tokens into pieces that each end where a chunk of some sequence does, or the input."""
        ends = {
            end for phase in set(phases) for end in range(self.config.chunk_size - phase, total, self.config.chunk_size)
        }
        cuts = [0, *sorted(ends), total]
        return [stop - start for start, stop in zip(cuts[:-1], cuts[1:], strict=True)]

    @staticmethod
    def _present(phases: tuple[int, ...], length: int, device: torch.device) -> Tensor | None:
        """Return which of the last `length` rows each sequence has, `(B, length)`; None where all have all."""
        if len(set(phases)) == 1:
            return None
        missing = torch.tensor([max(phases) - phase for phase in phases], device=device)
        return torch.arange(length, device=device) >= missing[:, None]

    def _advance(self, state: MemoryState, rows: Rows, decays: dual.Decays, count: int) -> MemoryState:
        """Move every sequence on by `count` tokens; fold the chunks that are complete into the weights."""
        phases = tuple(phase + count for phase in state.phases)
        done = [phase == self.config.chunk_size for phase in phases]
        if not any(done):
            return replace(state, pending=rows, phases=phases)
        weights, momentum = dual.write(state.weights, state.momentum, rows, decays)
        if all(done):
            return replace(state, weights=weights, momentum=momentum, pending=None, phases=(0,) * len(phases))
        folded = replace(state, weights=weights, momentum=momentum, pending=None, phases=(0,) * len(phases))
        mask = torch.tensor(done, device=rows.step.device)
        return replace(state, pending=rows, phases=phases).reset(mask, folded)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _read_lengths(lengths: list[int], unread: int) -> list[int]:
    """Return how many tokens of each piece are read when the first `unread` are not, without pieces that have none."""
    stops = [sum(lengths[: i + 1]) for i in range(len(lengths))]
    return [min(length, stop - unread) for length, stop in zip(lengths, stops, strict=True) if stop > unread]


def _segment(
    first: Tensor,
    second: Tensor | None,
    gain: Tensor,
    options: Options,
    goes_on: bool,
    chunks: Sequence[tuple[Tensor, ...]],
) -> tuple[list[Tensor], Tensor, Tensor | None]:
    """Write and read chunks of `(keys, values, logits, queries)`; the last is written only if the memory `goes_on`."""
    outs = []
    for index, (keys, values, logits, queries) in enumerate(chunks):
        write = goes_on or index + 1 < len(chunks)
        out, after, after_second = ChunkStep.apply(first, second, keys, values, queries, logits, gain, options, write)
        outs.append(out)
        if write:
            first, second = after, after_second
    return outs, first, second
