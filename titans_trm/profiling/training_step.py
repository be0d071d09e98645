"""One supervision step on made-up examples: the piece of work that FLOPs, memory and latency are counted on.

B batch, N tokens, L = N + 1 positions, D width.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from titans_trm.losses.config import LossConfig
from titans_trm.losses.total import compute_loss
from titans_trm.models.config import TitansTRMConfig
from titans_trm.models.titans_trm import ModelOutput, TitansTRM
from titans_trm.models.trm_wrapper import Carry

Precision = Literal["32-true", "bf16-mixed", "16-mixed"]  # Lightning's words

_AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


@dataclass(frozen=True)
class Examples:
    """Made-up examples; what a step costs does not depend on their values."""

    inputs: Tensor  # (B, N) int64
    targets: Tensor  # (B, N) int64
    puzzle_ids: Tensor | None  # (B,) int64 where the model has puzzle embeddings


def make_examples(config: TitansTRMConfig, batch_size: int, device: torch.device | str = "cpu") -> Examples:
    """Return `batch_size` examples for a model of this configuration; the same ones every time."""
    shape = (batch_size, config.seq_len)
    tokens = torch.arange(batch_size * config.seq_len, device=device).reshape(shape) % config.vocab_size
    ids = torch.arange(batch_size, device=device) % config.num_puzzle_ids if config.num_puzzle_ids else None
    return Examples(tokens, (tokens + 1) % config.vocab_size, ids)


def make_carry(model: TitansTRM, batch_size: int) -> Carry:
    """Return the carry of a running batch: like the initial one, but every row has its own memory."""
    carry = model.initial_carry(batch_size)
    return replace(carry, y=carry.y.contiguous(), z=carry.z.contiguous())


def forward(
    model: TitansTRM, examples: Examples, carry: Carry, loss: LossConfig, precision: Precision
) -> tuple[Tensor, ModelOutput]:
    """Run one supervision step forward under autocast and return the loss with its graph, and the output."""
    with autocast(examples.inputs.device.type, precision):
        output = model(examples.inputs, carry, examples.puzzle_ids)
        terms = compute_loss(
            output.logits,
            output.halting_logits,
            examples.targets,
            loss,
            detached_halting_logits=model.act_head(output.halting_features.detach()),
        )
    return terms.total, output


def autocast(device_type: str, precision: Precision) -> torch.autocast:
    """Return the autocast context of a precision; `32-true` gives one that does nothing."""
    dtype = _AUTOCAST.get(precision, torch.bfloat16)
    return torch.autocast(device_type, dtype=dtype, enabled=precision in _AUTOCAST)
