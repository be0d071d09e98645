"""How often intervals contain the truth: `python benchmarks/interval_coverage.py`, minutes on one core.

Prints one line per case: kind of data, groups, share of intervals that contain the truth, its standard error.
"""

import argparse
import sys
from collections.abc import Callable

import numpy as np

from titans_trm.evaluation.resampling import Intervals
from titans_trm.evaluation.results import Estimate

Draw = Callable[[np.random.Generator, np.ndarray], tuple[np.ndarray, float]]  # groups (n,) -> values (n,), true mean


def normal(rng: np.random.Generator, group: np.ndarray) -> tuple[np.ndarray, float]:
    """Return values with a normal group effect as large as the noise."""
    return rng.normal(size=group.max() + 1)[group] + rng.normal(size=len(group)), 0.0


def skewed(rng: np.random.Generator, group: np.ndarray) -> tuple[np.ndarray, float]:
    """Return values like cross-entropies: positive, a long tail, groups alike."""
    return rng.exponential(size=group.max() + 1)[group] * rng.exponential(size=len(group)), 1.0


def proportion(share: float) -> Draw:
    """Return right answers, groups alike, `share` of them right."""

    def draw(rng: np.random.Generator, group: np.ndarray) -> tuple[np.ndarray, float]:
        chance = rng.beta(4 * share, 4 * (1 - share), size=group.max() + 1)
        return rng.random(len(group)) < chance[group], share

    return draw


def estimate(values: np.ndarray, group: np.ndarray, seed: int) -> Estimate:
    """Return the mean with the interval that an evaluation gives it."""
    intervals = Intervals([str(one) for one in group], seed=seed)
    return intervals.proportion(values) if values.dtype == bool else intervals.means(values)[0]


def main() -> None:
    """Simulate every case and print its coverage."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=2000, help="simulated data sets a case")
    parser.add_argument("--groups", type=int, default=150, help="groups of 1 to 3 examples")
    arguments = parser.parse_args()
    cases: dict[str, Draw] = {"normal": normal, "skewed": skewed}
    cases |= {f"proportion {share}": proportion(share) for share in (0.5, 0.9, 0.98)}
    for name, draw in cases.items():
        rng, covered = np.random.default_rng(0), 0
        for seed in range(arguments.repeats):
            group = np.arange(arguments.groups).repeat(rng.integers(1, 4, size=arguments.groups))
            values, truth = draw(rng, group)
            found = estimate(values, group, seed)
            assert found.ci_low is not None and found.ci_high is not None
            covered += found.ci_low <= truth <= found.ci_high
        share = covered / arguments.repeats
        error = (share * (1 - share) / arguments.repeats) ** 0.5
        sys.stdout.write(f"{name:16s} {arguments.groups} groups: {100 * share:.1f} % (± {100 * error:.1f})\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
