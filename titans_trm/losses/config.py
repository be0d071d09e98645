"""Configuration of the losses, checked when it is made. No torch here."""

from dataclasses import dataclass
from typing import Literal

_STRICT = {"extra": "forbid"}


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Loss of one supervision step: cross-entropy + halting_weight * halting + diversity term.

    The diversity term keeps the halting head from giving every example the same logit. It never reaches the
    representation: `logit_std` works on logits of a detached answer state.
    """

    __pydantic_config__ = _STRICT

    cross_entropy: Literal["stablemax", "softmax"] = (
        "stablemax"  # token probabilities: s(x)/sum s (TRM) or exp(x)/sum exp
    )
    label_smoothing: float = (
        0.0  # share of the target spread evenly over the vocabulary, 0 to below 1; 0.2 in fast recipes
    )
    focal_gamma: float = 0.0  # focal factor (1 - p)^gamma: larger looks away from tokens already right; 0 = off
    class_weight_power: float = 0.0  # weight of a token's target ~ (its share of the training targets)^-power; 0 = off
    class_weight_max: float = 10.0  # largest weight over the mean weight: rare tokens must not rule; 1 or more
    halting_weight: float = 0.5  # weight of the halting cross-entropy (nats per example); 0 = the head is not trained
    diversity: Literal["off", "logit_std", "variance_hinge"] = "logit_std"  # variance_hinge: the failing control
    diversity_weight: float = 0.1  # weight of logit_std: the gradient of the logits' spread when it is too small
    diversity_target_std: float = 0.5  # sigma*, standard deviation of logits over examples above which the term is zero
    diversity_anchor: float = 0.5  # alignment with accuracy that counts as spread, in logits; 0 = plain deviation
    diversity_guard: float = 0.02  # off while the share of examples exactly right is below this or above 1 - this
    diversity_anneal_steps: int = 0  # optimiser steps over which diversity_weight falls linearly to 0; 0 = never falls
    variance_hinge_weight: float = 0.01  # weight of the control variance_hinge
    variance_hinge_target: float = 0.1  # variance of halting probabilities that the control asks for

    def __post_init__(self) -> None:
        _one_of("loss.cross_entropy", self.cross_entropy, ("stablemax", "softmax"))
        _one_of("loss.diversity", self.diversity, ("off", "logit_std", "variance_hinge"))
        if not 0.0 <= self.label_smoothing < 1.0:
            raise ValueError(f"loss.label_smoothing={self.label_smoothing} is out of range; choose 0 to below 1.")
        if not 0.0 <= self.diversity_guard < 0.5:
            raise ValueError(f"loss.diversity_guard={self.diversity_guard} is out of range; choose 0 to below 0.5.")
        if not self.class_weight_max >= 1.0:
            raise ValueError(f"loss.class_weight_max={self.class_weight_max} is out of range; choose 1 or more.")
        for key in (
            "class_weight_power",
            "focal_gamma",
            "halting_weight",
            "diversity_weight",
            "diversity_anneal_steps",
        ):
            _not_negative(f"loss.{key}", getattr(self, key))
        for key in ("variance_hinge_weight", "variance_hinge_target", "diversity_anchor"):
            _not_negative(f"loss.{key}", getattr(self, key))
        if not self.diversity_target_std > 0.0:
            raise ValueError(
                f"loss.diversity_target_std={self.diversity_target_std} must be greater than 0; "
                "switch the term off with loss.diversity=off."
            )


def _one_of(key: str, value: object, allowed: tuple[object, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{key}={value!r} is not one of {', '.join(map(str, allowed))}.")


def _not_negative(key: str, value: float) -> None:
    if not value >= 0:
        raise ValueError(f"{key}={value} is negative; choose 0 or more.")
