"""The allow-list: every change that may be made to a run under way, its bounds, and how to see that it worked.

A remedy is also an override: the same change, typed for a new run. So a diagnosis can be executed either way.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from titans_trm.specialist.protocol import ExpectedEffect, Remedy, RemedyOption

Levels = Mapping[str, float | None]  # current value of each remedy's key in the run; None where it is switched off


@dataclass(frozen=True, kw_only=True)
class RemedyKind:
    """One kind of change.

    `low` and `high` bound the value that is set; `max_factor` bounds one step of it, up or down.
    """

    id: str
    what: str  # for people and for a specialist
    op: Literal["set", "scale", "act"]  # set the key; multiply it; an action without a value
    effect: ExpectedEffect  # default verification
    key: str | None = None  # of the configuration
    low: float | None = None
    high: float | None = None
    max_factor: float = math.inf
    default: float | None = None  # value proposed where nothing better is known
    overrides: Callable[[float, float | None], list[str]] | None = None  # (value, current) -> words for train.py

    def option(self, current: float | None) -> RemedyOption:
        """Return what a specialist is told about this remedy."""
        return RemedyOption(id=self.id, what=self.what, key=self.key, current=current, low=self.low, high=self.high)

    def as_overrides(self, value: float | None, current: float | None) -> list[str]:
        """Return the same change as words for a new `train.py`; empty for what only a run under way can do."""
        if self.op == "act" or value is None:
            return [] if self.overrides is None else self.overrides(0.0, current)
        if self.overrides is not None:
            return self.overrides(value, current)
        if self.key is None:
            return []
        target = value * current if self.op == "scale" and current is not None else value
        return [f"{self.key}={target:g}"]


def _effect(metric: str, direction: Literal["up", "down"], min_delta: float = 0.0, steps: int = 200) -> ExpectedEffect:
    return ExpectedEffect(metric=metric, direction=direction, min_delta=min_delta, within_steps=steps)


_CALMER = _effect("loss/cross_entropy", "down", steps=300)

REMEDIES: dict[str, RemedyKind] = {
    kind.id: kind
    for kind in (
        RemedyKind(
            id="act_diversity_weight",
            what="spread the halting logits along accuracy: loss.diversity=logit_std with this weight",
            op="set",
            key="loss.diversity_weight",
            low=0.0,
            high=10.0,
            max_factor=10.0,
            default=0.1,
            effect=_effect("halting/logit_std", "up", 0.05),
            overrides=lambda value, _: ["loss.diversity=logit_std", f"loss.diversity_weight={value:g}"],
        ),
        RemedyKind(
            id="act_loss_weight",
            what="weight of the halting cross-entropy",
            op="set",
            key="loss.halting_weight",
            low=0.05,
            high=2.0,
            max_factor=10.0,
            default=0.5,
            effect=_effect("loss/halting", "down", 0.02),
        ),
        RemedyKind(
            id="halt_exploration_prob",
            what="share of examples that must run a random minimum of supervision steps",
            op="set",
            key="model.halting.exploration",
            low=0.0,
            high=0.5,
            default=0.2,
            effect=_effect("halting/steps", "up", 0.1),
        ),
        RemedyKind(
            id="act_head_reset",
            what="draw the halting head anew, as at the start of a run",
            op="act",
            effect=_effect("halting/logit_std", "up", 0.05),
        ),
        RemedyKind(
            id="q_head_perturb",
            what="add small noise to the halting head's weights: breaks exact equality of its logits",
            op="act",
            effect=_effect("halting/logit_std", "up", 0.05),
        ),
        RemedyKind(
            id="lr_scale",
            what="multiply every learning rate",
            op="scale",
            key="optimizer.lr",
            low=0.1,
            high=1.0,
            default=0.5,
            effect=_CALMER,
        ),
        RemedyKind(
            id="lr_raise",
            what="multiply every learning rate; only where updates are too small to learn from",
            op="scale",
            key="optimizer.lr",
            low=1.0,
            high=2.0,
            default=2.0,
            effect=_CALMER,
        ),
        RemedyKind(
            id="grad_clip",
            what="cap of the gradient's norm",
            op="set",
            key="trainer.gradient_clip_val",
            low=0.1,
            high=10.0,
            default=1.0,
            effect=_CALMER,
        ),
        RemedyKind(
            id="memory_max_grad_norm",
            what="cap of one token's inner gradient in the long-term memory",
            op="set",
            key="model.memory.max_inner_grad",
            low=0.1,
            high=10.0,
            default=1.0,
            effect=_CALMER,
        ),
        RemedyKind(
            id="memory_lr_scale",
            what="cap of the step of one chunk in the long-term memory",
            op="set",
            key="model.memory.max_step_size",
            low=0.1,
            high=1.0,
            default=0.5,
            effect=_CALMER,
        ),
        RemedyKind(
            id="skip_batches",
            what="give every slot its next example and a fresh carry",
            op="act",
            effect=_effect("loss/cross_entropy", "down", steps=100),
        ),
        RemedyKind(
            id="rollback_last_good",
            what="weights, average and optimiser state of the last checkpoint with finite numbers; fresh examples",
            op="act",
            effect=_effect("loss/cross_entropy", "down", steps=100),
        ),
    )
}

# Which remedies answer which rule of the diagnostics, best first. Rules that are not listed call for a person: a
# parameter without a gradient or a leaking split is a bug or a fact about the data, not a knob.
ANSWERS: dict[str, tuple[str, ...]] = {
    "nonfinite": ("rollback_last_good", "lr_scale"),
    "loss_spike": ("skip_batches", "lr_scale"),
    "loss_divergence": ("rollback_last_good", "lr_scale"),
    "grad_explode": ("grad_clip", "lr_scale"),
    "update_ratio_high": ("lr_scale",),
    "update_ratio_low": ("lr_raise",),
    "act_collapse": ("act_diversity_weight", "q_head_perturb", "act_head_reset", "act_loss_weight"),
    "act_miscalibrated": ("act_loss_weight", "act_head_reset"),
    "act_never_halt": ("act_loss_weight", "act_head_reset"),
    "act_always_halt": ("halt_exploration_prob", "act_loss_weight", "act_head_reset"),
    "mem_blowup": ("memory_max_grad_norm", "memory_lr_scale"),
    "inner_loss_divergence": ("memory_lr_scale", "memory_max_grad_norm"),
    "val_regression": ("lr_scale",),
}


def options_for(rule: str, levels: Levels) -> list[RemedyOption]:
    """Return the remedies that a specialist may choose from for `rule`, with the current values."""
    return [REMEDIES[name].option(levels.get(name)) for name in ANSWERS.get(rule, ()) if name in levels]


def propose(kind: RemedyKind, current: float | None, rationale: str) -> Remedy:
    """Return `kind` with its default value, moved from the current one by no more than is allowed."""
    value = kind.default
    if kind.op == "set" and value is not None and current is not None and current > 0.0:
        # A knob that already stands at the default or beyond is turned further, not set again.
        further = {"grad_clip": 0.5, "memory_max_grad_norm": 0.5, "memory_lr_scale": 0.5}.get(kind.id, 2.0)
        if (value - current) * (further - 1.0) <= 0.0:
            value = current * further
        value = clamp(kind, value, current)
    return Remedy(id=kind.id, value=value, rationale=rationale, expected_effect=kind.effect)


def clamp(kind: RemedyKind, value: float, current: float | None) -> float:
    """Return `value` inside the bounds of `kind`, and inside one step from `current`."""
    if kind.op == "set" and current is not None and current > 0.0 and math.isfinite(kind.max_factor):
        value = min(max(value, current / kind.max_factor), current * kind.max_factor)
    low = -math.inf if kind.low is None else kind.low
    high = math.inf if kind.high is None else kind.high
    return min(max(value, low), high)


def fix_command(overrides: list[str], remedies: list[tuple[Remedy, float | None]]) -> list[str]:
    """Return the words of `train.py` that start a new run with the remedies built in.

    Args:
        overrides: what was typed for the first run.
        remedies: each with the current value of its key.
    """
    changes = [word for remedy, current in remedies for word in REMEDIES[remedy.id].as_overrides(remedy.value, current)]
    changed = {word.partition("=")[0] for word in changes}
    gone = changed | {"resume", "run_dir"}
    return [word for word in overrides if word.lstrip("+").partition("=")[0] not in gone] + changes


def describe(effect: ExpectedEffect) -> str:
    """Return a verification rule in words."""
    by = f" by at least {effect.min_delta:g}" if effect.min_delta else ""
    return f"{effect.metric} goes {effect.direction}{by} within {effect.within_steps} steps, cross-entropy no worse"
