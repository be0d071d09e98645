"""The Titans memory and its gate: is it written, is it read, does it stay in bounds?"""

import math
from typing import ClassVar

from titans_trm.diagnostics import remedies
from titans_trm.diagnostics.alert import Remedy, Severity
from titans_trm.diagnostics.rule import Finding, Rule
from titans_trm.diagnostics.series import median, push
from titans_trm.diagnostics.signals import Signals

_OWN = frozenset({"inner_loss_divergence", "surprise_saturated", "forget_saturated", "gate_dead", "gate_closed"})


class MemoryBlowup(Rule):
    """What is written to the memory, or the memory itself, has grown out of proportion."""

    id = "memory_blowup"
    title = "memory blows up"
    severity = "error"
    needed, window, warm_up = 2, 3, False
    watches = ("memory/",)
    explains = _OWN | frozenset(
        {"grad_explode", "loss_spike", "loss_divergence", "val_regression", "latent_drift", "dead_units", "grad_vanish"}
    )
    memory = {"recent": {}}
    recent: dict[str, list[float]]

    @classmethod
    def default_limits(cls) -> dict[str, float]:
        """ratio: times the median of the checks before; history, fewest: how many those are; certain: any time."""
        return {"ratio": 8.0, "history": 5, "fewest": 4, "certain": 1e4}

    def look(self, signals: Signals) -> Finding | None:
        """Compare weights and writes of each block with those of the checks before."""
        worst: tuple[float, str, float, float] | None = None
        for what in ("norm", "write"):
            for block, value in signals.scoped("memory", what).items():
                name = f"memory/{block}/{what}"
                before = self.recent.get(name, [])
                usual = median(before) if before else value
                ratio = value / usual if usual > 0.0 else 1.0
                broken = not math.isfinite(value) or value > self.limits["certain"]
                if broken or (len(before) >= self.limits["fewest"] and ratio > self.limits["ratio"]):
                    if worst is None or not ratio <= worst[0]:
                        worst = (ratio, name, value, usual)
                else:
                    self.recent = {**self.recent, name: push(before, value, int(self.limits["history"]))}
        if worst is None:
            return None
        ratio, name, value, usual = worst
        # Out of bounds from the first check on, there is no usual size to go back to.
        limit = self.limits["ratio"] * usual if self.recent.get(name) else self.limits["certain"]
        block, what = name.split("/")[1:]
        told = "the memory's weights" if what == "norm" else "what one pass writes to the memory"
        return Finding(
            f"{told} of {block} has a norm of {value:.3g} times the initial memory's and had {usual:.3g}.",
            {name: value, f"{name}.limit": limit},
            scope=f"{block}.memory",
        )

    def remedies(self, finding: Finding) -> tuple[Remedy, ...]:
        """Smaller inner steps."""
        return *remedies.calm_memory(*_crossed(finding)), remedies.ROLL_BACK


class _Gate(Rule):
    """One value of every gate, compared with a limit."""

    needed, window, warm_up = 3, 4, False
    watches = ("gate/",)

    def worst(self, signals: Signals, last: str, *, largest: bool) -> tuple[str, float] | None:
        """Return block and value of the gate that is furthest out."""
        values = signals.scoped("gate", last)
        if not values:
            return None
        block = (max if largest else min)(values, key=values.__getitem__)
        return block, values[block]


