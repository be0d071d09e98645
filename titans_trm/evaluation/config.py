"""Configuration of the success criteria that an evaluation is held against. No torch."""

from dataclasses import dataclass, field

_STRICT = {"extra": "forbid"}


@dataclass(frozen=True, kw_only=True)
class Bound:
    """Where a metric must lie."""

    __pydantic_config__ = _STRICT

    at_least: float | None = None
    at_most: float | None = None

    def __post_init__(self) -> None:
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError("a target has either at_least or at_most; give one of them.")


@dataclass(frozen=True, kw_only=True)
class CriteriaConfig:
    """When a run counts as a success; null = not checked."""

    __pydantic_config__ = _STRICT

    name: str = "auto"  # auto: the file of the run's experiment in conf/criteria, else the default one
    targets: dict[str, Bound] = field(default_factory=dict)  # metric -> at_least or at_most
    gap: float | None = 0.05  # most that the train probe may be better than validation, in units of the metric
    gap_metric: str = "headline"  # metric of the gap; headline: the one by which the task's weights are chosen
    latency_p95_ms: float | None = None  # milliseconds to solve one example, halting adaptively, 95th percentile
    parameters: int | None = None  # most parameters
    weights_mb: float | None = None  # most megabytes (10^6 bytes) of weights

    def __post_init__(self) -> None:
        for key in ("gap", "latency_p95_ms", "parameters", "weights_mb"):
            value = getattr(self, key)
            if value is not None and not value > 0:
                raise ValueError(f"{key}={value} must be greater than 0, or null for none.")
