"""Check a model's configuration before anything is trained: size, shares, heads, window, memory, unused keys."""

from collections.abc import Mapping
from typing import Any

import torch

from titans_trm import schema
from titans_trm.errors import InputError
from titans_trm.models.config import BackboneConfig, MemoryConfig, TitansTRMConfig
from titans_trm.models.titans_trm import TitansTRM
from titans_trm.specialist.model_checks import Finding

EMBEDDING_SHARE = 0.7  # of the parameters in embedding and output head above which the core is called weak
TOLERANCE = 0.1  # of a claimed number of parameters
_HEAD_WIDTHS = (8, 128)


def validate_architecture(
    values: Mapping[str, Any], *, claimed_parameters: int | None = None, memory_bytes: int | None = None
) -> list[Finding]:
    """Return what is found about a `TitansTRMConfig` given as plain values.

    Args:
        values: the configuration; an unknown key is a finding, not a crash.
        claimed_parameters: what the model is said to have.
        memory_bytes: of the card: weights, gradients, two moments and the average must fit before any activation.
    """
    try:
        config = schema.build(TitansTRMConfig, values)
        with torch.device("meta"):
            model = TitansTRM(config)
    except (InputError, ValueError) as error:
        return [Finding("configuration", False, str(error))]
    total = sum(parameter.numel() for parameter in model.parameters())
    findings = [Finding("configuration", True, "every key is known and every value possible.")]
    findings.append(_budget(config, total, claimed_parameters))
    findings.append(_shares(model, total))
    findings.append(_heads(config))
    findings.append(_window(config))
    findings.append(_states(total, memory_bytes))
    findings.append(_unused(config, values))
    return findings


def _budget(config: TitansTRMConfig, total: int, claimed: int | None) -> Finding:
    if claimed is not None:
        ok = abs(total - claimed) <= TOLERANCE * claimed
        return Finding("parameters", ok, f"{total:,} counted, {claimed:,} claimed.")
    budget = config.parameter_budget
    within = "" if budget is None else f", within [{budget[0]:,}, {budget[1]:,}]"
    return Finding("parameters", True, f"{total:,} counted{within}.")


def _shares(model: TitansTRM, total: int) -> Finding:
    outside = sum(p.numel() for name, p in model.named_parameters() if "embedding" in name or name.startswith("head."))
    share = outside / total
    return Finding("embedding share", share <= EMBEDDING_SHARE, f"{share:.1%} in embeddings and output head.")


def _heads(config: TitansTRMConfig) -> Finding:
    width = config.width // config.backbone.num_heads
    low, high = _HEAD_WIDTHS
    return Finding("head width", low <= width <= high, f"{width} per attention head; {low} to {high} works.")


def _window(config: TitansTRMConfig) -> Finding:
    window = config.backbone.window
    if window is None or not config.has_attention:
        return Finding(
            "window", True, "attention sees the whole sequence." if config.has_attention else "no attention."
        )
    if window >= config.seq_len:
        return Finding("window", False, f"a window of {window} on {config.seq_len} tokens never acts; set it to null.")
    reach = window * config.backbone.num_blocks
    return Finding("window", True, f"one pass reaches {min(reach, config.seq_len)} of {config.seq_len} tokens.")


def _states(total: int, memory_bytes: int | None) -> Finding:
    needed = 5 * 4 * total  # weights, gradients, two moments, average in float32
    words = f"{needed / 2**20:,.0f} MiB for weights, gradients, moments and average"
    if memory_bytes is None:
        return Finding("memory", True, f"{words}; activations come on top (python profile.py).")
    return Finding("memory", needed < memory_bytes, f"{words}, of {memory_bytes / 2**20:,.0f} MiB.")


def _unused(config: TitansTRMConfig, values: Mapping[str, Any]) -> Finding:
    idle = []
    if not config.has_memory:
        idle += [f"memory.{key} (gate=attention_only)" for key in _changed(values, "memory", MemoryConfig())]
    elif not config.causal and "conv_width" in _changed(values, "memory", MemoryConfig()):
        idle.append("memory.conv_width (grids have no order)")
    if config.backbone.gate != "product" and "gate_activation" in _changed(values, "backbone", BackboneConfig()):
        idle.append(f"backbone.gate_activation (gate={config.backbone.gate})")
    return Finding("unused keys", not idle, "none." if not idle else f"without effect: {', '.join(idle)}.")


def _changed(values: Mapping[str, Any], section: str, defaults: Any) -> list[str]:
    """Return the keys of a section that were set to something else than their default."""
    return [key for key, value in values.get(section, {}).items() if value != getattr(defaults, key)]
