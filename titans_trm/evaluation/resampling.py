"""Intervals by canonical group: examples that are the same up to symmetry are drawn together or not at all.

Every metric is a function of sums over examples. Each resample is a vector of counts, so that all metrics of all
resamples come from one matrix product; `scipy.stats.bootstrap` draws, and makes the intervals.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import DegenerateDataWarning, bootstrap

from titans_trm.evaluation.results import Estimate
from titans_trm.evaluation.statistics import clustered_wilson_interval

Floats = NDArray[np.float64]
Statistic = Callable[[Floats], Floats]  # sums (..., K) -> metrics (..., M); NaN where a metric is not defined

UNDEFINED = Estimate(value=None, ci_low=None, ci_high=None, method="none")

_RESAMPLES = 2000  # Monte Carlo error of a 95 % end is then about a thirtieth of the interval
_MOST_UNITS = (
    2000  # drawn at random; more groups are first put together at random, at no loss but of degrees of freedom
)
_BATCH_CELLS = 4_000_000  # counts (resamples x units) held at once: 32 MB


class Intervals:
    """Estimates with intervals on one set of n examples, all from the same resamples.

    Args:
        keys: canonical group key of each example.
        confidence: level of the intervals.
        seed: of the resamples.
    """

    def __init__(self, keys: Sequence[str], *, confidence: float = 0.95, seed: int = 0) -> None:
        if len(keys) < 1:
            raise ValueError("an interval needs 1 example or more.")
        _, self.group = np.unique(np.asarray(keys, dtype=np.str_), return_inverse=True)  # (n,) number of the group
        self.num_groups = int(self.group.max()) + 1
        self.confidence = confidence
        self._seed = seed
        self.num_units = min(self.num_groups, _MOST_UNITS)
        unit_of_group = np.random.default_rng(seed).permutation(self.num_groups) % self.num_units
        self.unit = unit_of_group[self.group]  # (n,) what is drawn: the group, or a random collection of groups

    def __len__(self) -> int:
        return len(self.group)

    def proportion(self, hits: NDArray[np.bool_], rows: NDArray[np.integer] | None = None) -> Estimate:
        """Return the share of `hits` with its Wilson interval by group.

        Args:
            hits: one entry for each example, or for each of `rows`.
            rows: example that each entry is of.
        """
        if len(hits) == 0:
            return UNDEFINED
        _, group = np.unique(self.group if rows is None else self.group[rows], return_inverse=True)
        low, high = clustered_wilson_interval(
            np.bincount(group, hits).astype(float), np.bincount(group), self.confidence
        )
        return Estimate(value=float(hits.mean()), ci_low=low, ci_high=high, method="wilson")

    def means(self, *columns: NDArray[Any], of: NDArray[np.bool_] | None = None) -> list[Estimate]:
        """Return the mean of each column (n,) over the examples `of` (all)."""
        chosen = np.ones(len(self)) if of is None else of.astype(float)
        values = np.stack([*(column * chosen for column in columns), chosen], axis=1)
        return self.estimates(self.sums(values), lambda sums: sums[..., :-1] / sums[..., -1:])

    def sums(self, columns: Floats, rows: NDArray[np.integer] | None = None) -> Floats:
        """Return `columns` (n, K), or one row for each of `rows`, summed by unit (U, K)."""
        sums = np.zeros((self.num_units, columns.shape[1]))
        np.add.at(sums, self.unit if rows is None else self.unit[rows], columns)
        return sums

    def histogram(self, cells: NDArray[np.integer], rows: NDArray[np.integer], count: int) -> Floats:
        """Return how often each of the cells 0 .. count - 1 occurs (U, count), given the example of each entry."""
        flat = np.bincount(self.unit[rows] * count + cells, minlength=self.num_units * count)
        return flat.reshape(self.num_units, count).astype(float)

    def estimates(self, sums: Floats, statistic: Statistic) -> list[Estimate]:
        """Return `statistic` of `sums` (U, K) as M estimates with BCa intervals (Efron 1987).

        A single unit says nothing of the spread between groups: its estimates are values without an interval.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            values = statistic(sums.sum(axis=0))
            low, high = self._interval(sums, statistic)
        return [_estimate(float(value), float(a), float(b)) for value, a, b in zip(values, low, high, strict=True)]

    def _interval(self, sums: Floats, statistic: Statistic) -> tuple[Floats, Floats]:
        """Return the ends (M,); those of a metric without spread are its value."""
        if self.num_units == 1:
            unknown = np.full(statistic(sums[0]).shape, np.nan)
            return unknown, unknown

        def resampled(indices: NDArray[np.int64], axis: int) -> Floats:
            return np.moveaxis(statistic(_counts(indices, self.num_units) @ sums), -1, 0)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DegenerateDataWarning)  # BCa without spread: NaN, replaced below
            warnings.filterwarnings("ignore", "All-NaN slice")  # a metric that is not defined on these examples
            found = bootstrap(
                (np.arange(self.num_units),),
                resampled,
                vectorized=True,
                n_resamples=_RESAMPLES,
                batch=max(1, _BATCH_CELLS // self.num_units),
                confidence_level=self.confidence,
                method="BCa",
                rng=self._seed,
            )
            tail = 50 * (1 - self.confidence)
            low, high = np.nanpercentile(found.bootstrap_distribution, [tail, 100 - tail], axis=-1)
        bca = found.confidence_interval
        known = np.isfinite(bca.low) & np.isfinite(bca.high)
        return np.where(known, bca.low, low), np.where(known, bca.high, high)


def _estimate(value: float, low: float, high: float) -> Estimate:
    """Return a value with the interval it has; what is not finite is not defined."""
    if not np.isfinite(value):
        return UNDEFINED
    if not np.isfinite([low, high]).all():
        return Estimate(value=value, ci_low=None, ci_high=None, method="none")
    return Estimate(value=value, ci_low=low, ci_high=high, method="bootstrap")


def _counts(indices: NDArray[np.int64], units: int) -> Floats:
    """Return how often each unit occurs (..., units) in the last axis of `indices`."""
    flat = indices.reshape(-1, indices.shape[-1])
    offsets = units * np.arange(len(flat))[:, None]
    counts = np.bincount((flat + offsets).ravel(), minlength=len(flat) * units)
    return counts.reshape(*indices.shape[:-1], units).astype(float)