class GateDead(_Gate):
    """The gate does not depend on the memory (product) or lets attention only pass (convex): the memory is not used."""

    id = "gate_dead"
    title = "memory is not used"
    explains = frozenset({"grad_vanish", "inner_loss_divergence", "surprise_saturated", "forget_saturated"})

    @classmethod
    def default_limits(cls) -> dict[str, float]:
        """std: of a product gate's values; open: share of a convex gate's values above .99."""
        return {"std": 5e-3, "open": 0.9}

    def look(self, signals: Signals) -> Finding | None:
        """Look at the variation of a product gate, at the openness of a convex one."""
        if self.facts.gate == "convex":
            found = self.worst(signals, "open", largest=True)
            if found is None or not found[1] > self.limits["open"]:
                return None
            name, limit = f"gate/{found[0]}/open", self.limits["open"]
            told = f"the gate of {found[0]} passes attention only ({found[1]:.0%} of its values are above 0.99)"
        else:
            found = self.worst(signals, "std", largest=False)
            closed = signals.scoped("gate", "closed")
            if found is None or not found[1] < self.limits["std"] or closed.get(found[0], 0.0) > 0.5:
                return None
            name, limit = f"gate/{found[0]}/std", self.limits["std"]
            told = f"the gate of {found[0]} has the same value everywhere (standard deviation {found[1]:.1g})"
        return Finding(
            f"{told}: what the memory reads makes no difference.",
            {name: found[1], f"{name}.limit": limit},
            scope=f"{found[0]}.gate",
        )

    def remedies(self, finding: Finding) -> tuple[Remedy, ...]:
        """A matter of the architecture."""
        return (remedies.advise("check the gate's gain or bias; compare with model.backbone.gate=attention_only."),)


class GateClosed(_Gate):
    """A product gate is shut: neither attention nor memory passes, the block mixes nothing."""

    id = "gate_closed"
    title = "gate is shut"
    severity = "error"
    explains = frozenset({"grad_vanish", "gate_dead", "loss_plateau", "dead_units", "no_step_gain", "loss_spike"})

    @classmethod
    def default_limits(cls) -> dict[str, float]:
        """closed: share of values below .01."""
        return {"closed": 0.9}

    def look(self, signals: Signals) -> Finding | None:
        """Look at the share of shut entries."""
        found = self.worst(signals, "closed", largest=True)
        if self.facts.gate == "convex" or found is None or not found[1] > self.limits["closed"]:
            return None
        name = f"gate/{found[0]}/closed"
        return Finding(
            f"{found[1]:.0%} of the gate of {found[0]} is shut: neither attention nor memory passes.",
            {name: found[1], f"{name}.limit": self.limits["closed"]},
            scope=f"{found[0]}.gate",
        )

    def remedies(self, finding: Finding) -> tuple[Remedy, ...]:
        """Go back; a shut gate has next to no gradient."""
        return remedies.ROLL_BACK, remedies.LOWER_RATE


class GateFlood(_Gate):
    """A convex gate lets the memory only pass: attention is not used."""

    id = "gate_flood"
    title = "memory floods the gate"
    explains = frozenset({"grad_vanish"})

    @classmethod
    def default_limits(cls) -> dict[str, float]:
        """closed: share of values below .01."""
        return {"closed": 0.9}

    def look(self, signals: Signals) -> Finding | None:
        """Look at the share of entries that shut attention out."""
        found = self.worst(signals, "closed", largest=True)
        if self.facts.gate != "convex" or found is None or not found[1] > self.limits["closed"]:
            return None
        name = f"gate/{found[0]}/closed"
        return Finding(
            f"the gate of {found[0]} passes the memory only: attention makes no difference.",
            {name: found[1], f"{name}.limit": self.limits["closed"]},
            scope=f"{found[0]}.gate",
        )

    def remedies(self, finding: Finding) -> tuple[Remedy, ...]:
        """A matter of the architecture."""
        return (remedies.advise("check the gate's bias; compare with model.backbone.gate=memory_only."),)


class _Saturated(Rule):
    """A learned inner rate stands at the end of its range."""

    severity: ClassVar[Severity] = "info"
    needed, window = 4, 5
    watches = ("memory/",)

    def finding(self, signals: Signals, last: str, low: float, high: float, told: str) -> Finding | None:
        """Name the first block whose mean lies outside (low, high)."""
        for block, value in signals.scoped("memory", last).items():
            if not low <= value <= high:
                end = low if value < low else high
                name = f"memory/{block}/{last}"
                return Finding(
                    f"{told} of {block} stands at {value:.3g} of its range.",
                    {name: value, f"{name}.limit": end},
                    scope=f"{block}.memory",
                )
        return None


