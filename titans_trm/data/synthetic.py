"""What the recall tasks share: seeded draws that are the same everywhere, and splits without a repeated sequence."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from titans_trm.data.examples import ExampleSet
from titans_trm.errors import InputError

_BLOCK = 4096  # examples drawn at once
_BARREN_BLOCKS = 8  # blocks without a single new example after which the space counts as exhausted
_MANTISSA = 53  # bits of a double
_STREAMS = {"test": 0, "val": 1, "train": 2, "grid": 3}  # random stream of each split


class Draws:
    """Random numbers from the raw output of a seeded PCG64, which NumPy keeps stable across versions (NEP 19)."""

    def __init__(self, *entropy: int) -> None:
        self._bits = np.random.PCG64(np.random.SeedSequence(list(entropy)))

    def uniform(self, *shape: int) -> np.ndarray:
        """Return float64 numbers in [0, 1)."""
        raw = self._bits.random_raw(int(np.prod(shape)))
        return (raw >> np.uint64(64 - _MANTISSA)).astype(np.float64).reshape(shape) * 2.0**-_MANTISSA

    def integers(self, high: int | np.ndarray, *shape: int) -> np.ndarray:
        """Return int64 numbers in 0..high-1."""
        return (self.uniform(*shape) * high).astype(np.int64)

    def distinct(self, rows: int, high: int, count: int) -> np.ndarray:
        """Return `(rows, count)` int64 numbers out of 0..high-1, in random order, none twice in a row."""
        if count * 8 >= high:
            return self.uniform(rows, high).argsort(axis=1, kind="stable")[:, :count]
        # Far fewer than there are: Floyd's sampling needs `count` draws instead of a permutation, then a shuffle.
        chosen = np.full((rows, count), -1, dtype=np.int64)
        for i in range(count):
            top = high - count + i
            drawn = self.integers(top + 1, rows)
            taken = (chosen[:, :i] == drawn[:, None]).any(axis=1)
            chosen[:, i] = np.where(taken, top, drawn)
        order = self.uniform(rows, count).argsort(axis=1, kind="stable")
        return np.take_along_axis(chosen, order, axis=1)

    def weighted_distinct(self, rows: int, weights: np.ndarray, count: int) -> np.ndarray:
        """Return `(rows, count)` numbers drawn without replacement, in order of the draw, with chances by `weights`.

        Exactly the successive draws of `Generator.choice(replace=False, p=weights)` in law, by the Gumbel top-k trick
        (Vieira 2014): the largest of log weight + Gumbel noise.
        """
        noise = -np.log(-np.log1p(-self.uniform(rows, len(weights))) + np.finfo(float).tiny)
        return (-(np.log(weights) + noise)).argsort(axis=1, kind="stable")[:, :count]


@dataclass(frozen=True)
class Block:
    """Examples drawn together."""

    inputs: np.ndarray  # (M, N) tokens
    targets: np.ndarray  # (M, N) tokens, 0 where not scored
    ratings: np.ndarray  # (M,) int64 difficulty


def distinct_splits(
    name: str, version: int, seed: int, counts: Mapping[str, int], vocab_size: int, draw: Callable[[Draws, int], Block]
) -> dict[str, ExampleSet]:
    """Return splits of exactly `counts` examples, each from its own random stream, no sequence twice in all of them.

    `draw(draws, rows)` returns a block of examples.

    Raises:
        InputError: the task has fewer different sequences than are asked for.
    """
    seen: set[bytes] = set()
    streams = [split for split in _STREAMS if split in counts]
    return {
        split: _distinct(name, version, seed, (_STREAMS[split], split, counts[split]), vocab_size, draw, seen)
        for split in streams
    }


def example_keys(name: str, inputs: np.ndarray) -> list[str]:
    """Return the SHA-256 of each `(M, N)` sequence: there are no symmetries, only a repeat would be a leak."""
    wide = np.ascontiguousarray(inputs, dtype="<i2")
    return [hashlib.sha256(name.encode() + row.tobytes()).hexdigest() for row in wide]


def _distinct(
    name: str,
    version: int,
    seed: int,
    wanted: tuple[int, str, int],
    vocab_size: int,
    draw: Callable[[Draws, int], Block],
    seen: set[bytes],
) -> ExampleSet:
    stream, split, count = wanted
    parts: list[Block] = []
    found = barren = block = 0
    while found < count:
        made = draw(Draws(version, seed, stream, block), min(_BLOCK, max(64, 2 * count)))
        fresh: list[int] = []
        for row, sequence in enumerate(made.inputs.astype("<i2")):
            if (content := sequence.tobytes()) not in seen and len(fresh) < count - found:
                seen.add(content)
                fresh.append(row)
        parts.append(Block(made.inputs[fresh], made.targets[fresh], made.ratings[fresh]))
        found, block = found + len(fresh), block + 1
        barren = 0 if fresh else barren + 1
        if barren == _BARREN_BLOCKS:
            raise InputError(
                f"data.num_{split}={count} is more than the different sequences of {name} that can be found ({found}); "
                "ask for fewer, or for longer ones."
            )
    dtype = np.uint8 if vocab_size <= 256 else np.int16
    inputs, targets = (
        np.concatenate([getattr(part, a) for part in parts]).astype(dtype) for a in ("inputs", "targets")
    )
    return ExampleSet(
        name=split,
        inputs=torch.from_numpy(inputs),
        targets=torch.from_numpy(targets),
        keys=example_keys(name, inputs),
        sources=[f"{name}_generator_v{version}"] * count,
        ratings=torch.from_numpy(np.concatenate([part.ratings for part in parts]).astype(np.int64)),
    )
