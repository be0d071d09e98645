"""The machine: waiting for data, memory that runs out, steps that slow down."""

from titans_trm.diagnostics import remedies
from titans_trm.diagnostics.alert import Remedy
from titans_trm.diagnostics.rule import Finding, Rule
from titans_trm.diagnostics.series import median, push
from titans_trm.diagnostics.signals import Signals


class DataBound(Rule):
    """Training waits for its data."""

    id = "data_bound"
    title = "waits for data"
    needed, window, warm_up = 3, 4, False
    of_process = True
    watches = ("time/wait", "time/step")
    explains = frozenset({"throughput_drop"})

    @classmethod
    def default_limits(cls) -> dict[str, float]:
        """warn, error: share of the time; shortest: seconds of a step that matter; skip: first steps."""
        return {"warn": 0.2, "error": 0.5, "shortest": 0.005, "skip": 20}

    def look(self, signals: Signals) -> Finding | None:
        """Leave out the first steps, which open files and fill caches."""
        share = signals.values["time/wait"]
        if signals.step <= self.limits["skip"] or share <= self.limits["warn"]:
            return None
        if signals.values["time/step"] < self.limits["shortest"]:
            return None
        return Finding(
            f"{share:.0%} of the time goes into waiting for examples.",
            {"time/wait": share, "time/wait.limit": self.limits["warn"]},
            severity="error" if share > self.limits["error"] else None,
        )

    def remedies(self, finding: Finding) -> tuple[Remedy, ...]:
        """Make data faster."""
        return (remedies.advise("keep the data set in memory or on a local disk, and look at its augmentation."),)


class MemoryNearBudget(Rule):
    """The device's memory is nearly used up."""

    id = "memory_near_budget"
    title = "memory nearly used up"
    source = "debugging guides: 90 % of the memory"
    needed, window, warm_up = 3, 3, False
    of_process = True
    watches = ("system/memory",)

    @classmethod
    def default_limits(cls) -> dict[str, float]:
        """share: of the budget."""
        return {"share": 0.92}

    def look(self, signals: Signals) -> Finding | None:
        """Look at what the allocator has reserved at most."""
        share = signals.values["system/memory"]
        if share <= self.limits["share"]:
            return None
        return Finding(
            f"{share:.0%} of the device's memory is reserved.",
            {"system/memory": share, "system/memory.limit": self.limits["share"]},
        )

    def remedies(self, finding: Finding) -> tuple[Remedy, ...]:
        """Trade time for memory."""
        return (remedies.advise("set model.recursion.checkpointing=true, or halve batch_size and double accumulate."),)


class ThroughputDrop(Rule):
    """Steps take much longer than they did."""

    id = "throughput_drop"
    title = "steps slow down"
    severity = "info"
    needed, window, clear = 8, 10, 5
    of_process = True
    watches = ("time/step",)
    memory = {"recent": [], "base": None}
    recent: list[float]
    base: float | None

    @classmethod
    def default_limits(cls) -> dict[str, float]:
        """ratio: times the first checks' median; checks: of a median."""
        return {"ratio": 1.5, "checks": 10}

    def look(self, signals: Signals) -> Finding | None:
        """Compare medians: single slow steps (a checkpoint, another program) do not count."""
        size = int(self.limits["checks"])
        self.recent = push(self.recent, signals.values["time/step"], size)
        if len(self.recent) < size:
            return None
        now = median(self.recent)
        self.base = now if self.base is None else min(self.base, now)
        if now <= self.limits["ratio"] * self.base:
            return None
        return Finding(
            f"a step takes {now:.3g} s and took {self.base:.3g} s.",
            {"time/step": now, "time/step.limit": self.limits["ratio"] * self.base},
        )

    def remedies(self, finding: Finding) -> tuple[Remedy, ...]:
        """Look around."""
        return (remedies.advise("look for other programs on the machine, a hot card, or growing work per step."),)
