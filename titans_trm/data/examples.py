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
        for name in ("keys", "sources", "ratings"):
            if len(getattr(self, name)) != len(self):
                raise ValueError(
                    f"{self.name}.{name} has {len(getattr(self, name))} entries for {len(self)} examples; "
                    "give one each."
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
        )

    def renamed(self, name: str) -> "ExampleSet":
        """Return the same examples under another name."""
        return replace(self, name=name)

    def batch(self, rows: Tensor | Sequence[int]) -> Batch:
        """Return the examples at `rows` as a batch with `indices` = rows; PAD targets become the ignore index."""
        index = torch.as_tensor(rows, dtype=torch.int64)
        return to_batch(self.inputs[index], self.targets[index], index)

    @cached_property
    def sha256(self) -> str:
        """Hash of the ordered content: inputs, targets and ratings."""
        digest = hashlib.sha256(repr(tuple(self.inputs.shape)).encode())
        for tensor in (self.inputs, self.targets, self.ratings):
            digest.update(tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()

    @cached_property
    def keys_sha256(self) -> str:
        """Hash of the ordered group keys."""
        return hashlib.sha256("\n".join(self.keys).encode()).hexdigest()


def to_batch(inputs: Tensor, targets: Tensor, indices: Tensor) -> Batch:
    """Return uint8 or int16 `(B, N)` tokens as a batch; PAD targets become the ignore index."""
    scored = targets.long()
    return Batch(
        inputs=inputs.long(),
        targets=scored.masked_fill(scored == PAD, IGNORE_INDEX),
        puzzle_ids=torch.zeros(len(inputs), dtype=torch.int64),
        indices=indices,
    )
