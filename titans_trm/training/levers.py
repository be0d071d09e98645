"""The levers of a run under way: what a remedy may turn, how it is turned back, and how the weights go back.

All ranks pull the same lever at the same step; nothing here talks to a specialist.
"""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import torch
from torch import Tensor

from titans_trm.models.memory import NeuralMemory
from titans_trm.training.callbacks.ema import EMA
from titans_trm.training.checkpoint_io import LAST, PREVIOUS, load_checkpoint
from titans_trm.training.module import TRMModule

PERTURBATION_STD = 0.02  # of the noise that breaks the equality of halting logits

Setting = float | str | None


class Levers:
    """Read, set and restore what remedies change.

    Args:
        trainer: of the run.
        module: of the run.
        checkpoints: the run's `checkpoints/`.
    """

    def __init__(self, trainer: lightning.Trainer, module: TRMModule, checkpoints: Path) -> None:
        self.trainer = trainer
        self.module = module
        self.checkpoints = checkpoints
        self._actions: dict[str, Callable[[int], None]] = {
            "q_head_perturb": self._perturb_head,
            "skip_batches": self._fresh_slots,
            "rollback_last_good": self._back_to_last_good,
        }

    def levels(self) -> dict[str, float | None]:
        """Return the current value of every remedy that this run has a lever for; None for actions and what is off."""
        loss, model = self.module.loss_config, self.module.model.config
        levels: dict[str, float | None] = dict.fromkeys(self._actions)
        levels["act_diversity_weight"] = loss.diversity_weight if loss.diversity == "logit_std" else 0.0
        levels["act_loss_weight"] = loss.halting_weight
        levels["halt_exploration_prob"] = model.halting.exploration
        levels["lr_scale"] = levels["lr_raise"] = self.trainer.optimizers[0].param_groups[0]["lr"]
        levels["grad_clip"] = self.trainer.gradient_clip_val
        if model.has_memory:
            levels["memory_max_grad_norm"] = model.memory.max_inner_grad
            levels["memory_lr_scale"] = model.memory.max_step_size
        return levels

    def pull(self, remedy: str, value: float | None) -> None:
        """Carry out a remedy.

        Raises:
            KeyError: there is no such lever.
        """
        if remedy in self._actions:
            self._actions[remedy](self.trainer.global_step)
            return
        assert value is not None and math.isfinite(value)
        if remedy in ("lr_scale", "lr_raise"):
            self._scale_rates(value)
            return
        settings: dict[str, dict[str, Setting]] = {
            "act_diversity_weight": {"loss.diversity": "logit_std", "loss.diversity_weight": value},
            "act_loss_weight": {"loss.halting_weight": value},
            "halt_exploration_prob": {"halting.exploration": value},
            "grad_clip": {"gradient_clip_val": value},
            "memory_max_grad_norm": {"memory.max_inner_grad": value},
            "memory_lr_scale": {"memory.max_step_size": value},
        }
        self.restore(settings[remedy])

    def settings(self) -> dict[str, Setting]:
        """Return everything that `restore` can put back, as plain values. Rates are in the scheduler's own state."""
        loss, model = self.module.loss_config, self.module.model.config
        return {
            "loss.diversity": loss.diversity,
            "loss.diversity_weight": loss.diversity_weight,
            "loss.halting_weight": loss.halting_weight,
            "halting.exploration": model.halting.exploration,
            "memory.max_inner_grad": model.memory.max_inner_grad,
            "memory.max_step_size": model.memory.max_step_size,
            "gradient_clip_val": self.trainer.gradient_clip_val,
        }

    def restore(self, settings: dict[str, Setting]) -> None:
        """Set the named settings."""
        for name, value in settings.items():
            part, _, key = name.rpartition(".")
            change: Any = {key: value}
            if part == "loss":
                self.module.loss_config = dataclasses.replace(self.module.loss_config, **change)
            elif part:
                config = self.module.model.config
                changed = dataclasses.replace(getattr(config, part), **change)
                whole: Any = {part: changed}
                self.module.model.config = dataclasses.replace(config, **whole)
                for module in self.module.model.modules():
                    if part == "memory" and isinstance(module, NeuralMemory):
                        module.config = changed
            else:
                self.trainer.gradient_clip_val = value  # type: ignore[assignment]

    def rates(self) -> list[float]:
        """Return the base learning rate of every group, for the way back."""
        return [float(rate) for rate in self.trainer.lr_scheduler_configs[0].scheduler.base_lrs]

    def set_rates(self, rates: list[float]) -> None:
        """Set the base learning rates; the schedule goes on from there."""
        scheduler = self.trainer.lr_scheduler_configs[0].scheduler
        factors = [new / old if old else 1.0 for new, old in zip(rates, scheduler.base_lrs, strict=True)]
        scheduler.base_lrs = list(rates)
        for group, factor in zip(self.trainer.optimizers[0].param_groups, factors, strict=True):
            group["lr"] *= factor
            group["initial_lr"] *= factor

    def save(self, name: str) -> None:
        """Write a checkpoint `name` to come back to; on all ranks."""
        self.trainer.save_checkpoint(self.checkpoints / name)

    def load_weights(self, name: str) -> None:
        """Take weights, average and optimiser state from a checkpoint, and fresh examples; step and data go on."""
        self._take(load_checkpoint(self.checkpoints / name))

    def _take(self, checkpoint: dict[str, Any]) -> None:
        optimizer = self.trainer.optimizers[0]
        rates = [group["lr"] for group in optimizer.param_groups]
        self.module.load_state_dict(checkpoint["state_dict"])
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, EMA):  # the average lies in state_dict, the weights beside it
                callback.on_load_checkpoint(self.trainer, self.module, checkpoint)
        optimizer.load_state_dict(checkpoint["optimizer_states"][0])
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate  # the schedule has gone on since
        self._fresh_slots(0)

    def _back_to_last_good(self, step: int) -> None:
        for name in (LAST, PREVIOUS):
            path = self.checkpoints / name
            if path.is_file() and _finite(checkpoint := load_checkpoint(path)):
                self._take(checkpoint)
                return
        raise FileNotFoundError("no checkpoint with finite weights")

    def _fresh_slots(self, step: int) -> None:
        assert self.module.slots is not None
        self.module.slots.release()

    def _scale_rates(self, factor: float) -> None:
        self.set_rates([factor * rate for rate in self.rates()])

    @torch.no_grad()
    def _perturb_head(self, step: int) -> None:
        weight = self.module.model.act_head.weight
        # A generator of its own: the run's random state is as if nothing had been drawn.
        generator = torch.Generator().manual_seed(step)
        weight.add_(PERTURBATION_STD * torch.randn(weight.shape, generator=generator).to(weight))


def _finite(checkpoint: dict[str, Any]) -> bool:
    states = [checkpoint["state_dict"], checkpoint.get("current_model_state", {})]
    tensors = [value for state in states for value in state.values() if isinstance(value, Tensor)]
    return all(bool(torch.isfinite(value).all()) for value in tensors if value.is_floating_point())
