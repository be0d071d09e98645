"""The allow-list: every change that may be made to a run under way, its bounds, and how to see that it worked.

A remedy is also an override: the same change, typed for a new run. So a diagnosis can be executed either way.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from titans_trm.diagnostics.alert import Alert, Verification
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
    overrides: Callable[[float, float | None], list[str]] | None = None  # (value, current) -> words for train.py

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
            effect=_effect("loss/halting", "down", 0.02),
        ),
        RemedyKind(
            id="halt_exploration_prob",
            what="share of examples that must run a random minimum of supervision steps",
            op="set",
            key="model.halting.exploration",
            low=0.0,
            high=0.5,
            effect=_effect("halting/steps", "up", 0.1),
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
            effect=_CALMER,
        ),
        RemedyKind(
            id="lr_raise",
            what="multiply every learning rate; only where updates are too small to learn from",
            op="scale",
            key="optimizer.lr",
            low=1.0,
            high=2.0,
            effect=_CALMER,
        ),
        RemedyKind(
            id="grad_clip",
            what="cap of the gradient's norm",
            op="set",
            key="trainer.gradient_clip_val",
            low=0.1,
            high=10.0,
            effect=_CALMER,
        ),
        RemedyKind(
            id="memory_max_grad_norm",
            what="cap of one token's inner gradient in the long-term memory",
            op="set",
            key="model.memory.max_inner_grad",
            low=0.1,
            high=10.0,
            effect=_CALMER,
        ),
        RemedyKind(
            id="memory_lr_scale",
            what="cap of the step of one chunk in the long-term memory",
            op="set",
            key="model.memory.max_step_size",
            low=0.1,
            high=1.0,
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


def options_of(alert: Alert, levels: Levels) -> list[RemedyOption]:
    """Return what may be tried against an alarm, best first: what its rule suggests, as far as the allow-list goes.

    A rule that suggests nothing calls for a person: a parameter without a gradient or a leaking split is a bug or a
    fact about the data, not a knob.
    """
    options: dict[str, RemedyOption] = {}
    for suggestion in alert.remedies:
        change = suggestion.changes[0] if suggestion.changes else None
        name = "lr_raise" if suggestion.id == "lr_scale" and change and change.value > 1.0 else suggestion.id
        if name not in REMEDIES or name not in levels or name in options:
            continue
        kind, current = REMEDIES[name], levels[name]
        value = None
        if change is not None and kind.op != "act":
            value = change.value if kind.op == "scale" else change.apply(0.0 if current is None else current)
            value = clamp(kind, value, current)
        options[name] = RemedyOption(
            id=name,
            what=kind.what,
            key=kind.key,
            current=current,
            low=kind.low,
            high=kind.high,
            suggested=value,
            effect=_effect_of(suggestion.verification) or kind.effect,
        )
    return list(options.values())


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
    to = "" if effect.reach is None else f" to {'above' if effect.direction == 'up' else 'below'} {effect.reach:g}"
    return f"{effect.metric} goes {effect.direction}{by}{to} within {effect.within_steps} steps, cross-entropy no worse"


def _effect_of(verification: Verification | None) -> ExpectedEffect | None:
    """Return a rule's verification in the words of the packages."""
    if verification is None:
        return None
    return ExpectedEffect(
        metric=verification.signal,
        direction="up" if verification.op == ">" else "down",
        reach=verification.value,
        within_steps=verification.within_steps,
    )
