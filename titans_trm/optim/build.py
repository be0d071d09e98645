"""Build the one optimiser of a model from its configuration."""

import logging
from typing import Any

import torch
from torch import nn

from titans_trm.optim.adam_atan2 import AdamATan2
from titans_trm.optim.config import OptimizerConfig
from titans_trm.optim.groups import ParameterGroups, adam_groups, split_parameters
from titans_trm.optim.muon import CombinedOptimizer, build_muon
from titans_trm.optim.schedules import build_scheduler

__all__ = ["build_optimizer", "build_scheduler"]

_FUSED_DEVICES = frozenset({"cpu", "cuda"})  # where torch 2.8 and later have AdamW in one kernel

_log = logging.getLogger(__name__)


def build_optimizer(model: nn.Module, config: OptimizerConfig, *, fused: bool | None = None) -> torch.optim.Optimizer:
    """Return the optimiser of the parameters that require gradient. Call it once the model is on its device.

    Args:
        model: the model to train.
        config: optimiser, learning rates, weight decay.
        fused: overrides `config.fused`. Training in fp16 with a gradient scaler *and* gradient clipping passes False:
            fused AdamW unscales gradients by itself, after they would have been clipped. No other optimiser here does.

    Raises:
        ValueError: nothing to train.
        InputError: Muon on a torch without it.
    """
    groups = split_parameters(model)
    sizes = {name: sum(p.numel() for _, p in part) for name, part in vars(groups).items()}
    if not any(sizes.values()):
        raise ValueError("The model has no parameter that requires gradient; nothing to optimise.")
    _log.info("optimizer %s over %s", config.name, ", ".join(f"{n} {size:,}" for n, size in sizes.items() if size))
    if config.name == "adam_atan2":
        return AdamATan2(adam_groups(groups, config, with_hidden=True), lr=config.lr, betas=config.betas)
    fused = config.fused if fused is None else fused
    if config.name == "adamw":
        return _adamw(adam_groups(groups, config, with_hidden=True), config, fused)
    return _muon_and_adamw(groups, config, fused)


def _muon_and_adamw(groups: ParameterGroups, config: OptimizerConfig, fused: bool | None) -> torch.optim.Optimizer:
    members: list[torch.optim.Optimizer] = []
    if groups.hidden:
        members.append(
            build_muon(
                [parameter for _, parameter in groups.hidden],
                lr=config.muon_lr,
                momentum=config.muon_momentum,
                weight_decay=config.muon_weight_decay,
                newton_schulz_steps=config.muon_newton_schulz_steps,
            )
        )
    rest = adam_groups(groups, config, with_hidden=False)
    if rest:
        members.append(_adamw(rest, config, fused))
    return CombinedOptimizer(members)


def _adamw(groups: list[dict[str, Any]], config: OptimizerConfig, fused: bool | None) -> torch.optim.AdamW:
    if fused is None:
        parameters = [parameter for group in groups for parameter in group["params"]]
        fused = all(p.device.type in _FUSED_DEVICES and p.is_floating_point() for p in parameters)
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=fused)
