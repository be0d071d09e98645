"""Numbers that break, and losses that go the wrong way or nowhere. The loss watched is always the cross-entropy."""

import math

from titans_trm.diagnostics import remedies
from titans_trm.diagnostics.alert import Remedy
from titans_trm.diagnostics.rule import ALL, Finding, Rule
from titans_trm.diagnostics.series import median, push, robust_z
from titans_trm.diagnostics.signals import Signals


class NonFinite(Rule):
    """A loss, gradient or weight is NaN or infinite. With a gradient scaler (fp16) skipped steps are normal."""

    id = "nonfinite"
    title = "numbers that are not finite"
    source = "SageMaker Debugger ExplodingTensor"
    severity = "fatal"
    needed, window, clear, warm_up = 1, 1, 3, False
    watches = ("loss/nonfinite",)
    explains = ALL

    def look(self, signals: Signals) -> Finding | None:
        """Fire on any such step; under a scaler only when every step was skipped."""
        steps = signals.values["loss/nonfinite"]
        broken = signals.names.get("not_finite", [])
        normal = self.facts.scaled_gradients and math.isfinite(signals.values["loss/total"])
        if not broken and (steps == 0 or normal):
            return None
        where = f", and {len(broken)} parameters hold it by now, such as {broken[0]}" if broken else ""
        return Finding(
            f"the loss or the gradient was NaN or infinite in {steps:.0f} of the last steps{where}.",
            {"loss/nonfinite": steps, "parameters": broken[:10]},
        )

    def remedies(self, finding: Finding) -> tuple[Remedy, ...]:
        """Go back, then mistrust data and rate."""
        look = remedies.advise("look at the batch of that step: an input or target that is not finite, or log(0).")
        return remedies.ROLL_BACK, remedies.SKIP_BATCHES, remedies.LOWER_RATE, look


class LossSpike(Rule):
    """One or a few steps with a cross-entropy far above those before."""

    id = "loss_spike"
    title = "loss spikes"
    source = "ours; Lightning SpikeDetection asks for 3 times the mean and then stops the run"
    needed, window = 1, 2
    watches = ("loss/cross_entropy_max",)
    memory = {"recent": []}
    recent: list[float]

    @classmethod
    def default_limits(cls) -> dict[str, float]:
        """z: robust deviations; ratio: times the median; least: nats above it; history, fewest: checks before."""
        return {"z": 8.0, "ratio": 2.0, "least": 0.2, "history": 20, "fewest": 5}

    def look(self, signals: Signals) -> Finding | None:
        """Compare the largest step of the interval with the largest ones of intervals before."""
        value = signals.values["loss/cross_entropy_max"]
        before = self.recent
        if math.isfinite(value):
            self.recent = push(self.recent, value, int(self.limits["history"]))
        if len(before) < self.limits["fewest"] or not math.isfinite(value):
            return None
        usual, z = median(before), robust_z(value, before)
        limit = max(self.limits["ratio"] * usual, usual + self.limits["least"])
        if value <= limit or z <= self.limits["z"]:
            return None
        return Finding(
            f"cross-entropy jumped to {value:.3g}, {value / max(usual, 1e-9):.1f} times what it was ({usual:.3g}).",
            {"loss/cross_entropy_max": value, "loss/cross_entropy_max.limit": limit, "robust_z": z},
        )

    def remedies(self, finding: Finding) -> tuple[Remedy, ...]:
        """Skip what may be bad data, then take smaller steps."""
        return remedies.SKIP_BATCHES, remedies.LOWER_RATE, remedies.TIGHTER_CLIP


class LossDivergence(Rule):
    """Cross-entropy has left its best level and stays above it."""

    id = "loss_divergence"
    title = "loss diverges"
    severity = "error"
    needed, window = 4, 5
    watches = ("loss/cross_entropy",)
    explains = frozenset({"loss_spike", "val_regression"})
    memory = {"recent": [], "best": math.inf}
    recent: list[float]
    best: float

    @classmethod
    def default_limits(cls) -> dict[str, float]:
        """ratio: times the best median; least: nats above it; median: checks it is taken over."""
        return {"ratio": 1.3, "least": 0.1, "median": 3}

    def look(self, signals: Signals) -> Finding | None:
        """Compare the median of the last checks with the lowest such median so far."""
        size = int(self.limits["median"])
        self.recent = push(self.recent, signals.values["loss/cross_entropy"], size)
        now = median(self.recent)
        if len(self.recent) < size or not math.isfinite(now):
            return None
        self.best = min(self.best, now)
        limit = max(self.limits["ratio"] * self.best, self.best + self.limits["least"])
        if now <= limit:
            return None
        return Finding(
            f"cross-entropy is {now:.3g} and was {self.best:.3g} at its best: the model unlearns.",
            {"loss/cross_entropy": now, "loss/cross_entropy.limit": limit, "best": self.best},
        )

    def remedies(self, finding: Finding) -> tuple[Remedy, ...]:
        """Go back and go slower."""
        return remedies.ROLL_BACK, remedies.LOWER_RATE, remedies.TIGHTER_CLIP


