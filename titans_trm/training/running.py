"""Means over the steps since the last report, kept on the device so that no step waits for a number."""

import math
from typing import Any

import torch
from torch import Tensor


class RunningMeans:
    """Weighted means by name; `report` reads them in one transfer and starts anew."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[Tensor, Tensor]] = {}

    def add(self, name: str, total: Tensor, weight: Tensor | None = None) -> None:
        """Add a sum of values and its weight (1 if not given), both scalars."""
        total = total.detach().double() if total.device.type != "mps" else total.detach().float()
        count = torch.ones_like(total) if weight is None else weight.detach().to(total.dtype)
        if name in self._sums:
            old_total, old_count = self._sums[name]
            total, count = total + old_total, count + old_count
        self._sums[name] = (total, count)

    def report(self) -> dict[str, float]:
        """Return the means and forget them; one without weight (no example finished, say) is NaN, not an old value."""
        if not self._sums:
            return {}
        packed = torch.stack([torch.stack(pair) for pair in self._sums.values()]).tolist()
        names = list(self._sums)
        self._sums = {}
        pairs = zip(names, packed, strict=True)
        return {name: total / count if count > 0 else math.nan for name, (total, count) in pairs}

    def state_dict(self) -> dict[str, Any]:
        """Return the sums as plain tensors."""
        return {name: torch.stack(pair) for name, pair in self._sums.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        self._sums = {name: (pair[0], pair[1]) for name, pair in state.items()}
