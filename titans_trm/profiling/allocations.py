"""Count the bytes of live tensors while code runs, on real tensors or on fake ones that hold no data."""

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class AllocationTracker(TorchDispatchMode):
    """Watch every tensor that operators return and remember the moment when most bytes were alive.

    A storage is counted once, however many views it has, from the operator that returned it until its last reference
    dies. Memory inside an operator (a kernel's scratch space) is not seen.

    Args:
        kind_of: gives the kind under which a new tensor is counted.

    Attributes:
        live: bytes alive now, by kind.
        peak: bytes by kind at the moment when their sum was largest.
    """

    def __init__(self, kind_of: Callable[[Tensor], str]) -> None:
        super().__init__()
        self.live: dict[str, int] = {}
        self.peak: dict[str, int] = {}
        self._kind_of = kind_of
        self._total = 0
        self._peak_total = 0
        self._storages: dict[int, _Entry] = {}

    @property
    def peak_bytes(self) -> int:
        """Most bytes alive at once."""
        return self._peak_total

    def claim(self, tensors: Iterable[Tensor], kind: str) -> None:
        """Count these tensors under `kind`, whether they were seen before or not."""
        for tensor in tensors:
            self._add(tensor, kind)
        self._update_peak()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operator, count what it returned."""
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self._add(result)
        else:
            for leaf in tree_leaves(result):
                if isinstance(leaf, Tensor):
                    self._add(leaf)
        self._update_peak()
        return result

    def _add(self, tensor: Tensor, claimed_as: str | None = None) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        entry = self._storages.get(key)
        if entry is None:
            kind = claimed_as or self._kind_of(tensor)
            entry = _Entry(weakref.ref(storage, lambda _: self._forget(key)), storage.nbytes(), kind)
            self._storages[key] = entry
            self._count(kind, entry.size)
        elif claimed_as is not None and entry.kind != claimed_as:
            self._count(entry.kind, -entry.size)
            self._count(claimed_as, entry.size)
            entry.kind = claimed_as

    def _forget(self, key: int) -> None:
        entry = self._storages.pop(key)
        self._count(entry.kind, -entry.size)

    def _count(self, kind: str, size: int) -> None:
        self.live[kind] = self.live.get(kind, 0) + size
        self._total += size

    def _update_peak(self) -> None:
        if self._total > self._peak_total:
            self._peak_total = self._total
            self.peak = dict(self.live)


class _Entry:
    """One live storage."""

    __slots__ = ("kind", "reference", "size")

    def __init__(self, reference: "weakref.ref[torch.UntypedStorage]", size: int, kind: str) -> None:
        self.reference = reference
        self.size = size
        self.kind = kind
