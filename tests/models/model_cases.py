"""Small configurations and tensors for the model tests."""

from dataclasses import replace
from typing import Any

import torch

from titans_trm.models.config import BackboneConfig, HaltingConfig, MemoryConfig, RecursionConfig, TitansTRMConfig
from titans_trm.models.titans_trm import TitansTRM

GATES = ("product", "convex", "attention_only", "memory_only")


def small_config(**changes: Any) -> TitansTRMConfig:
    """Two blocks of width 16 on nine tokens out of seven; parts are changed by `backbone={...}` and the like."""
    parts: dict[str, Any] = {
        "backbone": BackboneConfig(num_blocks=2, num_heads=2, mlp_hidden=24, num_persistent_tokens=2),
        "memory": MemoryConfig(num_heads=2, expansion=2, chunk_size=4),
        "recursion": RecursionConfig(num_latent_steps=2, num_recursions=2),
        "halting": HaltingConfig(max_supervision_steps=4),
    }
    for name in parts:
        parts[name] = replace(parts[name], **changes.pop(name, {}))
    return TitansTRMConfig(**({"vocab_size": 7, "seq_len": 9, "width": 16} | parts | changes))


def small_model(seed: int = 0, dtype: torch.dtype = torch.float64, **changes: Any) -> TitansTRM:
    torch.manual_seed(seed)
    return TitansTRM(small_config(**changes)).to(dtype)


def tokens(batch: int = 3, length: int = 9, seed: int = 1, vocab: int = 7) -> torch.Tensor:
    return torch.randint(0, vocab, (batch, length), generator=torch.Generator().manual_seed(seed))
