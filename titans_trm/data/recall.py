"""The base of tasks that test a memory: causal, generated, with a grid of lengths and depths for extrapolation."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Self

from torch import Tensor

from titans_trm.data.cache import Built
from titans_trm.data.config import CountFields
from titans_trm.data.examples import ExampleSet
from titans_trm.data.sources import generated_splits
from titans_trm.data.spec import TaskSpec
from titans_trm.data.synthetic import Block, Draws, distinct_splits, example_keys
from titans_trm.errors import InputError


class RecallTask(ABC):
    """Examples drawn by a seeded generator; only a repeated sequence would be a leak, and none is drawn twice."""

    generator_version = 1
    reader_version = 1
    augment = None  # every symmetry would only give what the generator gives anyway
    identity_keys: ClassVar[tuple[str, ...]]  # of the configuration: what examples depend on beside seed and counts
    depth_key: ClassVar[str]  # of the configuration: second axis of a test grid, the first being `seq_len`
    rating_kind: ClassVar[str]

    def __init__(self, config: Any, spec: TaskSpec) -> None:
        self.config = config
        self.spec = spec

    @classmethod
    def from_config(cls, config: Any) -> Self:
        """Return the task of a configuration."""
        return cls(config)  # type: ignore[call-arg]

    @abstractmethod
    def draw(self, draws: Draws, rows: int) -> Block:
        """Return random examples."""

    @abstractmethod
    def validate(self, inputs: Tensor, targets: Tensor) -> None:
        """Raise `InputError` naming the `(B, N)` example that breaks the rules."""

    def splits(self, config: CountFields) -> Built:
        """Return generated `train`, `val` and `test`, and manifest entries (cached)."""
        return generated_splits(self, config)

    def read_examples(self, path: str, config: CountFields) -> tuple[ExampleSet, dict[str, Any]]:
        """Refuse: the examples have no file format."""
        raise InputError(f"file={path}: examples of data.task={config.task} are generated, not read; leave file out.")

    def generation_identity(self, config: CountFields) -> dict[str, Any]:
        """Return what the examples depend on, beside seed and counts."""
        return {key: getattr(config, key) for key in self.identity_keys}

    def generate(self, config: CountFields) -> Built:
        """Return `train`, `val` and `test` of exactly the configured sizes, no sequence twice."""
        entries = {
            "licence": "CC0-1.0",
            "rating_kind": self.rating_kind,
            "split_rule": "independent random streams; no sequence twice",
            **self.generation_identity(config),
        }
        return self._drawn(config.counts, config.seed), entries

    def sample(self, count: int, seed: int) -> ExampleSet:
        """Return `count` examples from a random stream that no split uses."""
        return self._drawn({"grid": count}, seed)["grid"]

    def grid(self, lengths: Sequence[int], depths: Sequence[float]) -> list[tuple[int, float, "RecallTask"]]:
        """Return (length, depth, task) for each cell that is possible; `depth_key` says what depth means."""
        cells = []
        for length in lengths:
            for depth in depths:
                try:
                    config = dataclasses.replace(self.config, **{"seq_len": length, self.depth_key: depth})
                except ValueError:  # such as more pairs than the length holds
                    continue
                cells.append((length, depth, self.from_config(config)))
        return cells

    def canonical_keys(self, inputs: Tensor, targets: Tensor) -> list[str]:
        """Return the hash of each `(B, N)` sequence."""
        return example_keys(self.spec.name, inputs.numpy())

    def _drawn(self, counts: dict[str, int], seed: int) -> dict[str, ExampleSet]:
        return distinct_splits(self.spec.name, self.generator_version, seed, counts, self.spec.vocab_size, self.draw)
