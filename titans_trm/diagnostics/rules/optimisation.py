"""Gradients, updates and the learning rate."""

import math

from titans_trm.diagnostics import remedies
from titans_trm.diagnostics.alert import Remedy
from titans_trm.diagnostics.parameters import group_of
from titans_trm.diagnostics.rule import Finding, Rule
from titans_trm.diagnostics.series import median, push, robust_z
from titans_trm.diagnostics.signals import Signals

LOSSES = frozenset({"loss_spike", "loss_divergence", "loss_plateau", "val_regression"})
HALTING = frozenset(
    {"act_collapse", "act_miscalibrated", "act_never_halt", "act_always_halt", "ponder_drift", "act_loss_dominates"}
)
MEMORY = frozenset(
    {"memory_blowup", "gate_dead", "gate_closed", "gate_flood", "inner_loss_divergence", "surprise_saturated",
     "forget_saturated"}
)  # fmt: skip
STATES = frozenset(
    {"carry_lost", "no_step_gain", "step_regress", "latent_drift", "latent_collapse", "fixed_point_stall"}
)


class _Parameters(Rule):
    """Parameters named by the collector at several checks in a row."""

    severity = "error"
    needed, window, clear, warm_up = 1, 1, 2, False  # the counts below are the evidence
    memory = {"counts": {}}
    counts: dict[str, int]
    key = ""  # of `Signals.names`

    @classmethod
    def default_limits(cls) -> dict[str, float]:
        """checks: in a row."""
        return {"checks": 3}

    def lasting(self, signals: Signals) -> list[str]:
        """Return the parameters that were named at enough checks in a row."""
        named = [name for name in signals.names.get(self.key, []) if self.counts_for(name)]
        self.counts = {name: self.counts.get(name, 0) + 1 for name in named}
        return [name for name, count in self.counts.items() if count >= self.limits["checks"]]

    def counts_for(self, name: str) -> bool:
        """Tell whether a parameter is expected to learn."""
        return True

    def finding(self, found: list[str], what: str) -> Finding:
        """Name the parts."""
        parts = sorted({group_of(name) for name in found})
        many = f"{len(found)} parameters" if len(found) > 1 else "one parameter"
        return Finding(
            f"{many} of {', '.join(parts)} {what} ({', '.join(found[:3])}{', ...' if len(found) > 3 else ''}).",
            {"parameters": found[:20], "count": float(len(found))},
            scope=",".join(parts),
        )


class NoGradient(_Parameters):
    """Parameters that should learn get no gradient: a detached tensor, an unused branch, a loss without effect."""

    id = "no_gradient"
    title = "parameters without gradient"
    source = "ours; compare TheDeepChecker, unchanged weights"
    key = "no_grad"
    watches = ("grad/",)
    explains = HALTING | MEMORY | STATES | frozenset({"grad_vanish", "no_update", "loss_plateau", "dead_units"})

    def look(self, signals: Signals) -> Finding | None:
        """Fire on gradients that are absent or exactly zero."""
        found = self.lasting(signals)
        return self.finding(found, "get no gradient: they do not learn") if found else None

    def counts_for(self, name: str) -> bool:
        """Leave out the halting head, and the register that only it reads in text, where its loss is switched off."""
        return self.facts.halting_weight != 0.0 or not name.startswith(("act_head", "register"))

    def remedies(self, finding: Finding) -> tuple[Remedy, ...]:
        """A mistake in code."""
        return (remedies.advise(f"look in the code of {finding.scope} for a detach, a no_grad or an unused output."),)


class NoUpdate(_Parameters):
    """Parameters have gradients but do not move: the optimiser does not own them."""

    id = "no_update"
    title = "parameters that do not move"
    source = "SageMaker Debugger UnchangedTensor, made exact"
    key = "no_update"
    watches = ("update/",)
    explains = HALTING | MEMORY | frozenset({"loss_plateau", "dead_units"})

    def look(self, signals: Signals) -> Finding | None:
        """Fire on weights that stay bit-equal over optimiser steps with a rate above 0."""
        if signals.values.get("lr", 1.0) == 0.0:
            return None
        found = self.lasting(signals)
        return self.finding(found, "have gradients but do not move: they are frozen") if found else None

    def remedies(self, finding: Finding) -> tuple[Remedy, ...]:
        """A mistake in code."""
        return (remedies.advise(f"check that the optimiser was given the parameters of {finding.scope}."),)


