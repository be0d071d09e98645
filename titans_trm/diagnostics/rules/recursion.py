"""Supervision steps and latent states: does thinking longer help, and do the states stay alive?"""

import math

from titans_trm.diagnostics import remedies
from titans_trm.diagnostics.alert import Remedy
from titans_trm.diagnostics.rule import Finding, Rule
from titans_trm.diagnostics.series import median, push
from titans_trm.diagnostics.signals import Signals


class CarryLost(Rule):
    """Slots begin a further supervision step with the states of a new example: nothing is carried over."""

    id = "carry_lost"
    title = "the carry is lost"
    severity = "error"
    needed, window = 2, 3
    warm_up = False
    watches = ("latent/reset",)
    explains = frozenset({"no_step_gain", "fixed_point_stall", "step_regress", "act_miscalibrated", "loss_plateau"})

    @classmethod
    def default_limits(cls) -> dict[str, float]:
        """share: of the slots beyond their first step."""
        return {"share": 0.5}

    def look(self, signals: Signals) -> Finding | None:
        """Compare with the initial states, to the bit."""
        share = signals.values["latent/reset"]
        if share <= self.limits["share"]:
            return None
        return Finding(
            f"{share:.0%} of the slots that should go on begin their step with the initial y and z: supervision steps "
            "do not build on each other.",
            {"latent/reset": share, "latent/reset.limit": self.limits["share"]},
        )

    def remedies(self, finding: Finding) -> tuple[Remedy, ...]:
        """A mistake in the code."""
        return (
            remedies.advise("pass the carry that a supervision step returns to the next one, until the slot halts."),
        )


class NoStepGain(Rule):
    """Another supervision step does not change the loss of unsolved examples: the recursion carries nothing over."""

    id = "no_step_gain"
    title = "further steps bring nothing"
    needed, window, clear = 5, 6, 2
    watches = ("solve/gain", "solve/first", "solve/exact")
    memory = {"gains": [], "start": None}
    gains: list[float]
    start: float | None

    @classmethod
    def default_limits(cls) -> dict[str, float]:
        """gain: relative fall of the loss by a step; checks: of its mean; learned: of the first; solved: enough."""
        return {"gain": 2e-3, "checks": 8, "learned": 0.7, "solved": 0.8}

    def look(self, signals: Signals) -> Finding | None:
        """Look once something has been learned, so that steps could tell."""
        first = signals.values["solve/first"]
        self.start = first if self.start is None else self.start
        self.gains = push(self.gains, signals.values["solve/gain"], int(self.limits["checks"]))
        gain = sum(self.gains) / len(self.gains)
        ready = len(self.gains) == self.limits["checks"] and first < self.limits["learned"] * self.start
        small = max(abs(gain), median([abs(one) for one in self.gains])) < self.limits["gain"]
        if not (ready and small) or signals.values["solve/exact"] > self.limits["solved"]:
            return None
        return Finding(
            f"a further supervision step lowers the loss of unsolved examples by {gain:.2%}: the state may not be "
            "carried from step to step.",
            {"solve/gain": gain, "solve/gain.limit": self.limits["gain"]},
        )

    def remedies(self, finding: Finding) -> tuple[Remedy, ...]:
        """A mistake, or steps that are not needed."""
        return (
            remedies.advise("check that y and z of the carry reach the next step; else lower max_supervision_steps."),
        )


class StepRegress(Rule):
    """Another supervision step makes unsolved examples worse."""

    id = "step_regress"
    title = "further steps do harm"
    severity = "info"
    needed, window = 5, 6
    watches = ("solve/gain",)
    memory = {"gains": []}
    gains: list[float]

    @classmethod
    def default_limits(cls) -> dict[str, float]:
        """harm: relative rise of the loss by one step; checks: it is averaged over."""
        return {"harm": 0.05, "checks": 8}

    def look(self, signals: Signals) -> Finding | None:
        """Average over some checks: a single one is noise."""
        self.gains = push(self.gains, signals.values["solve/gain"], int(self.limits["checks"]))
        gain = sum(self.gains) / len(self.gains)
        if len(self.gains) < self.limits["checks"] or gain > -self.limits["harm"]:
            return None
        return Finding(
            f"a further supervision step raises the loss of unsolved examples by {-gain:.1%}.",
            {"solve/gain": gain, "solve/gain.limit": -self.limits["harm"]},
        )

    def remedies(self, finding: Finding) -> tuple[Remedy, ...]:
        """Fewer steps."""
        return (remedies.advise("lower model.halting.max_supervision_steps, or look at accuracy by step."),)


