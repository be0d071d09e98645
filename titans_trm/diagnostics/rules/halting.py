"""The ACT halting head. `p` is the share of slots that are exactly right now, the base rate of what the head predicts.

A head of a recursive model is uniform at the start by design (negative bias), and again when everything is solved, so
every rule here looks at p first.
"""

import math

from titans_trm.diagnostics import remedies
from titans_trm.diagnostics.alert import Remedy
from titans_trm.diagnostics.rule import Finding, Rule
from titans_trm.diagnostics.series import push
from titans_trm.diagnostics.signals import Signals

_PROBABILITY, _SOLVED = "halting/probability", "solve/exact"
_EFFECTS = frozenset({"act_miscalibrated", "act_never_halt", "act_always_halt", "ponder_drift", "act_loss_dominates"})


class _Halting(Rule):
    """Shared: where every example runs one step there is nothing to halt."""

    def can_look(self, signals: Signals) -> bool:
        """Look only at models with several supervision steps."""
        return self.facts.max_supervision_steps > 1 and super().can_look(signals)


class HaltingTarget(Rule):
    """The halting loss is not that of the logits against exact correctness: the head is taught something else."""

    id = "act_target"
    title = "halting head taught the wrong thing"
    severity = "error"
    needed, window, warm_up = 3, 3, False
    watches = ("loss/halting", "halting/cross_entropy")
    explains = _EFFECTS | frozenset({"act_collapse"})

    @classmethod
    def default_limits(cls) -> dict[str, float]:
        """share: relative difference of the two losses; least: nats."""
        return {"share": 0.05, "least": 0.01}

    def look(self, signals: Signals) -> Finding | None:
        """Compare the loss that trains the head with one computed from its logits and the answers."""
        trained, actual = signals.values["loss/halting"], signals.values["halting/cross_entropy"]
        gap = abs(trained - actual)
        limit = max(self.limits["share"] * actual, self.limits["least"])
        if not gap > limit:
            return None
        return Finding(
            f"the halting loss is {trained:.3g}, but predicting which answers are right costs {actual:.3g}: its target "
            "is not whether the answer is right.",
            {"loss/halting": trained, "halting/cross_entropy": actual, "halting/cross_entropy.limit": limit},
        )

    def remedies(self, finding: Finding) -> tuple[Remedy, ...]:
        """A mistake in code."""
        return (remedies.advise("give the halting loss `exactly_right` as its target; see losses/act.py."),)


class HaltingCollapse(_Halting):
    """Every example gets the same halting logit although some answers are right and some are not."""

    id = "act_collapse"
    title = "halting head collapsed"
    needed, window = 4, 5
    watches = ("halting/logit_std", _SOLVED)
    explains = _EFFECTS | frozenset({"grad_vanish"})
    memory = {"recent": [], "peak": 0.0}
    recent: list[float]
    peak: float

    @classmethod
    def default_limits(cls) -> dict[str, float]:
        """std: of logits; drop: as a share of its peak; low, high: band of p; growth: in 5 checks."""
        return {"std": 0.05, "drop": 0.05, "low": 0.1, "high": 0.9, "growth": 1.3}

    def look(self, signals: Signals) -> Finding | None:
        """Fire on a spread that is absolutely small, or a small part of what it was, and not growing."""
        std, p = signals.values["halting/logit_std"], signals.values[_SOLVED]
        self.recent = push(self.recent, std, 6)
        self.peak = max(self.peak, std)
        small = std < max(self.limits["std"], self.limits["drop"] * self.peak)
        growing = len(self.recent) == 6 and std > self.limits["growth"] * self.recent[0]
        if not small or growing or not self.limits["low"] < p < self.limits["high"]:
            return None
        return Finding(
            f"every example gets the same halting logit (standard deviation {std:.2g}) while {p:.0%} of the answers "
            "are right: the head cannot tell when to stop.",
            {
                "halting/logit_std": std,
                "halting/logit_std.limit": max(self.limits["std"], self.limits["drop"] * self.peak),
                "halting/logit_mean": signals.values.get("halting/logit_mean", math.nan),
                "halting/correlation": signals.values.get("halting/correlation", math.nan),
                _SOLVED: p,
            },
        )

    def remedies(self, finding: Finding) -> tuple[Remedy, ...]:
        """Break the tie, then pull the logits apart."""
        return remedies.MORE_DIVERSITY, remedies.PERTURB_HALTING_HEAD, remedies.MORE_HALTING_LOSS


class _Moving(_Halting):
    """Shared guard: a head on its way to the right level is left alone."""

    memory = {"means": []}
    means: list[float]

    @classmethod
    def default_limits(cls) -> dict[str, float]:
        """moving: logits per 5 checks towards p."""
        return {"moving": 0.3}

    def on_its_way(self, signals: Signals) -> bool:
        """Tell whether the mean logit moves towards that of p."""
        now = signals.values["halting/logit_mean"]
        self.means = push(self.means, now, 6)
        p = min(max(signals.values[_SOLVED], 1e-3), 1.0 - 1e-3)
        towards = math.copysign(1.0, math.log(p / (1.0 - p)) - now)
        return len(self.means) < 6 or (now - self.means[0]) * towards > self.limits["moving"]