class RateTooHigh(Rule):
    """Updates are large beside the weights."""

    id = "update_ratio_high"
    title = "learning rate too high"
    source = "TheDeepChecker: log10 of the ratio above -1"
    severity = "error"
    needed, window, warm_up = 2, 3, False
    watches = ("update/median", "loss/cross_entropy")
    explains = (
        LOSSES | HALTING | MEMORY | STATES
        | frozenset({"grad_explode", "grad_vanish", "dead_units", "init_loss", "nonfinite", "no_gradient"})
    )  # fmt: skip
    memory = {"best": math.inf, "entropy": math.inf}
    best: float
    entropy: float

    @classmethod
    def default_limits(cls) -> dict[str, float]:
        """Name and explain the thresholds.

        ratio: update over weight; progress: of the loss, excuses it; certain: ratio that nothing excuses; guessing:
        ratio where nothing is learned, that is while the loss is above guess times the labels' entropy.
        """
        return {"ratio": 0.05, "progress": 0.9, "certain": 0.2, "guessing": 0.02, "guess": 0.95}

    def look(self, signals: Signals) -> Finding | None:
        """Fire on large ratios; on smaller ones only where the loss does not fall, or is that of guessing.

        Weights grow with the rate, so the ratio of a rate that is far too high is large for some steps only.
        """
        ratio, loss = signals.values["update/median"], signals.values["loss/cross_entropy"]
        self.entropy = signals.values.get("labels/entropy", self.entropy)
        progress = loss < self.limits["progress"] * self.best
        self.best = min(self.best, loss) if math.isfinite(loss) else self.best
        excused = {"certain": False, "ratio": progress, "guessing": not loss > self.limits["guess"] * self.entropy}
        crossed = next((name for name in excused if ratio > self.limits[name] and not excused[name]), None)
        if crossed is None:
            return None
        return Finding(
            f"one step changes the weights by {ratio:.1%} of their length (0.1 to 2 % is usual): the learning rate "
            f"{signals.values.get('lr', math.nan):.3g} is too high.",
            {"update/median": ratio, "update/median.limit": self.limits[crossed]},
        )

    def remedies(self, finding: Finding) -> tuple[Remedy, ...]:
        """Go slower, from before it began."""
        return remedies.MUCH_LOWER_RATE, remedies.ROLL_BACK


class RateTooLow(Rule):
    """At this rate the whole run would hardly move the weights, and the loss hardly falls."""

    id = "update_ratio_low"
    title = "learning rate too low"
    source = "ours; TheDeepChecker takes log10 of the ratio below -4"
    needed, window, clear = 4, 5, 3
    watches = ("update/total", "update/median", "loss/cross_entropy", "solve/exact")
    explains = frozenset({"loss_plateau", "act_never_halt", "act_miscalibrated", "fixed_point_stall"})
    memory = {"first": None}
    first: float | None

    @classmethod
    def default_limits(cls) -> dict[str, float]:
        """path: way of the weights in their lengths; solved: share, remaining: of the first loss, excuse."""
        return {"path": 0.3, "solved": 0.3, "remaining": 0.5}

    def look(self, signals: Signals) -> Finding | None:
        """Project the way of the weights to the end of the run."""
        loss = signals.values["loss/cross_entropy"]
        self.first = loss if self.first is None else self.first
        done, ratio = signals.values["update/total"], signals.values["update/median"]
        left = self.facts.max_steps - signals.step
        path = done + max(left, 0) * max(ratio, done / signals.step)
        little = signals.values["solve/exact"] < self.limits["solved"] and loss > self.limits["remaining"] * self.first
        if path >= self.limits["path"] or not little:
            return None
        return Finding(
            f"one step changes the weights by {ratio:.2g} of their length; the whole run would move them by "
            f"{path:.0%}, too little to learn from scratch: the learning rate "
            f"{signals.values.get('lr', math.nan):.3g} is too low.",
            {"update/median": ratio, "path": path, "path.limit": self.limits["path"]},
        )

    def remedies(self, finding: Finding) -> tuple[Remedy, ...]:
        """Go faster."""
        return (remedies.HIGHER_RATE,)


