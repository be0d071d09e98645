"""Norms of gradients, weights and updates by parameter group, without a transfer to the host.

Groups are parts of the model a person can name: `embedding`, `block0.attention`, `block0.memory`, `head`, `act_head`.
"""

import re
from collections.abc import Iterable

import torch
from torch import Tensor, nn

_BLOCK = re.compile(r"recursion\.(net|net_y)\.blocks\.(\d+)\.(\w+)")
_NEGLIGIBLE = 1e-6  # of the largest gradient norm of a parameter
_NAMED = {"head": "head", "act_head": "act_head"}
_INPUTS = ("embedding", "register", "positions", "puzzle_embedding")


class ParameterWatch:
    """Look at the parameters of `model` around one optimiser step: `before_update`, then `after_update`."""

    def __init__(self, model: nn.Module) -> None:
        self.named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        self.groups = list(dict.fromkeys(group_of(name) for name, _ in self.named))
        self._group_index = [self.groups.index(group_of(name)) for name, _ in self.named]
        self._old: list[Tensor] | None = None
        self._grad_norms: Tensor | None = None
        self._missing: list[str] = []

    @torch.no_grad()
    def before_update(self) -> None:
        """Take the norms of the gradients, as they are before clipping, and keep the weights."""
        self._missing = [name for name, p in self.named if p.grad is None]
        norms = iter(torch._foreach_norm([p.grad for _, p in self.named if p.grad is not None]))
        device = self.named[0][1].device
        zero = torch.zeros((), device=device)
        self._grad_norms = torch.stack([zero if p.grad is None else next(norms).float() for _, p in self.named])
        self._old = list(torch._foreach_clone([p.detach() for _, p in self.named]))

    @torch.no_grad()
    def after_update(self) -> Tensor | None:
        """Return (3, P): norms of gradient, weight and update of every parameter; None without `before_update`."""
        if self._old is None or self._grad_norms is None:
            return None
        weights = [p.detach() for _, p in self.named]
        moved = torch._foreach_sub(self._old, weights)
        self._old = None
        stacked = [torch.stack([n.float() for n in torch._foreach_norm(part)]) for part in (weights, moved)]
        return torch.stack([self._grad_norms, *stacked])

    def values(self, rows: list[list[float]]) -> tuple[dict[str, float], dict[str, list[str]]]:
        """Return signals of the groups and the names of parameters without gradient or update, from `after_update`."""
        grads, weights, updates = rows
        values: dict[str, float] = {}
        ratios = []
        for index, group in enumerate(self.groups):
            members = [i for i, own in enumerate(self._group_index) if own == index]
            grad, weight, update = (sum(row[i] ** 2 for i in members) ** 0.5 for row in rows)
            values[f"grad/{group}"], values[f"weight/{group}"] = grad, weight
            if weight > 0.0:
                values[f"update/{group}"] = update / weight
                ratios.append(update / weight)
        values["update/median"] = _median(ratios)
        names = [name for name, _ in self.named]
        # A gradient that is next to nothing may move a weight by less than its last digit.
        least = _NEGLIGIBLE * max(grads)
        still = [i for i, norm in enumerate(updates) if norm == 0.0]
        return values, {
            "no_grad": [name for i, name in enumerate(names) if grads[i] == 0.0],
            "no_update": [names[i] for i in still if grads[i] > least],
            "not_finite": [name for i, name in enumerate(names) if not abs(weights[i]) < float("inf")],
        }


def group_of(name: str) -> str:
    """Return the group of a parameter by its name in `TitansTRM`."""
    block = _BLOCK.match(name)
    if block:
        net, index, part = block.groups()
        return f"{'y_' if net == 'net_y' else ''}block{index}.{part}"
    first = name.partition(".")[0]
    return _NAMED.get(first, "embedding" if first in _INPUTS else "recursion")


def _median(values: Iterable[float]) -> float:
    ordered = sorted(values)
    return ordered[len(ordered) // 2] if ordered else 0.0
