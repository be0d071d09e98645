"""The data: leaks between splits, labels that do not fit, label distributions."""

import math

from titans_trm.diagnostics import remedies
from titans_trm.diagnostics.alert import Remedy
from titans_trm.diagnostics.rule import Finding, Rule
from titans_trm.diagnostics.signals import Signals


class SplitLeak(Rule):
    """Validation examples are also trained on."""

    id = "split_leak"
    title = "training and validation share examples"
    severity = "error"
    needed, window, warm_up = 1, 1, False
    watches = ("data/leak",)

    @classmethod
    def default_limits(cls) -> dict[str, float]:
        """share: of the validation set; below it, a note."""
        return {"share": 0.01}

    def look(self, signals: Signals) -> Finding | None:
        """Fire on any shared example; group keys know the symmetries of a task, so none is expected by chance."""
        share = signals.values["data/leak"]
        if share == 0.0:
            return None
        return Finding(
            f"{signals.values['data/leaked']:.0f} validation examples ({share:.1%}) are also in the training set, "
            "up to the symmetries of the task: validation scores are too high.",
            {"data/leak": share, "data/leak.limit": self.limits["share"]},
            severity=None if share > self.limits["share"] else "info",
        )

    def remedies(self, finding: Finding) -> tuple[Remedy, ...]:
        """Nothing measured on them is worth anything."""
        return remedies.STOP, remedies.advise("set data.leakage=remove, or split by group.")


class InvalidExamples(Rule):
    """Examples in training break the rules of the task: inputs and targets do not belong together."""

    id = "invalid_examples"
    title = "examples break the rules of the task"
    severity = "error"
    needed, window, warm_up = 2, 3, False
    watches = ("labels/invalid",)
    explains = frozenset(
        {"label_shift", "loss_plateau", "loss_spike", "loss_divergence", "val_regression", "overfit_gap",
         "grad_explode", "act_never_halt", "act_miscalibrated", "no_step_gain", "update_ratio_low", "class_imbalance"}
    )  # fmt: skip

    def look(self, signals: Signals) -> Finding | None:
        """Fire when the task's own check refuses one of a few examples in the slots."""
        if signals.values["labels/invalid"] == 0.0:
            return None
        said = "; ".join(signals.names.get("invalid", []))
        return Finding(
            f"examples under way break the rules of the task: {said} Targets may be shuffled or shifted.",
            {"labels/invalid": 1.0},
        )

    def remedies(self, finding: Finding) -> tuple[Remedy, ...]:
        """No training can mend data."""
        return remedies.STOP, remedies.advise("compare a batch with the file it came from: order, shift, augmentation.")


class LabelShift(Rule):
    """The distribution of labels has moved away from that of the first checks."""

    id = "label_shift"
    title = "label distribution shifts"
    source = "population stability index with its chi-squared limit; the usual fixed 0.1 is the floor"
    needed, window, warm_up = 3, 4, False
    watches = ("labels/shift",)
    explains = frozenset(
        {"loss_spike", "loss_divergence", "loss_plateau", "val_regression", "grad_explode", "act_miscalibrated",
         "act_never_halt"}
    )  # fmt: skip

    @classmethod
    def default_limits(cls) -> dict[str, float]:
        """least: stability index that matters; factor: times what chance exceeds once in a hundred checks."""
        return {"least": 0.1, "factor": 1.5}

    def look(self, signals: Signals) -> Finding | None:
        """Compare the index with what chance exceeds once in a hundred checks."""
        value = signals.values["labels/shift"]
        limit = max(self.limits["factor"] * signals.values["labels/shift_limit"], self.limits["least"])
        if value <= limit:
            return None
        return Finding(
            f"labels are distributed differently from the first ones of the run (stability index {value:.2g}).",
            {"labels/shift": value, "labels/shift.limit": limit},
        )

    def remedies(self, finding: Finding) -> tuple[Remedy, ...]:
        """Look at the source."""
        return (remedies.advise("look at what the loader serves now and served then: another file, order, mapping."),)


class ClassImbalance(Rule):
    """A few labels make up nearly everything: a note, since many tasks are so by nature."""

    id = "class_imbalance"
    title = "lopsided labels"
    source = "SageMaker Debugger ClassImbalance (ratio)"
    severity = "info"
    needed, window, warm_up = 1, 1, False
    watches = ("data/imbalance", "data/majority")

    @classmethod
    def default_limits(cls) -> dict[str, float]:
        """ratio: most frequent over rarest; entropy: share of the even distribution's; majority: share that warns."""
        return {"ratio": 10.0, "entropy": 0.6, "majority": 0.95}

    def look(self, signals: Signals) -> Finding | None:
        """Look at the training labels once, before the first step."""
        majority, ratio = signals.values["data/majority"], signals.values["data/imbalance"]
        even = math.log(max(self.facts.vocab_size - 1, 2))
        entropy = signals.values.get("data/label_entropy", even) / even
        if majority <= self.limits["majority"] and ratio <= self.limits["ratio"] and entropy >= self.limits["entropy"]:
            return None
        return Finding(
            f"the most frequent label is {majority:.0%} of all and {ratio:.3g} times as frequent as the rarest.",
            {"data/majority": majority, "data/imbalance": ratio, "data/imbalance.limit": self.limits["ratio"]},
            severity="warn" if majority > self.limits["majority"] else None,
        )

    def remedies(self, finding: Finding) -> tuple[Remedy, ...]:
        """Look at the rare ones."""
        return (
            remedies.advise("judge by exact accuracy, and look at rare labels apart; loss.focal_gamma=2 may help."),
        )


class DuplicateRows(Rule):
    """Many training inputs are equal."""

    id = "duplicate_rows"
    title = "duplicates in training"
    source = "Deepchecks, duplicates"
    severity = "info"
    needed, window, warm_up = 1, 1, False
    watches = ("data/duplicates",)

    @classmethod
    def default_limits(cls) -> dict[str, float]:
        """share: of training rows."""
        return {"share": 0.05}

    def look(self, signals: Signals) -> Finding | None:
        """Look once, before the first step."""
        share = signals.values["data/duplicates"]
        if share <= self.limits["share"]:
            return None
        return Finding(
            f"{share:.0%} of the training inputs repeat another one.",
            {"data/duplicates": share, "data/duplicates.limit": self.limits["share"]},
        )

    def remedies(self, finding: Finding) -> tuple[Remedy, ...]:
        """Say so."""
        return (remedies.advise("drop duplicates, or count them when you judge how much data there is."),)
