"""A batch of examples."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass
class Batch:
    """Examples side by side; all tensors are int64 and on one device."""

    inputs: Tensor  # (B, N) tokens
    targets: Tensor  # (B, N) tokens, ignore_index where not scored
    puzzle_ids: Tensor  # (B,) 0 where a task has none
    indices: Tensor  # (B,) row of the example in its split

    def __post_init__(self) -> None:
        for part in fields(self):
            tensor = getattr(self, part.name)
            if tensor.dtype != torch.int64:
                raise ValueError(f"Batch.{part.name} has dtype {tensor.dtype}, not int64; convert it with .long().")
        if self.inputs.dim() != 2:
            raise ValueError(f"Batch.inputs has shape {tuple(self.inputs.shape)}, not (B, N); add or drop an axis.")
        if self.targets.shape != self.inputs.shape:
            raise ValueError(
                f"Batch.targets has shape {tuple(self.targets.shape)}, Batch.inputs {tuple(self.inputs.shape)}; "
                "make them equal."
            )
        for name in ("puzzle_ids", "indices"):
            shape = tuple(getattr(self, name).shape)
            if shape != (len(self),):
                raise ValueError(f"Batch.{name} has shape {shape}, not ({len(self)},); give one number per example.")

    def __len__(self) -> int:
        return self.inputs.shape[0]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Batch":
        """Return the batch on `device`."""
        return Batch(*(tensor.to(device, non_blocking=non_blocking) for tensor in self._tensors()))

    def select(self, rows: Tensor) -> "Batch":
        """Return the examples at `rows` (int64 positions within the batch, or a boolean mask)."""
        return Batch(*(tensor[rows] for tensor in self._tensors()))

    def replace(self, rows: Tensor, fresh: "Batch") -> "Batch":
        """Return the batch with the examples at `rows` (K,) int64 replaced by the K examples of `fresh`."""
        pairs = zip(self._tensors(), fresh._tensors(), strict=True)
        return Batch(*(old.index_copy(0, rows, new) for old, new in pairs))

    def pin_memory(self) -> "Batch":
        """Return the batch in page-locked memory, from which copies to a GPU can overlap with work."""
        return Batch(*(tensor.pin_memory() for tensor in self._tensors()))

    @staticmethod
    def concat(batches: Sequence["Batch"]) -> "Batch":
        """Return one batch of all examples in order."""
        if not batches:
            raise ValueError("Batch.concat got no batches; give at least one.")
        return Batch(*(torch.cat(parts) for parts in zip(*(batch._tensors() for batch in batches), strict=True)))

    def state_dict(self) -> dict[str, Tensor]:
        """Return the tensors by name, safe in a checkpoint read with `weights_only=True`."""
        return {part.name: getattr(self, part.name) for part in fields(self)}

    @classmethod
    def from_state_dict(cls, values: dict[str, Tensor]) -> "Batch":
        """Rebuild a batch from `state_dict`."""
        return cls(**values)

    def _tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.inputs, self.targets, self.puzzle_ids, self.indices
