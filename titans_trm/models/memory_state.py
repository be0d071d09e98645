"""The explicit state of a long-term memory: what goes from call to call, and never lives in the module."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from titans_trm.models.memory_chunk import Rows


@dataclass
class MemoryState:
    """Memory of each sequence between calls: a value, never a buffer of the module, of a size that does not grow.

    Gradients are anchored at the first weights of a chunk, so the weights kept are those at the start of the unfinished
    chunk, beside the tokens written since (`pending`, fewer than `chunk_size`). Any split of a sequence is then exact.

    Attributes:
        weights: per weight matrix `(H, B, d_in, d_out)`, or `(H, d_in, d_out)` where all sequences share them.
        momentum: as `weights`; None while it is zero.
        pending: tokens of the unfinished chunk, aligned to its end and padded in front; None if there are none.
        phases: number of pending tokens of each sequence; a single number holds for all.
        conv_tail: `(B or 1, conv_width - 1, 3 D)`, last inputs of the convolution; None without one.
        chunk_size: C of the memory that wrote it; 0 for a set.

    """

    weights: tuple[Tensor, ...]
    momentum: tuple[Tensor, ...] | None
    pending: Rows | None
    phases: tuple[int, ...]
    conv_tail: Tensor | None
    chunk_size: int

    def tensors(self) -> Iterator[Tensor]:
        """Yield what it holds."""
        yield from self.weights
        yield from self.momentum or ()
        if self.pending is not None:
            yield from (*self.pending.inputs, *self.pending.errors, self.pending.log_keep, self.pending.step)
            if self.pending.log_momentum is not None:
                yield self.pending.log_momentum
        if self.conv_tail is not None:
            yield self.conv_tail

    def detach(self) -> "MemoryState":
        """Return the same values cut from the graph."""
        return self._map(lambda tensor, _: tensor.detach())

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "MemoryState":
        """Return the state on another device, in another dtype, or both."""
        return self._map(lambda tensor, _: tensor.to(device=device, dtype=dtype))

    def select(self, index: Tensor) -> "MemoryState":
        """Return the sequences `index` (K,) int64 in that order: reorder, repeat or drop rows of a batch."""

        def pick(tensor: Tensor, dim: int) -> Tensor:
            return tensor.index_select(dim, index if tensor.shape[dim] > 1 else torch.zeros_like(index))

        picked = self._map(pick)
        shared = len(self.phases) == 1
        phases = self.phases if shared else tuple(self.phases[i] for i in index.tolist())
        longest = max(phases, default=0)
        return replace(
            picked,
            weights=self.weights if self.weights[0].dim() == 3 else picked.weights,  # shared by all: they stay so
            momentum=self.momentum if self.momentum and self.momentum[0].dim() == 3 else picked.momentum,
            pending=picked.pending.last(longest) if picked.pending is not None and longest else None,
            phases=phases,
        )

    def reset(self, mask: Tensor, fresh: "MemoryState") -> "MemoryState":
        """Return the state with the sequences in `mask` (B,) bool started anew from `fresh` (`init_state` or `prime`).

        Each sequence keeps its own phase, so what follows a reset equals what follows a new start. Reads the mask on
        the host. Raises ValueError if `fresh` holds pending tokens or the mask does not fit the batch.
        """
        if fresh.pending is not None:
            raise ValueError("fresh holds tokens of an unfinished chunk; reset to init_state() or prime() instead.")
        resets = mask.tolist()
        if len(self.phases) not in (1, len(resets)):
            raise ValueError(f"mask has {len(resets)} rows, the state {len(self.phases)}; give one value per sequence.")
        phases = self.phases if len(self.phases) == len(resets) else self.phases * len(resets)
        phases = tuple(0 if new else phase for new, phase in zip(resets, phases, strict=True))
        by_row = mask[:, None, None]
        weights = tuple(
            torch.where(by_row, _rowwise(f), _rowwise(w)) for f, w in zip(fresh.weights, self.weights, strict=True)
        )
        momentum = None
        if self.momentum is not None or fresh.momentum is not None:
            pairs = zip(fresh.momentum or _zeros(weights), self.momentum or _zeros(weights), strict=True)
            momentum = tuple(torch.where(by_row, _rowwise(f), _rowwise(s)) for f, s in pairs)
        tail = self.conv_tail
        if tail is not None and fresh.conv_tail is not None:
            tail = torch.where(by_row, fresh.conv_tail, tail)
        pending = None
        if self.pending is not None and max(phases):
            pending = self.pending.last(max(phases))
        return MemoryState(weights, momentum, pending, phases, tail, self.chunk_size)

    @staticmethod
    def concat(states: "Sequence[MemoryState]") -> "MemoryState":
        """Return one state of all sequences in order, of sets or whole chunks: states with pending tokens are refused.

        Raises:
            ValueError: there are none, tokens are pending, or they are of different memories.
        """
        if not states or any(state.pending is not None or state.chunk_size != states[0].chunk_size for state in states):
            raise ValueError("states are joined between chunks of one memory only; give at least one, none pending.")
        if len(states) == 1:
            return states[0]
        moving = [state.momentum for state in states if state.momentum is not None]
        if moving and len(moving) < len(states):
            raise ValueError("some states have a momentum and some have none; join states after the same step.")
        weights = _joined([state.weights for state in states])
        phases = tuple(phase for state in states for phase in _phase_of_each(state))
        tails = [state.conv_tail for state in states if state.conv_tail is not None]
        tail = torch.cat(tails) if tails else None
        return MemoryState(weights, _joined(moving) if moving else None, None, phases, tail, states[0].chunk_size)

    def state_dict(self) -> dict[str, Any]:
        """Return copies as tensors, numbers, lists and dicts: safe to load with `weights_only=True`."""
        own = self._map(lambda tensor, _: tensor.detach().clone())
        pending = None
        if own.pending is not None:
            pending = {
                "inputs": list(own.pending.inputs),
                "errors": list(own.pending.errors),
                "log_keep": own.pending.log_keep,
                "log_momentum": own.pending.log_momentum,
                "step": own.pending.step,
            }
        return {
            "weights": list(own.weights),
            "momentum": None if own.momentum is None else list(own.momentum),
            "pending": pending,
            "phases": list(own.phases),
            "conv_tail": own.conv_tail,
            "chunk_size": own.chunk_size,
        }

    @classmethod
    def from_state_dict(cls, values: dict[str, Any]) -> "MemoryState":
        """Rebuild a state from `state_dict`."""
        pending = values["pending"]
        if pending is not None:
            pending = Rows(**{**pending, "inputs": tuple(pending["inputs"]), "errors": tuple(pending["errors"])})
        return cls(
            weights=tuple(values["weights"]),
            momentum=None if values["momentum"] is None else tuple(values["momentum"]),
            pending=pending,
            phases=tuple(values["phases"]),
            conv_tail=values["conv_tail"],
            chunk_size=values["chunk_size"],
        )

    def _map(self, change: Callable[[Tensor, int], Tensor]) -> "MemoryState":
        """Apply `change(tensor, batch dimension)`; weights shared by all pass as `(H, 1, d_in, d_out)`."""

        def fast(tensor: Tensor) -> Tensor:
            return change(tensor, 1) if tensor.dim() == 4 else change(tensor.unsqueeze(1), 1).squeeze(1)

        rows = self.pending
        return replace(
            self,
            weights=tuple(map(fast, self.weights)),
            momentum=None if self.momentum is None else tuple(map(fast, self.momentum)),
            pending=None
            if rows is None
            else Rows(
                inputs=tuple(map(fast, rows.inputs)),
                errors=tuple(map(fast, rows.errors)),
                log_keep=change(rows.log_keep, 2),
                log_momentum=None if rows.log_momentum is None else change(rows.log_momentum, 2),
                step=change(rows.step, 2),
            ),
            conv_tail=None if self.conv_tail is None else change(self.conv_tail, 0),
        )


def _rowwise(weight: Tensor) -> Tensor:
    return weight.unsqueeze(1) if weight.dim() == 3 else weight


def _joined(parts: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    return tuple(torch.cat([_rowwise(one) for one in same], dim=1) for same in zip(*parts, strict=True))


def _phase_of_each(state: MemoryState) -> tuple[int, ...]:
    size = _rowwise(state.weights[0]).shape[1]
    return state.phases if len(state.phases) == size else state.phases * size


def _zeros(weights: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(torch.zeros_like(weight) for weight in weights)
