"""Muon for hidden matrices and AdamW for the rest, in one optimiser, as automatic optimisation wants it."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from titans_trm.errors import InputError


class CombinedOptimizer(torch.optim.Optimizer):
    """Several optimisers over disjoint parameters that act as one.

    The members work on this optimiser's own groups and state, so schedulers, gradient scalers, clipping and
    `state_dict` see one ordinary optimiser; a saved state holds only tensors, numbers and strings.

    Args:
        members: optimisers, none of which has stepped yet. They belong to this object from here on.
    """

    def __init__(self, members: Sequence[torch.optim.Optimizer]) -> None:
        self._members: list[torch.optim.Optimizer] = []
        super().__init__([group for member in members for group in member.param_groups], {})
        self._members = list(members)
        self._share()

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Step every member; return what the closure (run once, with gradient) returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for member in self._members:
            member.step()
        return loss

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Refuse new groups once the optimiser is built: nothing says which member they belong to."""
        if self._members:
            raise ValueError("CombinedOptimizer cannot take new parameter groups; build a new optimiser instead.")
        super().add_param_group(param_group)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_members": self._members}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Loading a state and unpickling both replace groups and state by new objects: hand them to the members.
        super().__setstate__(state)
        self._share()

    def _share(self) -> None:
        """Let the members work on this optimiser's groups and state."""
        start = 0
        for member in self._members:
            end = start + len(member.param_groups)
            member.param_groups = self.param_groups[start:end]
            member.state = self.state
            start = end


def build_muon(
    parameters: Sequence[nn.Parameter], *, lr: float, momentum: float, weight_decay: float, newton_schulz_steps: int
) -> torch.optim.Optimizer:
    """Return torch's Muon (Nesterov momentum, update scaled by sqrt(max(1, rows / columns))) on 2-D parameters.

    Raises:
        InputError: this torch has no Muon.
    """
    if not hasattr(torch.optim, "Muon"):
        raise InputError(
            f"optimizer.name=muon needs torch 2.9 or newer, and this is {torch.__version__}; "
            "upgrade torch or take optimizer=adam_atan2."
        )
    return torch.optim.Muon(
        [{"name": "hidden", "params": list(parameters)}],
        lr=lr,
        momentum=momentum,
        weight_decay=weight_decay,
        ns_steps=newton_schulz_steps,
    )