class LossPlateau(Rule):
    """Cross-entropy has not moved for long although little is solved: a note, since recursive models do pause.

    Where it stands at what guessing costs, it is an alarm.
    """

    id = "loss_plateau"
    title = "loss stands still"
    severity = "info"
    source = "ours, with Welch (1947); compare SageMaker Debugger LossNotDecreasing (0.1 % in 10 steps)"
    needed, window, clear = 5, 6, 2
    watches = ("loss/cross_entropy", "solve/exact")
    memory = {"recent": [], "entropy": None}
    recent: list[float]
    entropy: float | None

    @classmethod
    def default_limits(cls) -> dict[str, float]:
        """Name and explain the thresholds.

        improvement: least relative fall; t: Welch's; half: share of the run, fewest and most checks; solved: enough;
        label_share: of the labels' entropy.
        """
        return {
            "improvement": 0.01,
            "half": 0.15,
            "solved": 0.5,
            "t": 3.0,
            "fewest": 6,
            "most": 100,
            "label_share": 0.9,
        }

    def look(self, signals: Signals) -> Finding | None:
        """Compare two halves of a window that is a share of the planned run, by size and by Welch's t."""
        self.entropy = signals.values.get("labels/entropy", self.entropy)
        half = int(min(max(self.limits["half"] * self.facts.checks, self.limits["fewest"]), self.limits["most"]))
        self.recent = push(self.recent, signals.values["loss/cross_entropy"], 2 * half)
        if len(self.recent) < 2 * half or not math.isfinite(sum(self.recent)):
            return None
        if self.facts.decay_from is not None and signals.step > self.facts.decay_end:
            return None
        before, now = self.recent[:half], self.recent[half:]
        was, is_ = sum(before) / half, sum(now) / half
        if was - is_ > self.limits["improvement"] * was or _welch_t(before, now) > self.limits["t"]:
            return None
        if signals.values["solve/exact"] > self.limits["solved"]:
            return None
        told = f"cross-entropy stands at {is_:.3g} for {2 * half} checks, {signals.values['solve/exact']:.0%} solved"
        evidence: dict[str, float | str | list[str]] = {"loss/cross_entropy": is_, "before": was}
        guessing = self.entropy is not None and is_ > self.limits["label_share"] * self.entropy
        if self.entropy is not None and guessing:
            evidence["labels/entropy"] = self.entropy
            told += ": as high as if the inputs told nothing of the labels; inputs and labels may not belong together"
        return Finding(f"{told}.", evidence, severity="warn" if guessing else None)

    def remedies(self, finding: Finding) -> tuple[Remedy, ...]:
        """What to look at first."""
        if "labels/entropy" in finding.evidence:
            return (
                remedies.advise("check that each input stands beside its own target (shuffled or shifted labels)."),
            )
        return (remedies.advise("try another rate, or more supervision steps; recursive models do pause for long."),)


class InitialLoss(Rule):
    """Cross-entropy at the first check is not what an ignorant model gives."""

    id = "init_loss"
    title = "odd loss at the start"
    source = "TheDeepChecker, initial loss"
    severity = "info"
    needed, window, clear, warm_up = 1, 1, 3, False
    watches = ("loss/cross_entropy_max",)
    memory = {"seen": False}
    seen: bool

    @classmethod
    def default_limits(cls) -> dict[str, float]:
        """high: times ln V."""
        return {"high": 2.0}

    def look(self, signals: Signals) -> Finding | None:
        """Look once; a loss far above ln V means outputs that are sure and wrong."""
        if self.seen:
            return None
        self.seen = True
        value, ignorant = signals.values["loss/cross_entropy_max"], math.log(self.facts.vocab_size)
        if not value > self.limits["high"] * ignorant:
            return None
        return Finding(
            f"cross-entropy starts at {value:.3g}; a model that knows nothing has {ignorant:.3g} (ln V).",
            {"loss/cross_entropy_max": value, "loss/cross_entropy_max.limit": self.limits["high"] * ignorant},
        )

    def remedies(self, finding: Finding) -> tuple[Remedy, ...]:
        """What to look at."""
        return (remedies.advise("check the initialisation and the scale of the output head."),)


def _welch_t(before: list[float], now: list[float]) -> float:
    """Return Welch's t of the fall from `before` to `now`."""
    means = [sum(part) / len(part) for part in (before, now)]
    variances = [
        sum((v - m) ** 2 for v in part) / (len(part) - 1) for part, m in zip((before, now), means, strict=True)
    ]
    error = math.sqrt(variances[0] / len(before) + variances[1] / len(now))
    return (means[0] - means[1]) / max(error, 1e-12)
