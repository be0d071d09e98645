"""A set of examples held in memory, one byte per token (two for vocabularies above 256)."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from titans_trm.data.batch import Batch
from titans_trm.data.spec import IGNORE_INDEX, PAD


@dataclass(frozen=True)
class ExampleSet:
    """Examples of one split, in a fixed order."""

    name: str
    inputs: Tensor  # (n, N) uint8 tokens, or int16 where the vocabulary is larger than 256
    targets: Tensor  # (n, N) of the same type, PAD where not scored
    keys: list[str]  # canonical group key of each example
    sources: list[str]  # where each example comes from
    ratings: Tensor  # (n,) int64 difficulty; its meaning is the manifest's `rating_kind`
    puzzle_ids: Tensor | None = None  # (n,) int64 id of the learned embedding; None where a task has none

    def __post_init__(self) -> None:
        for name in ("inputs", "targets"):
            tensor = getattr(self, name)
            if tensor.dtype not in (torch.uint8, torch.int16) or tensor.dim() != 2:
                raise ValueError(
                    f"{self.name}.{name} is {tensor.dtype} of shape {tuple(tensor.shape)}, not uint8 or int16 (n, N); "
                    "convert."
                )
        if self.inputs.shape != self.targets.shape:
            raise ValueError(
                f"{self.name}.inputs has shape {tuple(self.inputs.shape)}, {self.name}.targets "
                f"{tuple(self.targets.shape)}; make them equal."
            )
        for name in ("keys", "sources", "ratings", "puzzle_ids"):
            column = getattr(self, name)
            if column is not None and len(column) != len(self):
                raise ValueError(
                    f"{self.name}.{name} has {len(column)} entries for {len(self)} examples; give one each."
                )

    def __len__(self) -> int:
        return self.inputs.shape[0]

    def select(self, rows: Tensor | Sequence[int], name: str | None = None) -> "ExampleSet":
        """Return the examples at `rows`, in that order, under a new name if one is given."""
        index = torch.as_tensor(rows, dtype=torch.int64)
        chosen = index.tolist()
        return ExampleSet(
            name=self.name if name is None else name,
            inputs=self.inputs[index],
            targets=self.targets[index],
            keys=[self.keys[row] for row in chosen],
            sources=[self.sources[row] for row in chosen],
            ratings=self.ratings[index],
            puzzle_ids=None if self.puzzle_ids is None else self.puzzle_ids[index],
        )

    @staticmethod
    def concat(name: str, parts: Sequence["ExampleSet"]) -> "ExampleSet":
        """Return the examples of all parts in order, under one name."""
        ids = [part.puzzle_ids for part in parts if part.puzzle_ids is not None]
        if len(ids) not in (0, len(parts)):
            raise ValueError("some of the parts have puzzle ids and some have none; give all or none.")
        return ExampleSet(
            name=name,
            inputs=torch.cat([part.inputs for part in parts]),
            targets=torch.cat([part.targets for part in parts]),
            keys=[key for part in parts for key in part.keys],
            sources=[source for part in parts for source in part.sources],
            ratings=torch.cat([part.ratings for part in parts]),
            puzzle_ids=torch.cat(ids) if ids else None,
        )

    def renamed(self, name: str) -> "ExampleSet":
        """Return the same examples under another name."""
        return replace(self, name=name)

    def batch(self, rows: Tensor | Sequence[int]) -> Batch:
        """Return the examples at `rows` as a batch with `indices` = rows; PAD targets become the ignore index."""
        index = torch.as_tensor(rows, dtype=torch.int64)
        ids = None if self.puzzle_ids is None else self.puzzle_ids[index]
        return to_batch(self.inputs[index], self.targets[index], index, ids)

    @cached_property
    def sha256(self) -> str:
        """Hash of the ordered content: inputs, targets, ratings and, where there are any, puzzle ids."""
        digest = hashlib.sha256(repr(tuple(self.inputs.shape)).encode())
        columns = [self.inputs, self.targets, self.ratings]
        for tensor in columns if self.puzzle_ids is None else [*columns, self.puzzle_ids]:
            digest.update(tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()

    @cached_property
    def keys_sha256(self) -> str:
        """Hash of the ordered group keys."""
        return hashlib.sha256("\n".join(self.keys).encode()).hexdigest()


def to_batch(inputs: Tensor, targets: Tensor, indices: Tensor, puzzle_ids: Tensor | None = None) -> Batch:
    """Return uint8 or int16 `(B, N)` tokens as a batch; PAD targets become the ignore index, no puzzle ids become 0."""
    scored = targets.long()
    return Batch(
        inputs=inputs.long(),
        targets=scored.masked_fill(scored == PAD, IGNORE_INDEX),
        puzzle_ids=torch.zeros(len(inputs), dtype=torch.int64) if puzzle_ids is None else puzzle_ids,
        indices=indices,
    )
