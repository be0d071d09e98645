"""Configuration of optimiser and learning-rate schedule, checked when it is made. No torch here."""

from dataclasses import dataclass
from typing import Literal

_STRICT = {"extra": "forbid"}


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """One optimiser for all parameters; the defaults are the TRM recipe for small puzzle sets (arXiv 2510.04871)."""

    __pydantic_config__ = _STRICT

    name: Literal["adamw", "adam_atan2", "muon"] = "adam_atan2"  # muon: hidden matrices by Muon, the rest by AdamW
    lr: float = 1e-4  # peak learning rate of everything that Muon does not train
    weight_decay: float = 1.0  # decoupled: each step multiplies weights by 1 - learning rate * weight_decay
    betas: tuple[float, float] = (0.9, 0.95)  # decay of the first and second moment of AdamW and AdamATan2
    eps: float = 1e-8  # added to the root of AdamW's second moment; AdamATan2 needs none
    decay_all: bool = True  # true: decay biases, norm gains and other vectors too (TRM); false: matrices only
    puzzle_embedding_lr: float | None = None  # peak learning rate of the per-puzzle embedding (1e-2 on ARC); null = lr
    puzzle_embedding_weight_decay: float | None = (
        None  # decay of the per-puzzle embedding at every step, seen or not; null = weight_decay
    )
    fused: bool | None = None  # one kernel for the whole AdamW step; null = where the device has it
    muon_lr: float = 0.02  # peak learning rate of hidden matrices; one step changes their singular values by about this
    muon_momentum: float = 0.95  # decay of Muon's gradient average, below 1
    muon_weight_decay: float = 0.005  # decoupled decay of hidden matrices, times muon_lr
    muon_newton_schulz_steps: int = 5  # iterations that orthogonalise an update; 3 is faster and rougher

    def __post_init__(self) -> None:
        if self.name not in ("adamw", "adam_atan2", "muon"):
            raise ValueError(f"optimizer.name={self.name!r} is not one of adamw, adam_atan2, muon.")
        for key in ("lr", "eps", "muon_lr"):
            _positive(f"optimizer.{key}", getattr(self, key))
        for key in ("weight_decay", "muon_weight_decay"):
            _not_negative(f"optimizer.{key}", getattr(self, key))
        if self.puzzle_embedding_lr is not None:
            _positive("optimizer.puzzle_embedding_lr", self.puzzle_embedding_lr)
        if self.puzzle_embedding_weight_decay is not None:
            _not_negative("optimizer.puzzle_embedding_weight_decay", self.puzzle_embedding_weight_decay)
        if len(self.betas) != 2 or not all(0.0 <= beta < 1.0 for beta in self.betas):
            raise ValueError(f"optimizer.betas={self.betas} must be two numbers from 0 to below 1, like [0.9, 0.95].")
        if not 0.0 <= self.muon_momentum < 1.0:
            raise ValueError(f"optimizer.muon_momentum={self.muon_momentum} is out of range; choose 0 to below 1.")
        if not 1 <= self.muon_newton_schulz_steps < 100:
            raise ValueError(
                f"optimizer.muon_newton_schulz_steps={self.muon_newton_schulz_steps} is out of range; choose 1 to 99."
            )


@dataclass(frozen=True, kw_only=True)
class SchedulerConfig:
    """Linear warm-up, then constant or cosine; a factor on the peak learning rate of every parameter group."""

    __pydantic_config__ = _STRICT

    name: Literal["constant", "cosine"] = "constant"  # cosine falls until trainer.max_steps
    warmup_steps: int = 2000  # optimiser steps of linear rise; 0 = none
    final_lr_fraction: float = 0.0  # learning rate at the end of cosine, as a share of the peak, 0 to 1

    def __post_init__(self) -> None:
        if self.name not in ("constant", "cosine"):
            raise ValueError(f"scheduler.name={self.name!r} is not one of constant, cosine.")
        _not_negative("scheduler.warmup_steps", self.warmup_steps)
        if not 0.0 <= self.final_lr_fraction <= 1.0:
            raise ValueError(f"scheduler.final_lr_fraction={self.final_lr_fraction} is out of range; choose 0 to 1.")


def _positive(key: str, value: float) -> None:
    if not value > 0.0:
        raise ValueError(f"{key}={value} must be greater than 0.")


def _not_negative(key: str, value: float) -> None:
    if not value >= 0:
        raise ValueError(f"{key}={value} is negative; choose 0 or more.")
