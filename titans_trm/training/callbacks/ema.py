"""Exponential moving average of the weights: what is validated, exported and kept in `best.ckpt`."""

from typing import Any

import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor


class EMA(WeightAveraging):
    """Average the weights after every optimiser step, `average += (1 - d) (weights - average)`.

    d rises as `min(decay, (1 + t) / (10 + t))` with the number t of updates: a short run is not left with its
    initial weights (decay 0.999 alone would still hold 37 % of them after 1,000 steps). All weights are updated in one
    fused operation. Checkpoints hold the average in `state_dict` and the raw weights in `current_model_state`.
    """

    def __init__(self, decay: float) -> None:
        super().__init__(multi_avg_fn=_Average(decay))


class _Average:
    def __init__(self, decay: float) -> None:
        self.decay = decay

    @torch.no_grad()
    def __call__(self, averages: Any, weights: Any, updates: Tensor | int) -> None:
        count = float(updates)
        decay = min(self.decay, (1.0 + count) / (10.0 + count))
        torch._foreach_lerp_(list(averages), list(weights), 1.0 - decay)
