"""A look inside the blocks: one extra net call without gradient on a few slots, never inside the training step.

So training runs the same operations whether it is watched or not, compiled or checkpointed, to the bit.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from titans_trm.models.memory import NeuralMemory
from titans_trm.models.rotary import rotary_tables
from titans_trm.models.titans_mag import MAGBlock, MAGGate
from titans_trm.models.titans_trm import TitansTRM
from titans_trm.models.trm_wrapper import Carry

_DEAD_ACTIVATION = 1e-3  # a unit of SwiGLU below it says nothing
_DEAD_SHARE = 0.01  # of tokens: a unit that speaks up less often is dead
_CLOSED, _OPEN = 0.01, 0.99  # a gate's value beyond which it is shut or wide open


@torch.no_grad()
def probe(model: TitansTRM, inputs: Tensor, carry: Carry, puzzle_ids: Tensor | None, count: int) -> dict[str, Tensor]:
    """Return signals of memories, gates and feed-forward units as scalars on the device.

    Args:
        model: the model in training.
        inputs: (B, N) tokens in the slots.
        carry: of the slots.
        puzzle_ids: (B,) or None.
        count: slots that are looked at.
    """
    count = min(count, len(inputs))
    rows = torch.arange(count, device=inputs.device)
    picked = carry.select(rows)
    x = model.embed(inputs[:count], None if puzzle_ids is None else puzzle_ids[:count])
    h = x + picked.y.to(x.dtype) + picked.z.to(x.dtype)
    net = model.recursion.net
    rotary = rotary_tables(torch.arange(h.shape[1], device=h.device), net.head_width, net.rope_theta)
    found: dict[str, Tensor] = {}
    for index, block in enumerate(net.blocks):
        assert isinstance(block, MAGBlock)
        state = picked.memory[index] if picked.memory is not None else None
        with _watched(block, f"block{index}", found):
            h, _ = block(h, rotary, state)
    return found


@contextmanager
def _watched(block: MAGBlock, name: str, found: dict[str, Tensor]) -> Iterator[None]:
    handles = [block.mlp.down.register_forward_pre_hook(_units_hook(name, found))]
    if block.gate.mode in ("product", "convex"):
        handles.append(block.gate.register_forward_pre_hook(_gate_hook(name, found)))
    stats: dict[str, Tensor] = {}
    if block.memory is not None:
        handles.append(block.memory.register_forward_pre_hook(_ask_for(stats), with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
    if block.memory is not None:
        found.update({f"memory/{name}/{key}": value for key, value in _memory_values(block.memory, stats).items()})


def _ask_for(stats: dict[str, Tensor]) -> Callable[..., Any]:
    def hook(memory: NeuralMemory, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        length = arguments[0].shape[1]
        stats["length"] = arguments[0].new_tensor(float(length if not memory.causal else memory.config.chunk_size))
        return arguments, {**options, "stats": stats}

    return hook


def _memory_values(memory: NeuralMemory, stats: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return sizes relative to the initial memory: with `reset` a set is written once, so the write says it all."""
    initial = torch.stack([w.flatten(1).norm(dim=1).mean() for w in memory.initial_weights]).clamp_min(1e-12)
    theta, length = stats["theta"], stats["length"]
    return {
        "norm": (stats["memory_norm"] / initial).amax(),
        "write": (theta * length * stats["surprise_norm"] / initial).amax(),
        "inner_loss": stats["inner_loss"],
        "surprise": stats["surprise_norm"],
        "theta": (theta * length / memory.config.max_step_size).mean(),
        "alpha": stats["alpha"].mean(),
        **({"eta": stats["eta"].mean()} if memory.has_momentum else {}),
    }


def _gate_hook(name: str, found: dict[str, Tensor]) -> Callable[..., None]:
    def hook(gate: MAGGate, arguments: tuple[Tensor, Tensor]) -> None:
        value = gate.openness(*arguments).float()
        found[f"gate/{name}/mean"] = value.mean()
        found[f"gate/{name}/std"] = value.std()
        found[f"gate/{name}/closed"] = (value.abs() < _CLOSED).float().mean()
        found[f"gate/{name}/open"] = (value > _OPEN).float().mean()

    return hook


def _units_hook(name: str, found: dict[str, Tensor]) -> Callable[..., None]:
    def hook(layer: torch.nn.Module, arguments: tuple[Tensor]) -> None:
        active = (arguments[0].abs() > _DEAD_ACTIVATION).float().flatten(0, 1).mean(0)
        found[f"mlp/{name}/dead"] = (active < _DEAD_SHARE).float().mean()

    return hook
