"""Configuration of a multirun (`train.py -m`): where it lies, what it is judged by, how it searches. No torch.

`sweep.kind` selects the schema: the keys of a search are errors in a grid.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

METRICS = (
    "exact_accuracy",
    "token_accuracy",
    "cross_entropy",
    "exact_accuracy_adaptive",
    "valid_optimal",  # of tasks with several right answers
    "bits_per_byte",  # of text
)
LOWER_IS_BETTER = ("cross_entropy", "bits_per_byte")  # of the others more is better
ALLOWED = tuple(f"val/{name}" for name in METRICS)


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """What all multiruns share. Jobs are numbered from 0; job 3 has the run folder `<folder>/3`."""

    __pydantic_config__ = {"extra": "forbid"}

    kind: str  # grid: every combination of the values given; optuna: a search
    folder: str = "runs/multirun/custom"  # of the sweep; naming one that exists goes on with it
    metric: str | None = None  # val/<name>, by which jobs are compared; null: the task's headline
    jobs: int = 1  # jobs at once, a process each; CPU threads and GPUs are divided among them
    job: int | None = None  # number of this run in its sweep; set by the sweeper

    def __post_init__(self) -> None:
        if self.metric is not None and self.metric not in ALLOWED:
            why = "is not a metric of the validation split" if not self.metric.startswith("val/") else "is unknown"
            raise ValueError(f"sweep.metric={self.metric} {why}; choose one of {', '.join(ALLOWED)}.")
        if self.jobs < 1:
            raise ValueError(f"sweep.jobs={self.jobs} is too small; choose 1 or more.")
        if not self.folder.strip():
            raise ValueError("sweep.folder='' names no folder; choose one such as runs/multirun/widths.")

    @classmethod
    def variants(cls) -> tuple[str, Mapping[str, type["SweepConfig"]]]:
        """Return the key that selects the schema, and the schema of each of its values, for `titans_trm.schema`."""
        return "kind", {"grid": GridConfig, "optuna": OptunaConfig}


@dataclass(frozen=True, kw_only=True)
class GridConfig(SweepConfig):
    """Every combination of the values given on the command line."""

    kind: str = "grid"


@dataclass(frozen=True, kw_only=True)
class OptunaConfig(SweepConfig):
    """A search by Optuna; its trials are kept in `<folder>/optuna.journal`."""

    kind: str = "optuna"
    trials: int = 20  # of the whole study, earlier parts included
    sampler: Literal["tpe", "random"] = "tpe"  # how the next values are chosen: from what went well, or blindly
    sampler_seed: int = 0  # of the sampler
    startup_trials: int = 5  # trials chosen at random first, and before which nothing is pruned
    pruner: Literal["median", "off"] = "median"  # median: end a trial that is below the median of the others
    pruner_warmup_steps: int = 0  # optimiser steps of a trial before it may be pruned
    space: dict[str, str] = field(default_factory=dict)  # key -> values in the command line's words, such as 64,96

    def __post_init__(self) -> None:
        super().__post_init__()
        for key, low in (("trials", 1), ("sampler_seed", 0), ("startup_trials", 1), ("pruner_warmup_steps", 0)):
            if getattr(self, key) < low:
                raise ValueError(f"sweep.{key}={getattr(self, key)} is too small; choose {low} or more.")


def lower_is_better(metric: str) -> bool:
    """Tell whether a smaller `metric`, with or without `val/`, is the better one."""
    return metric.removeprefix("val/") in LOWER_IS_BETTER