class SurpriseSaturated(_Saturated):
    """The inner step size theta, or the momentum eta, is at the end of its range."""

    id = "surprise_saturated"
    title = "surprise gates saturated"

    @classmethod
    def default_limits(cls) -> dict[str, float]:
        """low, high: mean of the gate as a share of its range."""
        return {"low": 0.01, "high": 0.99}

    def look(self, signals: Signals) -> Finding | None:
        """Look at theta, then at eta."""
        low, high = self.limits["low"], self.limits["high"]
        theta = self.finding(signals, "theta", low, high, "the inner step size (theta) of the memory")
        return theta or self.finding(signals, "eta", low, high, "the momentum (eta) of the memory")

    def remedies(self, finding: Finding) -> tuple[Remedy, ...]:
        """Give it room."""
        return (
            remedies.advise("change model.memory.max_step_size: up where theta is at its top, down at its bottom."),
        )


class ForgetSaturated(_Saturated):
    """The memory forgets all it has at every token. (It starts near keeping everything, so the low end is no fault.)"""

    id = "forget_saturated"
    title = "memory forgets everything"
    severity = "warn"

    @classmethod
    def default_limits(cls) -> dict[str, float]:
        """high: mean of alpha."""
        return {"high": 0.95}

    def look(self, signals: Signals) -> Finding | None:
        """Look at alpha."""
        return self.finding(signals, "alpha", -1.0, self.limits["high"], "the forget gate (alpha) of the memory")

    def remedies(self, finding: Finding) -> tuple[Remedy, ...]:
        """A matter of the architecture."""
        return (remedies.advise("compare with model.memory.forgetting=false."),)


class InnerLossDivergence(Rule):
    """The memory predicts its own values worse and worse while the model gets better without it."""

    id = "inner_loss_divergence"
    title = "memory's inner loss grows"
    severity = "info"
    needed, window = 5, 6
    watches = ("memory/", "loss/cross_entropy")
    memory = {"recent": {}, "best": {}, "losses": []}
    recent: dict[str, list[float]]
    best: dict[str, float]
    losses: list[float]

    @classmethod
    def default_limits(cls) -> dict[str, float]:
        """ratio: times the best median of 5 checks."""
        return {"ratio": 20.0, "median": 5}

    def look(self, signals: Signals) -> Finding | None:
        """Compare medians; values are scaled by the projections too, so only a large ratio tells something."""
        size = int(self.limits["median"])
        self.losses = push(self.losses, signals.values["loss/cross_entropy"], 2 * size)
        falling = self.losses[-1] <= self.losses[0]
        for block, value in signals.scoped("memory", "inner_loss").items():
            kept = push(self.recent.get(block, []), value, size)
            self.recent = {**self.recent, block: kept}
            if len(kept) < size:
                continue
            now = median(kept)
            self.best = {**self.best, block: min(now, self.best.get(block, math.inf))}
            limit = self.limits["ratio"] * self.best[block]
            if falling and now > limit:
                name = f"memory/{block}/inner_loss"
                return Finding(
                    f"the inner loss of the memory of {block} is {now:.3g} and was {self.best[block]:.3g}.",
                    {name: now, f"{name}.limit": limit},
                    scope=f"{block}.memory",
                )
        return None

    def remedies(self, finding: Finding) -> tuple[Remedy, ...]:
        """Smaller inner steps."""
        return remedies.calm_memory(*_crossed(finding))


def _crossed(finding: Finding) -> tuple[str, float]:
    """Return the signal of a finding and the limit that it crossed."""
    limits = {name: value for name, value in finding.evidence.items() if name.endswith(".limit")}
    name, limit = next(iter(limits.items()))
    assert isinstance(limit, float)
    return name.removesuffix(".limit"), limit