class GradientExplosion(Rule):
    """The gradient's norm before clipping jumps far above what it was."""

    id = "grad_explode"
    title = "gradients explode"
    source = "ours; AUTOTRAINER takes a ratio of 70 between layers"
    needed, window, warm_up = 2, 3, False
    watches = ("grad/norm_max",)
    explains = LOSSES | frozenset({"dead_units", "act_miscalibrated", "act_collapse", "memory_blowup"})
    memory = {"recent": []}
    recent: list[float]

    @classmethod
    def default_limits(cls) -> dict[str, float]:
        """ratio: times the median; z: robust deviations; least: norm; history, fewest: checks before; certain: norm."""
        return {"ratio": 10.0, "z": 8.0, "least": 1.0, "history": 30, "fewest": 4, "certain": 1000.0}

    def look(self, signals: Signals) -> Finding | None:
        """Compare with the checks before; those that are far out do not enter the history."""
        value, before = signals.values["grad/norm_max"], self.recent
        if not math.isfinite(value):
            return None
        usual = median(before) if before else value
        enough = len(before) >= self.limits["fewest"]
        out = enough and value > max(self.limits["ratio"] * usual, self.limits["least"])
        out = out and robust_z(value, before) > self.limits["z"]
        out = out or value > self.limits["certain"]
        if not out:
            self.recent = push(before, value, int(self.limits["history"]))
            return None
        return Finding(
            f"the gradient's norm is {value:.3g} and was {usual:.3g}.",
            {"grad/norm_max": value, "grad/norm_max.limit": self.limits["ratio"] * usual},
        )

    def remedies(self, finding: Finding) -> tuple[Remedy, ...]:
        """Clip, then go slower."""
        return remedies.TIGHTER_CLIP, remedies.LOWER_RATE, remedies.ROLL_BACK


class GradientVanishing(Rule):
    """The gradient of one part is tiny beside its weights, compared with the other parts."""

    id = "grad_vanish"
    title = "gradients vanish"
    source = "ours; AUTOTRAINER takes a ratio of 1e-3 between layers"
    needed, window = 4, 5
    warm_up = False
    watches = ("grad/", "weight/", "loss/cross_entropy")
    explains = frozenset({"loss_plateau", "act_collapse", "no_step_gain"})

    @classmethod
    def default_limits(cls) -> dict[str, float]:
        """share: of the median of all parts, or absolute; solved: loss (of the halting head its own) that excuses."""
        return {"share": 1e-4, "absolute": 1e-9, "solved": 0.02}

    def look(self, signals: Signals) -> Finding | None:
        """Compare |gradient| / |weight| of the parts; parts without any gradient are another rule's."""
        weights = signals.scoped("weight")
        parts = {
            name: grad / weights[name]
            for name, grad in signals.scoped("grad").items()
            if weights.get(name, 0.0) > 0.0 and grad > 0.0
        }
        if len(parts) < 3 or signals.values["loss/cross_entropy"] < self.limits["solved"]:
            return None
        usual = median(list(parts.values()))
        limit = max(self.limits["share"] * usual, self.limits["absolute"])
        small = sorted((name for name, ratio in parts.items() if ratio < limit), key=parts.__getitem__)
        if signals.values.get("halting/cross_entropy", math.inf) < self.limits["solved"]:
            # Before anything is solved "not right yet" is true of all: a head that knows it has nothing to learn.
            small = [name for name in small if name != "act_head"]
        if not small:
            return None
        return Finding(
            f"gradients of {', '.join(small)} are {parts[small[0]] / usual:.1g} of what other parts get.",
            {**{f"grad/{name}": parts[name] for name in small[:5]}, "limit": limit, "parts": small},
            scope=",".join(small),
        )

    def remedies(self, finding: Finding) -> tuple[Remedy, ...]:
        """A matter of the architecture, or of a mistake."""
        return (remedies.advise(f"look for what scales the gradient of {finding.scope} down: a gate, a saturation."),)
