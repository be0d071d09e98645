"""ACT halting head: when an example has been thought about long enough (arXiv 2510.04871, section 4.5).

- One logit per example, read from the answer state y at the register, or one per token (text).
- A logit above 0 means "the answer is right, stop"; its loss lives in `titans_trm.losses.act`.
- Small non-zero weights keep logits of different examples apart from the first step on; the negative bias keeps a
  fresh head from halting everything at once.

Shapes: B batch, N tokens, D width.
"""

import torch
from torch import Tensor, nn

from titans_trm.models.config import HaltingConfig


class ACTHead(nn.Module):
    """Map what the halting head reads to halting logits, in float32 (float64 if the features are) under any autocast.

    The features are the answer state y at the register, (B, D), or at every token, (B, N, D). A loss that must not
    bend the representation takes a second call: `model.act_head(output.halting_features.detach())`.
    """

    def __init__(self, width: int, config: HaltingConfig) -> None:
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.empty(1, width))
        self.bias = nn.Parameter(torch.empty(1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weight anew and set the bias to `bias_init`."""
        nn.init.normal_(self.weight, std=self.config.weight_init_std)
        nn.init.constant_(self.bias, self.config.bias_init)

    def forward(self, features: Tensor) -> Tensor:
        """Return the halting logits of features (..., D), shape (...); above 0 means "halt"."""
        # A product and a sum rather than a matmul: autocast would run a matmul in half precision, where logits of
        # similar examples round to the same value.
        dtype = torch.promote_types(features.dtype, torch.float32)
        return (features.to(dtype) * self.weight[0].to(dtype)).sum(-1) + self.bias.to(dtype)

    def extra_repr(self) -> str:
        """Name the sizes that the parameters do not show."""
        return f"width={self.weight.shape[1]}, unit={self.config.unit}"


def halting_decision(
    logits: Tensor, steps: Tensor, min_steps: Tensor | None, config: HaltingConfig, *, training: bool
) -> Tensor:
    """Return which examples halt after this supervision step, (B,) bool.

    An example halts when its logit is above 0 (unit token: every one of its logits) or when it has run
    `max_supervision_steps`; in training not before its drawn minimum. A NaN logit never halts early.

    Args:
        logits: (B,) or (B, N) halting logits.
        steps: (B,) supervision steps done, this one included (`output.carry.steps`).
        min_steps: (B,) minimum of `draw_min_steps`; ignored outside training, None means 1.
        config: `max_supervision_steps`.
        training: whether exploration holds.
    """
    wants_to_halt = logits > 0
    if wants_to_halt.ndim == 2:
        wants_to_halt = wants_to_halt.all(dim=1)
    if training and min_steps is not None:
        wants_to_halt = wants_to_halt & (steps >= min_steps)
    return wants_to_halt | (steps >= config.max_supervision_steps)


def draw_min_steps(
    batch_size: int,
    config: HaltingConfig,
    generator: torch.Generator,
    device: torch.device | str | None = None,
) -> Tensor:
    """Draw the fewest supervision steps of new examples, (B,) int64, once per example.

    With probability `exploration` uniform over 2..max_supervision_steps, else 1, so that deep steps stay trained even
    when the head would halt early.

    Args:
        batch_size: B.
        config: `exploration` and `max_supervision_steps`.
        generator: CPU generator; its state resumes the draws. It advances by the same amount whatever comes out.
        device: where the result goes (drawn on the CPU in any case).
    """
    most = config.max_supervision_steps
    explores = torch.rand(batch_size, generator=generator) < config.exploration
    minimum = torch.randint(min(2, most), most + 1, (batch_size,), generator=generator)
    return torch.where(explores, minimum, torch.ones_like(minimum)).to(device)
