"""The distribution of labels in the slots, against the first ones seen: has what is asked for changed?"""

import math
from typing import Any

import torch
from torch import Tensor

_BINS = 10  # at most: rare labels share the last, or chance alone would fill and empty them
_BASELINE_CHECKS = 5  # checks whose labels are the reference
_EPS = 1e-4  # share added to every bin, so that an empty one has a logarithm
_Z_99 = 2.3263  # of the normal distribution


class LabelHistogram:
    """Population stability index of labels, with a limit that chance exceeds in one check of a hundred.

    The fixed limits in use (0.1, 0.2) are crossed by chance alone in small samples. Under no change, PSI is about
    chi-squared with bins - 1 degrees of freedom times (1/n + 1/m). Labels of one example hang together, so n and m
    count examples, not tokens, which errs on the side of silence.
    """

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        self.checks = 0
        self.examples = 0  # behind the reference
        self.reference = [0.0] * vocab_size

    def count(self, targets: Tensor) -> Tensor:
        """Return counts (V,) of the scored labels in `targets` (B, N), on their device."""
        scored = targets >= 0
        size = self.vocab_size + 1
        shifted = torch.where(scored, targets, torch.full_like(targets, self.vocab_size))
        return torch.zeros(size, device=targets.device).scatter_add_(
            0, shifted.flatten(), torch.ones_like(shifted, dtype=torch.float32).flatten()
        )[: self.vocab_size]

    def values(self, counts: list[float], examples: int) -> dict[str, float]:
        """Return the entropy of these labels and, once there is a reference, their distance from it and its limit."""
        total = sum(counts)
        if total == 0.0:
            return {}
        shares = [count / total for count in counts]
        found = {"labels/entropy": -sum(s * math.log(s) for s in shares if s > 0.0), "labels/largest": max(shares)}
        if self.checks < _BASELINE_CHECKS:
            self.checks += 1
            self.examples += examples
            self.reference = [old + share for old, share in zip(self.reference, shares, strict=True)]
            return found
        before, now = self._binned([old / self.checks for old in self.reference]), self._binned(shares)
        pairs = [(b + _EPS, n + _EPS) for b, n in zip(before, now, strict=True)]
        found["labels/shift"] = sum((n - b) * math.log(n / b) for b, n in pairs)
        found["labels/shift_limit"] = _chi_squared_99(len(pairs) - 1) * (1.0 / examples + 1.0 / self.examples)
        return found

    def state_dict(self) -> dict[str, Any]:
        """Return the reference."""
        return {"checks": self.checks, "examples": self.examples, "reference": list(self.reference)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the reference over."""
        self.checks, self.examples = state["checks"], state["examples"]
        self.reference = list(state["reference"])

    def _binned(self, shares: list[float]) -> list[float]:
        """Return shares of the reference's most frequent labels, and of all others together."""
        order = sorted(range(self.vocab_size), key=lambda label: -self.reference[label])
        common = [label for label in order[: _BINS - 1] if self.reference[label] > 0.0]
        kept = [shares[label] for label in common]
        return [*kept, max(1.0 - sum(kept), 0.0)]


def _chi_squared_99(degrees: int) -> float:
    """Return the 99 % quantile of chi-squared (Wilson and Hilferty 1931; within 1 % from 3 degrees on)."""
    degrees = max(degrees, 1)
    part = 2.0 / (9.0 * degrees)
    return degrees * (1.0 - part + _Z_99 * math.sqrt(part)) ** 3
