"""AdamATan2: Adam without epsilon, its update bounded by an arctangent (arXiv 2407.05872, section 4.3)."""

# The multi-tensor operations that torch's own optimisers use are public by use only.
# pyright: reportPrivateImportUsage=false

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT


class AdamATan2(torch.optim.Optimizer):
    """Step by the angle between the moments: invariant to the scale of gradients, bounded, without epsilon.

    With m and v the averages of gradient and squared gradient, bc1 and bc2 their bias corrections at this step:

        p <- (1 - lr * weight_decay) p
        p <- p - lr / bc1 * atan2(m, sqrt(v / bc2))

    This is the update of the TRM and HRM recipes. Other implementations multiply by a constant or correct m inside the
    arctangent: not equal at equal learning rate.

    Args:
        params: parameters, or groups of them.
        lr: learning rate; 0 is allowed.
        betas: decay of m and v, each 0 to below 1.
        weight_decay: decoupled decay, multiplied by the learning rate.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.95),
        weight_decay: float = 0.0,
    ) -> None:
        if lr < 0.0:
            raise ValueError(f"lr={lr} is negative; choose 0 or more.")
        if not all(0.0 <= beta < 1.0 for beta in betas):
            raise ValueError(f"betas={betas} are out of range; choose two numbers from 0 to below 1.")
        if weight_decay < 0.0:
            raise ValueError(f"weight_decay={weight_decay} is negative; choose 0 or more.")
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Take one step; return what the closure (run with gradient) returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            # One bucket per step count: parameters that had no gradient for some steps have their own corrections.
            buckets: dict[int, list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    buckets.setdefault(self._advance(parameter), []).append(parameter)
            for step, parameters in buckets.items():
                self._update(parameters, step, group)
        return loss

    def _advance(self, parameter: Tensor) -> int:
        """Count one more step of the parameter, and return the count."""
        if parameter.grad is not None and parameter.grad.is_sparse:
            raise ValueError("AdamATan2 takes no sparse gradients; build the embedding with sparse=False.")
        state = self.state[parameter]
        if not state:
            state["step"] = 0
            state["exp_avg"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
            state["exp_avg_sq"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        state["step"] += 1
        return state["step"]

    def _update(self, parameters: list[Tensor], step: int, group: dict[str, Any]) -> None:
        """Apply the update to parameters that share a step count, all in multi-tensor operations but the arctangent."""
        lr, (beta1, beta2) = float(group["lr"]), group["betas"]
        grads = [p.grad for p in parameters if p.grad is not None]
        averages = [self.state[p]["exp_avg"] for p in parameters]
        squares = [self.state[p]["exp_avg_sq"] for p in parameters]

        torch._foreach_lerp_(averages, grads, 1.0 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, grads, grads, 1.0 - beta2)

        updates = torch._foreach_sqrt(squares)
        torch._foreach_div_(updates, math.sqrt(1.0 - beta2**step))
        for update, average in zip(updates, averages, strict=True):
            torch.atan2(average, update, out=update)
        torch._foreach_mul_(parameters, 1.0 - lr * group["weight_decay"])
        torch._foreach_add_(parameters, updates, alpha=-lr / (1.0 - beta1**step))
