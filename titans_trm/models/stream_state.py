"""The explicit state of a stream: what a causal model must keep of the tokens it has read, and nothing of the module.

Token t goes through every net call of every supervision step, and in each call it sees what the tokens before it left
in that same call. So each net call has a history of its own: per block the keys and values of the last positions and
the long-term memory.

B batch, H attention heads, d head width, M cached positions, P persistent tokens, w window.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from titans_trm.models.attention import KeysValues
from titans_trm.models.memory_state import MemoryState


@dataclass
class BlockState:
    """History of one block in one net call."""

    cache: KeysValues | None  # rotated keys and values (B, H, M, d) of the last M positions; None before the first
    memory: MemoryState | None

    def tensors(self) -> Iterator[Tensor]:
        """Yield what it holds."""
        yield from self.cache or ()
        if self.memory is not None:
            yield from self.memory.tensors()


@dataclass
class StreamState:
    """History of a batch of sequences: a value, never a buffer of the module.

    With a window w the cache holds M = w - 1 positions at most and the memory fewer than a chunk of pending tokens, so
    the size does not grow with the sequence. Without a window the cache grows by one position a token.

    Attributes:
        positions: tokens read of each sequence (B entries), which is the position of its next one.
        persistent: per block of each net the keys and values (1, H, P, d) of its persistent tokens, or None.
        calls: per net call, in the order of the recursion, the state of each block.

    """

    positions: tuple[int, ...]
    persistent: list[KeysValues | None]
    calls: list[list[BlockState]]

    @property
    def num_bytes(self) -> int:
        """Bytes of memory held, storage that is shared counted once."""
        storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in self.tensors()}
        return sum(storages.values())

    def tensors(self) -> Iterator[Tensor]:
        """Yield what it holds."""
        for pair in self.persistent:
            yield from pair or ()
        for call in self.calls:
            for block in call:
                yield from block.tensors()

    def reset(self, mask: Tensor, fresh: "StreamState") -> "StreamState":
        """Return the state with a new sequence in the rows `mask` (B,) bool; the others go on untouched.

        Args:
            mask: where a sequence starts; read on the host.
            fresh: `model.init_state(1)`, or any other state before its first token.

        Raises:
            ValueError: `fresh` has read tokens, or the mask does not fit the batch.
        """
        starts = mask.tolist()
        if any(fresh.positions):
            raise ValueError("fresh has read tokens already; give model.init_state(1).")
        if len(starts) != len(self.positions):
            raise ValueError(f"mask has {len(starts)} rows, the state {len(self.positions)}; give one value per row.")
        positions = tuple(0 if new else old for new, old in zip(starts, self.positions, strict=True))

        def restart(old: BlockState, new: BlockState) -> BlockState:
            memory = old.memory
            if memory is not None and new.memory is not None:
                memory = memory.reset(mask, new.memory)
            return BlockState(_newest(old.cache, max(positions)), memory)

        calls = [
            [restart(*pair) for pair in zip(old, new, strict=True)]
            for old, new in zip(self.calls, fresh.calls, strict=True)
        ]
        return replace(self, positions=positions, calls=calls)

    def select(self, index: Tensor) -> "StreamState":
        """Return the sequences `index` (K,) int64 in that order: reorder, repeat or drop rows of the batch."""
        positions = tuple(self.positions[row] for row in index.tolist())

        def pick(block: BlockState) -> BlockState:
            kept = _newest(block.cache, max(positions, default=0))
            cache = None if kept is None else (kept[0][index], kept[1][index])
            return BlockState(cache, None if block.memory is None else block.memory.select(index))

        return replace(self, positions=positions, calls=[[pick(block) for block in call] for call in self.calls])

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "StreamState":
        """Return the state on another device, in another dtype, or both."""

        def move(pair: KeysValues | None) -> KeysValues | None:
            return None if pair is None else (pair[0].to(device, dtype), pair[1].to(device, dtype))

        calls = [
            [BlockState(move(b.cache), None if b.memory is None else b.memory.to(device, dtype)) for b in call]
            for call in self.calls
        ]
        return replace(self, persistent=[move(pair) for pair in self.persistent], calls=calls)

    def state_dict(self) -> dict[str, Any]:
        """Return copies as tensors, numbers, lists and dicts: safe to load with `weights_only=True`."""
        return {
            "positions": list(self.positions),
            "persistent": [_copied(pair) for pair in self.persistent],
            "calls": [
                [
                    {
                        "cache": _copied(block.cache),
                        "memory": None if block.memory is None else block.memory.state_dict(),
                    }
                    for block in call
                ]
                for call in self.calls
            ],
        }

    @classmethod
    def from_state_dict(cls, values: dict[str, Any]) -> "StreamState":
        """Rebuild a state from `state_dict`."""

        def block(saved: dict[str, Any]) -> BlockState:
            memory = saved["memory"]
            return BlockState(_pair(saved["cache"]), None if memory is None else MemoryState.from_state_dict(memory))

        return cls(
            positions=tuple(values["positions"]),
            persistent=[_pair(pair) for pair in values["persistent"]],
            calls=[[block(saved) for saved in call] for call in values["calls"]],
        )


def _newest(cache: KeysValues | None, count: int) -> KeysValues | None:
    """Keep the last `count` positions: no sequence has more."""
    if cache is None:
        return None
    first = max(0, cache[0].shape[2] - count)
    return cache[0][:, :, first:], cache[1][:, :, first:]


def _copied(pair: KeysValues | None) -> list[Tensor] | None:
    return None if pair is None else [tensor.detach().clone() for tensor in pair]


def _pair(tensors: list[Tensor] | None) -> KeysValues | None:
    return None if tensors is None else (tensors[0], tensors[1])
