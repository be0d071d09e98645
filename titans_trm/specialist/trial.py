"""A remedy on trial: what was seen before it, what is seen after it, and the verdict."""

import math
from collections import deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from titans_trm.specialist.protocol import Remedy

HARM_METRIC = "loss/cross_entropy"  # never the total loss: the halting terms may rise while accuracy rises
_OF_PROCESS = ("time/", "system/")  # metrics that no two runs share
_WINDOW = 20  # observations that a baseline is taken from
_RUNAWAY = 3.0  # times the cross-entropy before, for an early end
_RUNAWAY_COUNT = 3  # observations in a row


class Recorder:
    """The latest observations of every metric."""

    def __init__(self) -> None:
        self._seen: dict[str, deque[float]] = {}

    def add(self, values: Mapping[str, float]) -> None:
        """Take one observation of each metric."""
        for name, value in values.items():
            self._seen.setdefault(name, deque(maxlen=_WINDOW)).append(float(value))

    def level(self, name: str, last: int = _WINDOW // 2) -> float:
        """Return the median of the last observations; NaN without any, or where the newest is not finite."""
        values = list(self._seen.get(name, ()))[-last:]
        finite = [value for value in values if math.isfinite(value)]
        return median(finite) if finite and math.isfinite(values[-1]) else math.nan

    def forget(self) -> None:
        """Start anew: what was seen before a change says nothing about after it."""
        self._seen = {}

    def state_dict(self) -> dict[str, list[float]]:
        """Return plain values, without those of this process and its clock, which begin anew when a run is resumed."""
        return {name: list(values) for name, values in self._seen.items() if not name.startswith(_OF_PROCESS)}

    def load_state_dict(self, state: Mapping[str, Iterable[float]]) -> None:
        """Continue."""
        self._seen = {name: deque(values, maxlen=_WINDOW) for name, values in state.items()}


@dataclass(frozen=True)
class Judgement:
    """The end of a trial."""

    keep: bool
    reason: str
    before: dict[str, float]
    after: dict[str, float]


@dataclass
class Trial:
    """A remedy that is being watched; plain values only, so that a checkpoint can hold it."""

    rule: str
    remedy: dict[str, Any]
    started: int  # optimiser step
    before: dict[str, float]  # levels of the watched metrics
    old: dict[str, Any]  # what the levers were set to, for the way back
    number: int = 0  # of the consultation
    runaway: int = field(default=0)

    @classmethod
    def start(
        cls, rule: str, remedy: Remedy, step: int, recorder: Recorder, old: Mapping[str, Any], number: int
    ) -> "Trial":
        """Begin a trial with the levels seen so far."""
        assert remedy.expected_effect is not None
        names = (HARM_METRIC, remedy.expected_effect.metric)
        before = {name: recorder.level(name) for name in names}
        recorder.forget()
        return cls(rule, remedy.to_dict(), step, before, dict(old), number)

    def judge(
        self, step: int, recorder: Recorder, active: Collection[str], max_harm: float, fresh: float
    ) -> Judgement | None:
        """Return the verdict, or None while it is too early.

        Args:
            step: optimiser step.
            recorder: what was seen since the trial began.
            active: rules whose alarm stands now.
            max_harm: share by which cross-entropy may end higher.
            fresh: the newest cross-entropy.
        """
        effect = self.remedy["expected_effect"]
        after = {name: recorder.level(name) for name in self.before}
        before_loss, after_loss = self.before[HARM_METRIC], after[HARM_METRIC]
        if math.isfinite(before_loss):
            bad = not math.isfinite(fresh) or fresh > _RUNAWAY * before_loss
            self.runaway = self.runaway + 1 if bad else 0
            if self.runaway >= _RUNAWAY_COUNT:
                return self._end(False, f"{HARM_METRIC} ran away", after)
        if step - self.started < effect["within_steps"]:
            return None
        if not math.isfinite(after_loss):
            return self._end(False, f"{HARM_METRIC} is not finite", after)
        if math.isfinite(before_loss) and after_loss > before_loss * (1.0 + max_harm):
            return self._end(False, f"{HARM_METRIC} rose from {before_loss:.4g} to {after_loss:.4g}", after)
        metric, sign = effect["metric"], 1.0 if effect["direction"] == "up" else -1.0
        before, now, reach = self.before[metric], after[metric], effect.get("reach")
        words = f"{metric} went from {before:.4g} to {now:.4g}"
        if reach is not None:
            seen = sign * (now - reach) > 0.0
        else:
            moved = sign * (now - before) if math.isfinite(before) else math.inf
            seen = math.isfinite(now) and moved > 0.0 and moved >= effect.get("min_delta", 0.0)
        if not seen:
            goal = f"{effect['direction']} by {effect.get('min_delta', 0.0):g}" if reach is None else f"past {reach:g}"
            return self._end(False, f"{words}, not {goal}", after)
        if self.rule in active:
            return self._end(False, f"{words}, but {self.rule} still stands", after)
        return self._end(True, words, after)

    def state_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)

    def _end(self, keep: bool, reason: str, after: dict[str, float]) -> Judgement:
        return Judgement(keep, reason, dict(self.before), after)
