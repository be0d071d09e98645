"""Intervals of measured proportions and means."""

from collections.abc import Sequence
from math import sqrt
from statistics import NormalDist

from numpy import mean, ndarray
from scipy.stats import bootstrap

_RESAMPLES = 2000  # Monte Carlo error of a 95 % end is then about a thirtieth of the interval


def wilson_interval(successes: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the Wilson score interval of a proportion (Wilson 1927, J. Am. Stat. Assoc. 22:209).

    Unlike the normal approximation it stays inside [0, 1] and has a width at 0 of n and at n of n, where a good or a
    hopeless model is. `successes` may be a fraction times `n`.

    Raises:
        ValueError: `n` is below 1, `successes` lies outside 0..n, or `confidence` outside (0, 1).
    """
    if n < 1:
        raise ValueError(f"n={n} gives no interval; an estimate needs 1 example or more.")
    if not 0.0 <= successes <= n:
        raise ValueError(f"successes={successes} lies outside 0 to n={n}; give a count of the n examples.")
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence={confidence} is outside (0, 1); choose e.g. 0.95.")
    z = NormalDist().inv_cdf(0.5 + 0.5 * confidence)
    share = successes / n
    centre = share + z * z / (2 * n)
    spread = z * sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # Rounding must not move the ends past the extremes, which they touch exactly in theory.
    low = 0.0 if successes == 0 else (centre - spread) / scale
    high = 1.0 if successes == n else (centre + spread) / scale
    return low, high


def mean_interval(values: Sequence[float], confidence: float = 0.95, *, seed: int = 0) -> tuple[float, float]:
    """Return the percentile bootstrap interval of a mean (Efron 1979), reproducible by `seed`."""
    if len(values) < 1:
        raise ValueError("an interval needs 1 value or more.")
    if min(values) == max(values):
        return values[0], values[0]  # nothing to resample; scipy would warn
    found = bootstrap(
        (values,), mean, confidence_level=confidence, n_resamples=_RESAMPLES, method="percentile", rng=seed
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def ratio_interval(
    sums: Sequence[float], counts: Sequence[int], confidence: float = 0.95, *, seed: int = 0
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of sum(sums) / sum(counts) over examples, reproducible by `seed`.

    For means per token, such as bits per byte, of examples that differ in length: whole examples are drawn, because
    the tokens of one are not independent.
    """
    if sum(counts) < 1:
        raise ValueError("an interval needs 1 scored token or more.")
    if len(sums) < 2:
        return sums[0] / counts[0], sums[0] / counts[0]

    def ratio(top: ndarray, bottom: ndarray, axis: int) -> ndarray:
        return top.sum(axis=axis) / bottom.sum(axis=axis)

    found = bootstrap(
        (sums, counts),
        ratio,
        paired=True,
        vectorized=True,
        confidence_level=confidence,
        n_resamples=_RESAMPLES,
        method="percentile",
        rng=seed,
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)