class LatentDrift(Rule):
    """The states grow."""

    id = "latent_drift"
    title = "latent states grow"
    needed, window, warm_up = 4, 5, False
    watches = ("latent/z_rms", "latent/y_rms")
    explains = frozenset({"grad_explode", "loss_spike", "loss_divergence"})
    memory = {"first": []}
    first: list[float]

    @classmethod
    def default_limits(cls) -> dict[str, float]:
        """ratio: times the size at the first checks; baseline: how many those are."""
        return {"ratio": 4.0, "baseline": 3}

    def look(self, signals: Signals) -> Finding | None:
        """Compare with the first checks."""
        size = max(signals.values["latent/z_rms"], signals.values["latent/y_rms"])
        if len(self.first) < self.limits["baseline"]:
            self.first = [*self.first, size]
            return None
        limit = self.limits["ratio"] * median(self.first)
        if not size > limit:
            return None
        return Finding(
            f"the latent states have a size of {size:.3g}, {size / median(self.first):.1f} times that of the start.",
            {"latent/z_rms": signals.values["latent/z_rms"], "latent/z_rms.limit": limit},
        )

    def remedies(self, finding: Finding) -> tuple[Remedy, ...]:
        """Bound them."""
        return (remedies.advise("use model.backbone.norm=post, which keeps states at unit size, or a lower rate."),)


class LatentCollapse(Rule):
    """All examples have the same answer state."""

    id = "latent_collapse"
    title = "latent states collapse"
    severity = "error"
    needed, window = 4, 5
    watches = ("latent/spread",)
    explains = frozenset({"act_collapse", "loss_plateau", "fixed_point_stall", "no_step_gain", "act_miscalibrated"})

    @classmethod
    def default_limits(cls) -> dict[str, float]:
        """spread: standard deviation over examples by size; batch: least slots."""
        return {"spread": 1e-3, "batch": 8}

    def look(self, signals: Signals) -> Finding | None:
        """Look at the spread of the pooled answer states over the slots."""
        spread = signals.values["latent/spread"]
        if self.facts.batch_size < self.limits["batch"] or not spread < self.limits["spread"]:
            return None
        return Finding(
            f"the answer states of different examples are nearly equal (spread {spread:.1g} of their size).",
            {"latent/spread": spread, "latent/spread.limit": self.limits["spread"]},
        )

    def remedies(self, finding: Finding) -> tuple[Remedy, ...]:
        """Usually a rate or a dead part."""
        return remedies.ROLL_BACK, remedies.LOWER_RATE


class FixedPointStall(Rule):
    """The latent state stops moving between supervision steps while little is solved."""

    id = "fixed_point_stall"
    title = "recursion stands still"
    severity = "info"
    needed, window = 5, 6
    watches = ("latent/change", "solve/exact")

    @classmethod
    def default_limits(cls) -> dict[str, float]:
        """change: relative; solved: p above which standing still is right."""
        return {"change": 1e-4, "solved": 0.5}

    def look(self, signals: Signals) -> Finding | None:
        """Compare the state with that of the step before (absent while no slot is beyond its first step)."""
        change = signals.values["latent/change"]
        if not 0.0 <= change < self.limits["change"] or signals.values["solve/exact"] > self.limits["solved"]:
            return None
        return Finding(
            f"a supervision step moves the latent state by {change:.1g} of its size: more steps cannot help.",
            {"latent/change": change, "latent/change.limit": self.limits["change"]},
        )

    def remedies(self, finding: Finding) -> tuple[Remedy, ...]:
        """A matter of judgement."""
        return (remedies.advise("look at accuracy by step; a random initial state or fewer steps may do."),)


class DeadUnits(Rule):
    """Most units of a feed-forward layer are silent."""

    id = "dead_units"
    title = "dead feed-forward units"
    source = "SageMaker Debugger DeadRelu: half of the units active in less than 1 %"
    needed, window = 4, 5
    watches = ("mlp/",)

    @classmethod
    def default_limits(cls) -> dict[str, float]:
        """share: of the units of a layer."""
        return {"share": 0.6}

    def look(self, signals: Signals) -> Finding | None:
        """Name the layer with the most dead units."""
        dead = signals.scoped("mlp", "dead")
        worst = max(dead, key=dead.__getitem__, default=None)
        if worst is None or not dead[worst] > self.limits["share"] or math.isnan(dead[worst]):
            return None
        return Finding(
            f"{dead[worst]:.0%} of the feed-forward units of {worst} are silent.",
            {f"mlp/{worst}/dead": dead[worst], "limit": self.limits["share"]},
            scope=f"{worst}.mlp",
        )

    def remedies(self, finding: Finding) -> tuple[Remedy, ...]:
        """Smaller steps, from before."""
        return remedies.LOWER_RATE, remedies.ROLL_BACK
