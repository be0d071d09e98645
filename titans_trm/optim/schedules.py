"""Learning-rate schedule: linear warm-up, then constant or cosine, as a factor on every group's peak."""

import math

import torch
from torch.optim.lr_scheduler import LambdaLR

from titans_trm.optim.config import SchedulerConfig


def build_scheduler(optimizer: torch.optim.Optimizer, config: SchedulerConfig, max_steps: int | None) -> LambdaLR:
    """Return a scheduler to be stepped once per optimiser step.

    Only its step count is saved, so a resumed run follows the configuration it is resumed with.

    Args:
        optimizer: its groups' learning rates are the peaks.
        config: shape of the schedule.
        max_steps: optimiser steps of the whole run, the end of cosine; constant does not need it (None or -1).
    """
    if config.name == "cosine" and (max_steps is None or max_steps < 1):
        raise ValueError(
            f"scheduler.name=cosine needs an end, and max_steps={max_steps} gives none; "
            "set trainer.max_steps or take scheduler=constant."
        )
    return LambdaLR(optimizer, lambda step: learning_rate_factor(step, config, max_steps))


def learning_rate_factor(step: int, config: SchedulerConfig, max_steps: int | None) -> float:
    """Return the share of the peak learning rate that optimiser step `step` (from 0) uses.

    Warm-up reaches the peak at step warmup_steps - 1; its first step is already above 0. Cosine reaches
    `final_lr_fraction` at max_steps and stays there. A run shorter than its warm-up only warms up.
    """
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.name == "constant" or max_steps is None:
        return 1.0
    progress = min(1.0, (step - config.warmup_steps) / max(1, max_steps - config.warmup_steps))
    return config.final_lr_fraction + (1.0 - config.final_lr_fraction) * 0.5 * (1.0 + math.cos(math.pi * progress))
