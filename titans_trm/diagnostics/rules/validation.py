"""What validations say, with intervals: a gap or a drop counts only beyond chance."""

import math

from titans_trm.diagnostics import remedies
from titans_trm.diagnostics.alert import Remedy
from titans_trm.diagnostics.rule import Finding, Rule
from titans_trm.diagnostics.series import agresti_caffo_low, push
from titans_trm.diagnostics.signals import Signals

_EXACT, _LOSS, _COUNT = "val/exact_accuracy", "val/cross_entropy", "val/num_examples"


class OverfitGap(Rule):
    """Training answers are right more often than validation answers: a note; a warning once validation gets worse.

    Recursive models on small puzzle sets have a large gap by nature, so its level alone never warns.
    """

    id = "overfit_gap"
    title = "overfitting"
    source = "the 5-point criterion of debugging guides, held against an interval (Agresti and Caffo 2000)"
    severity = "info"
    needed, window, clear = 1, 1, 2
    watches = (_EXACT, _LOSS, _COUNT)
    explains = frozenset({"val_regression"})
    memory = {"train": [], "losses": [], "finished": []}
    train: list[float]
    losses: list[float]
    finished: list[float]

    @classmethod
    def default_limits(cls) -> dict[str, float]:
        """gap: 5 points, for the lower bound of the difference; rise: of the validation loss, in so many evals."""
        return {"gap": 0.05, "rise": 1.1, "evals": 2}

    def can_look(self, signals: Signals) -> bool:
        """Remember training between validations."""
        if "solve/last" in signals.values and signals.values.get("halting/finished", 0.0) > 0.0:
            self.train = push(self.train, signals.values["solve/last"], 5)
            self.finished = push(self.finished, signals.values["halting/finished"], 5)
        return super().can_look(signals)

    def look(self, signals: Signals) -> Finding | None:
        """Compare the examples that finished lately with the validation examples."""
        loss, exact, count = signals.values[_LOSS], signals.values[_EXACT], signals.values[_COUNT]
        self.losses = push(self.losses, loss, 1000)
        if not self.train or not math.isfinite(loss):
            return None
        n = sum(self.finished)
        train = sum(t * f for t, f in zip(self.train, self.finished, strict=True)) / n
        low = agresti_caffo_low(train, n, exact, count)
        if low <= self.limits["gap"]:
            return None
        evals = int(self.limits["evals"])
        best = min(self.losses)
        worse = len(self.losses) > evals and all(one > self.limits["rise"] * best for one in self.losses[-evals:])
        told = f"training answers are right {train:.0%} of the time, validation answers {exact:.0%}"
        bound = f"(the difference is at least {100 * low:.0f} points, with 95 % confidence)"
        more = f"; validation loss is {loss:.3g} and was {best:.3g}: the model learns by heart" if worse else ""
        return Finding(
            f"{told} {bound}{more}.",
            {_EXACT: exact, "train": train, "gap.low": low, "gap.limit": self.limits["gap"], _LOSS: loss, "best": best},
            severity="warn" if worse else None,
        )

    def remedies(self, finding: Finding) -> tuple[Remedy, ...]:
        """Stop, or regularise."""
        more = remedies.advise("more data or augmentation (data.augment), weight decay, or a smaller model.")
        return (remedies.STOP_EARLY, more) if finding.severity == "warn" else (more,)


class ValidationRegression(Rule):
    """Exact accuracy on validation has fallen beyond chance from its best."""

    id = "val_regression"
    title = "validation gets worse"
    needed, window, clear = 2, 2, 2
    watches = (_EXACT, _COUNT)
    memory = {"best": 0.0}
    best: float

    @classmethod
    def default_limits(cls) -> dict[str, float]:
        """drop: least, in accuracy; errors: standard errors."""
        return {"drop": 0.05, "errors": 3.0}

    def look(self, signals: Signals) -> Finding | None:
        """Fire at the second validation in a row that is far below the best."""
        exact, count = signals.values[_EXACT], signals.values[_COUNT]
        self.best = max(self.best, exact)
        error = math.sqrt((self.best * (1.0 - self.best) + exact * (1.0 - exact)) / count)
        limit = self.best - max(self.limits["drop"], self.limits["errors"] * error)
        if exact >= limit:
            return None
        return Finding(
            f"validation exact accuracy is {exact:.1%} and was {self.best:.1%}.",
            {_EXACT: exact, f"{_EXACT}.limit": limit, "best": self.best},
        )

    def remedies(self, finding: Finding) -> tuple[Remedy, ...]:
        """The best checkpoint is kept anyway."""
        return remedies.ROLL_BACK, remedies.LOWER_RATE, remedies.STOP_EARLY
