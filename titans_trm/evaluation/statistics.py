"""Intervals of measured proportions."""

from math import sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t


def wilson_interval(successes: float, n: float, confidence: float = 0.95) -> tuple[float, float]:
    """Return the Wilson score interval of a proportion (Wilson 1927, J. Am. Stat. Assoc. 22:209).

    Unlike the normal approximation it stays inside [0, 1] and has a width at 0 of n and at n of n, where a good or a
    hopeless model is. `n` may be an effective number of examples, even below 1 where few groups disagree, and
    `successes` a fraction times `n`.

    Raises:
        ValueError: `n` is not above 0, `successes` lies outside 0..n, or `confidence` outside (0, 1).
    """
    if n <= 0:
        raise ValueError(f"n={n} gives no interval; an estimate needs examples.")
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
    low = 0.0 if share == 0.0 else (centre - spread) / scale
    high = 1.0 if share == 1.0 else (centre + spread) / scale
    return low, high


def clustered_wilson_interval(
    successes: NDArray[np.floating], sizes: NDArray[np.integer], confidence: float = 0.95
) -> tuple[float, float]:
    """Return the Wilson interval of a proportion over groups whose examples are alike.

    The number of examples is replaced by the effective one: divided by the design effect, the variance between groups
    over that of as many independent examples, with Student's quantile for few groups (Korn and Graubard 1998, Survey
    Methodology 24:193, there for another interval). Where all examples are right, or all wrong, the spread between
    groups cannot be seen and the number of groups counts. With groups of one example it is the plain Wilson interval.

    Args:
        successes: (G,) number of successes in each group.
        sizes: (G,) examples in each group, 1 or more.
        confidence: level of the interval.
    """
    n, groups = int(sizes.sum()), len(sizes)
    hits = float(successes.sum())
    if groups == n:
        return wilson_interval(hits, n, confidence)
    share = hits / n
    if hits in (0.0, float(n)) or groups == 1:
        effective = float(groups)
    else:
        between = groups / (groups - 1) * float(np.square(successes - share * sizes).sum()) / n**2
        design_effect = max(1.0, between / (share * (1 - share) / n))
        level = 0.5 + 0.5 * confidence
        effective = n / design_effect * float(NormalDist().inv_cdf(level) / t.ppf(level, groups - 1)) ** 2
    return wilson_interval(share * effective, effective, confidence)
