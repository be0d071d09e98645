"""Is the difference real? Paired tests on the same examples or the same seeds, and Holm's correction for many."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, t, ttest_rel, wilcoxon

from titans_trm.evaluation.resampling import Intervals
from titans_trm.evaluation.results import Estimate

Floats = NDArray[np.floating]


def paired_t_test(first: Sequence[float] | Floats, second: Sequence[float] | Floats) -> float | None:
    """Return the p value of Student's paired test that the means are equal; None where it is not defined.

    For few pairs, such as seeds: it supposes differences that are about normal. Two pairs are the least.
    """
    differences = _differences(first, second)
    if len(differences) < 2:
        return None
    if np.ptp(differences) == 0:
        return 1.0 if differences[0] == 0 else 0.0
    return float(ttest_rel(first, second).pvalue)


def wilcoxon_test(first: Sequence[float] | Floats, second: Sequence[float] | Floats) -> float | None:
    """Return the p value of Wilcoxon's signed-rank test; None without pairs. Equal pairs are left out (Wilcoxon)."""
    differences = _differences(first, second)
    if len(differences) == 0:
        return None
    if not differences.any():
        return 1.0
    return float(wilcoxon(differences, zero_method="wilcox").pvalue)


def mcnemar_test(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """Return the exact p value that `first` and `second` (n,) are right equally often, on the same examples."""
    _differences(first.astype(float), second.astype(float))
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    discordant = only_first + only_second
    return float(binomtest(only_first, discordant).pvalue) if discordant else 1.0


def paired_bootstrap(first: Floats, second: Floats, intervals: Intervals) -> tuple[Estimate, float]:
    """Return the mean of first - second (n,) with its interval by group, and the p value that it is 0.

    The p value is that of `grouped_t_test`: counting resamples cannot show one below the inverse of their number.
    """
    return intervals.means(_differences(first, second))[0], grouped_t_test(first, second, intervals)


def grouped_t_test(first: Floats, second: Floats, intervals: Intervals) -> float:
    """Return the p value of Student's paired test with groups, not examples, as independent units."""
    differences = _differences(first, second)
    mean, groups = float(differences.mean()), intervals.num_groups
    sums = np.bincount(intervals.group, differences - mean)
    error = float(np.sqrt(groups / (groups - 1) * np.square(sums).sum())) / len(differences) if groups > 1 else 0.0
    if error == 0.0:
        return 1.0 if mean == 0.0 else 0.0
    return float(2 * t.sf(abs(mean) / error, groups - 1))


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return the p values adjusted for their number (Holm 1979, Scand. J. Stat. 6:65): compare with the level as is."""
    adjusted: dict[str, float] = {}
    highest = 0.0
    for rank, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p))
        adjusted[name] = highest
    return {name: adjusted[name] for name in p_values}


def seed_interval(values: Sequence[float], confidence: float = 0.95) -> Estimate:
    """Return the mean over seeds with Student's interval; without one for a single seed."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return Estimate(value=mean, ci_low=None, ci_high=None, method="none")
    half = float(t.ppf(0.5 + 0.5 * confidence, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))
    return Estimate(value=mean, ci_low=mean - half, ci_high=mean + half, method="student")


def _differences(first: Sequence[float] | Floats, second: Sequence[float] | Floats) -> NDArray[np.float64]:
    if len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} values cannot be paired; give the same examples or seeds.")
    return np.asarray(first, dtype=float) - np.asarray(second, dtype=float)
