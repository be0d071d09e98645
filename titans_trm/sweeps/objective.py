"""The number a sweep is judged by: always of the validation split, and one that the task has."""

from collections.abc import Mapping
from typing import Any

from titans_trm.data.registry import make_task
from titans_trm.data.spec import TaskSpec
from titans_trm.errors import InputError
from titans_trm.training.config import RunConfig
from titans_trm.training.sweep_config import METRICS


def objective_name(config: RunConfig) -> str:
    """Return the metric (`val/...`) that jobs of this configuration are compared by.

    Raises:
        InputError: the task has no such metric.
    """
    return check_objective(config.sweep.metric, make_task(config.data).spec)


def check_objective(metric: str | None, spec: TaskSpec) -> str:
    """Return `metric`, or the task's headline for None.

    Raises:
        InputError: the task has no such metric.
    """
    if metric is None:
        return f"val/{spec.headline}"
    absent = {"valid_optimal"} if spec.valid is None else set()
    absent |= {"bits_per_byte"} if spec.headline != "bits_per_byte" else set()
    if metric.removeprefix("val/") in absent:
        allowed = ", ".join(f"val/{name}" for name in METRICS if name not in absent)
        raise InputError(f"sweep.metric={metric} is not a metric of {spec.name}; choose one of {allowed}.")
    return metric


def objective(metric: str, val: Mapping[str, Any]) -> float | None:
    """Return the value of `metric` among a run's validation results, or None where it was not validated."""
    value = val.get(metric.removeprefix("val/"))
    return None if value is None else float(value)
