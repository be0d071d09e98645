"""The ranks of a run: what they must know of each other, gathered; a process alone asks nobody.

Everything is in the order of the ranks, so all of them compute the same numbers from what they gathered.
"""

from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process among those that train one model together."""

    rank: int = 0
    world_size: int = 1

    def gather(self, tensor: Tensor) -> Tensor:
        """Return the equal-shaped `tensor` of every rank, (R, ...), without gradient; a collective call."""
        if self.world_size == 1:
            return tensor.detach().unsqueeze(0)
        mine = tensor.detach().contiguous()
        sent = mine.to(torch.uint8) if mine.dtype == torch.bool else mine
        parts = [torch.empty_like(sent) for _ in range(self.world_size)]
        dist.all_gather(parts, sent)
        return torch.stack(parts).to(mine.dtype)

    def gather_with_gradient(self, tensor: Tensor) -> Tensor:
        """Return the equal-shaped `tensor` of every rank, (R, ...); its gradient is the sum over all ranks' losses."""
        gathered: Tensor = _Gather.apply(tensor, self)  # type: ignore[no-untyped-call]
        return gathered

    def gather_nested(self, value: T) -> list[T]:
        """Return the nested dicts and lists of every rank, their tensors on the CPU; other leaves are this rank's."""
        if self.world_size == 1:
            return [value]
        if isinstance(value, Tensor):
            return list(self.gather(value).cpu().unbind())  # type: ignore[arg-type]
        if isinstance(value, dict):
            parts = {key: self.gather_nested(item) for key, item in value.items()}
            return [{key: part[rank] for key, part in parts.items()} for rank in range(self.world_size)]  # type: ignore[misc]
        if isinstance(value, list):
            columns = [self.gather_nested(item) for item in value]
            return [[column[rank] for column in columns] for rank in range(self.world_size)]  # type: ignore[misc]
        return [value] * self.world_size

    def objects(self, value: T) -> list[T]:
        """Return the picklable `value` of every rank; for a few small ones at the start of a run."""
        if self.world_size == 1:
            return [value]
        found: list[Any] = [None] * self.world_size
        dist.all_gather_object(found, value)
        return found

    def any(self, flag: bool, device: torch.device | str) -> bool:
        """Tell whether any rank says so."""
        return flag if self.world_size == 1 else bool(self.gather(torch.tensor(flag, device=device)).any())


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks = ranks
        return ranks.gather(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        gradient = gradient.contiguous()
        if ctx.ranks.world_size > 1:
            dist.all_reduce(gradient)
        return gradient[ctx.ranks.rank], None
