"""What rules remember: a short list of recent values, and robust statistics of it."""

from collections.abc import Sequence

_MAD_TO_STD = 1.4826  # median absolute deviation of a normal distribution, in standard deviations
_LEAST_SPREAD = 0.02  # of the median: a series that hardly moves must not turn noise into outliers


def push(series: list[float], value: float, keep: int) -> list[float]:
    """Return the series with `value` at its end, at most `keep` long."""
    return [*series, value][-keep:]


def median(values: Sequence[float]) -> float:
    """Return the median; ValueError of nothing."""
    if not values:
        raise ValueError("nothing has no median; check for values first.")
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else 0.5 * (ordered[middle - 1] + ordered[middle])


def robust_z(value: float, series: Sequence[float]) -> float:
    """Return how many robust standard deviations `value` lies above the median of `series`."""
    centre = median(series)
    spread = _MAD_TO_STD * median([abs(one - centre) for one in series])
    return (value - centre) / max(spread, _LEAST_SPREAD * abs(centre), 1e-12)


def agresti_caffo_low(first: float, n: float, second: float, m: float, z: float = 1.96) -> float:
    """Return the lower 95 % bound of the difference of two proportions (Agresti and Caffo 2000, Am. Stat. 54:280)."""
    p, q = (first * n + 1.0) / (n + 2.0), (second * m + 1.0) / (m + 2.0)
    return float(p - q - z * (p * (1.0 - p) / (n + 2.0) + q * (1.0 - q) / (m + 2.0)) ** 0.5)