class NeverHalts(_Moving):
    """The head says "not yet" to answers that are right: thinking time is wasted."""

    id = "act_never_halt"
    title = "never halts"
    needed, window = 4, 5
    watches = (_PROBABILITY, "halting/logit_mean", _SOLVED)
    explains = frozenset({"act_miscalibrated", "ponder_drift"})

    @classmethod
    def default_limits(cls) -> dict[str, float]:
        """share: mean of the head by p; solved: least p; moving: logits in 5 checks."""
        return {**super().default_limits(), "share": 0.1, "solved": 0.1}

    def look(self, signals: Signals) -> Finding | None:
        """Fire where the head's mean probability is a small part of p, and stays there."""
        q, p, moving = signals.values[_PROBABILITY], signals.values[_SOLVED], self.on_its_way(signals)
        if moving or p < self.limits["solved"] or q >= self.limits["share"] * p:
            return None
        return Finding(
            f"{p:.0%} of the answers are right, but the head would stop {q:.1%} of them: nothing ever halts early.",
            {_PROBABILITY: q, f"{_PROBABILITY}.limit": self.limits["share"] * p, _SOLVED: p},
        )

    def remedies(self, finding: Finding) -> tuple[Remedy, ...]:
        """Let the head learn faster."""
        return remedies.MORE_HALTING_LOSS, remedies.MORE_EXPLORATION


class AlwaysHalts(_Moving):
    """The head stops everything at once, right or wrong: no example is thought about for long."""

    id = "act_always_halt"
    title = "always halts"
    needed, window = 3, 4
    watches = (_PROBABILITY, "halting/logit_mean", _SOLVED)
    explains = frozenset({"act_miscalibrated", "ponder_drift", "no_step_gain"})

    @classmethod
    def default_limits(cls) -> dict[str, float]:
        """probability: mean of the head; solved: p above which it is right to stop; moving: logits in 5 checks."""
        return {**super().default_limits(), "probability": 0.97, "solved": 0.9}

    def look(self, signals: Signals) -> Finding | None:
        """Fire where nearly everything halts although answers are wrong."""
        q, p, moving = signals.values[_PROBABILITY], signals.values[_SOLVED], self.on_its_way(signals)
        if moving or p > self.limits["solved"] or q < self.limits["probability"]:
            return None
        return Finding(
            f"the head stops {q:.0%} of the examples at once, though only {p:.0%} of the answers are right.",
            {_PROBABILITY: q, f"{_PROBABILITY}.limit": self.limits["probability"], _SOLVED: p},
        )

    def remedies(self, finding: Finding) -> tuple[Remedy, ...]:
        """Keep deep steps trained, let the head learn faster."""
        return remedies.MORE_EXPLORATION, remedies.MORE_HALTING_LOSS


class Miscalibrated(_Moving):
    """The head's mean probability is far from the share of right answers, and not moving there."""

    id = "act_miscalibrated"
    title = "halting head miscalibrated"
    needed, window = 4, 5
    watches = (_PROBABILITY, "halting/logit_mean", _SOLVED)

    @classmethod
    def default_limits(cls) -> dict[str, float]:
        """gap: of probabilities; moving: logits in 5 checks."""
        return {**super().default_limits(), "gap": 0.35}

    def look(self, signals: Signals) -> Finding | None:
        """Compare the means."""
        q, p, moving = signals.values[_PROBABILITY], signals.values[_SOLVED], self.on_its_way(signals)
        if moving or abs(q - p) <= self.limits["gap"]:
            return None
        return Finding(
            f"the head believes {q:.0%} of the answers right, {p:.0%} are.",
            {_PROBABILITY: q, _SOLVED: p, "gap.limit": self.limits["gap"]},
        )

    def remedies(self, finding: Finding) -> tuple[Remedy, ...]:
        """Let the head learn faster."""
        return (remedies.MORE_HALTING_LOSS,)


class PonderDrift(Rule):
    """Thinking time moves much between validations while nothing gets better by it."""

    id = "ponder_drift"
    title = "thinking time drifts"
    severity = "info"
    needed, window, clear = 2, 3, 2
    watches = ("val/mean_supervision_steps_adaptive", "val/exact_accuracy")
    memory = {"steps": [], "best": 0.0}
    steps: list[float]
    best: float

    @classmethod
    def default_limits(cls) -> dict[str, float]:
        """move: relative, against the validation before the last; gain: accuracy that excuses it."""
        return {"move": 0.25, "gain": 0.01}

    def look(self, signals: Signals) -> Finding | None:
        """Fire when more time is spent for no more accuracy."""
        now, exact = (signals.values[name] for name in self.watches)
        self.steps = push(self.steps, now, 3)
        gain, self.best = exact - self.best, max(self.best, exact)
        was = self.steps[0]
        if len(self.steps) < 3 or now <= (1.0 + self.limits["move"]) * was or gain > self.limits["gain"]:
            return None
        return Finding(
            f"validation examples take {now:.2g} steps, {was:.2g} two validations ago, and are no more often right.",
            {"val/mean_supervision_steps_adaptive": now, "before": was},
        )

    def remedies(self, finding: Finding) -> tuple[Remedy, ...]:
        """A matter of judgement."""
        return (remedies.advise("look at calibration by step in the halting report; the head may be over-cautious."),)


class HaltingLossDominates(Rule):
    """Most of the total loss is the halting loss: the total may rise while the answers get better."""

    id = "act_loss_dominates"
    title = "halting loss dominates the total"
    severity = "info"
    needed, window = 4, 5
    watches = ("loss/total", "loss/halting")

    @classmethod
    def default_limits(cls) -> dict[str, float]:
        """share: of the total."""
        return {"share": 0.6}

    def look(self, signals: Signals) -> Finding | None:
        """A note, so that nobody is misled by the total."""
        total = signals.values["loss/total"]
        share = self.facts.halting_weight * signals.values["loss/halting"] / total if total > 0.0 else 0.0
        if not share > self.limits["share"]:
            return None
        return Finding(
            f"{share:.0%} of the total loss is the halting loss: watch cross_entropy, the total may rise while "
            "accuracy rises.",
            {"share": share, "share.limit": self.limits["share"]},
        )
