"""Predicted difficulty, how long the model thinks, against real difficulty, how hard the example is."""

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata, spearmanr
from torch import Tensor
from torchmetrics.functional.regression import mean_squared_error

from titans_trm.evaluation.resampling import UNDEFINED, Floats, Intervals
from titans_trm.evaluation.results import DepthBin, Difficulty, Estimate
from titans_trm.evaluation.solving import Solved

MOST_BINS = 5  # of examples by a property: about equally many examples in each


def describe_difficulty(
    solved: Solved, ratings: NDArray[np.integer], rating_kind: str, intervals: Intervals
) -> Difficulty:
    """Return how halting depth relates to `ratings` (n,) and to the depth that was needed."""
    depth, rating = solved.adaptive_steps.double().numpy(), ratings.astype(float)
    spearman, p_value = _spearman(depth, rating, intervals)
    exact = solved.adaptive_exact.numpy()
    with_depth, without = _left_out_errors(depth, rating)
    bins = []
    for low, high, inside in equal_bins(rating) or [(float(rating.min()), float(rating.max()), rating == rating)]:
        bins.append(
            DepthBin(
                low=low,
                high=high,
                n=int(inside.sum()),
                mean_supervision_steps=intervals.means(depth, of=inside)[0],
                exact_accuracy=intervals.proportion(exact[inside], np.nonzero(inside)[0]),
            )
        )
    return Difficulty(
        rating_kind=rating_kind,
        spearman=spearman,
        spearman_p=p_value,
        rmse_steps=depth_error(solved, intervals),
        rating_rmse=with_depth,
        rating_rmse_of_mean=without,
        bins=bins,
    )


def needed_steps(exact_by_step: Tensor) -> Tensor:
    """Return the supervision step (n,) from which the answer is right and stays so; S where it is not right at last."""
    stays = exact_by_step.flip(1).int().cumprod(dim=1).sum(dim=1)  # right steps at the end
    steps = exact_by_step.shape[1]
    return (steps - stays + 1).clamp(max=steps)


def depth_error(solved: Solved, intervals: Intervals) -> Estimate:
    """Return the root mean squared error of the halting depth against the needed steps, in supervision steps."""
    depth, needed = solved.adaptive_steps.double(), needed_steps(solved.exact_by_step).double()
    squares = (depth - needed).square().numpy()
    sums = intervals.sums(np.stack([squares, np.ones(len(squares))], axis=1))
    estimate = intervals.estimates(sums, lambda sums: np.sqrt(sums[..., :1] / sums[..., 1:]))[0]
    return replace(estimate, value=float(mean_squared_error(depth, needed, squared=False)))


def equal_bins(values: NDArray[np.floating]) -> list[tuple[float, float, NDArray[np.bool_]]]:
    """Return up to `MOST_BINS` ranges (lowest, highest, members) of about equally many examples; none if all are equal.

    Equal values stay together.
    """
    edges = np.unique(np.quantile(values, np.linspace(0, 1, MOST_BINS + 1)[1:-1], method="inverted_cdf"))
    number = np.searchsorted(edges, values, side="left")
    if len(np.unique(number)) < 2:
        number = (values > values.min()).astype(int)  # one value is so common that it is every quantile
    found = [(float(values[inside].min()), float(values[inside].max()), inside) for inside in _members(number)]
    return found if len(found) > 1 else []


def _members(number: NDArray[np.integer]) -> list[NDArray[np.bool_]]:
    return [number == value for value in np.unique(number)]


def _spearman(depth: Floats, rating: Floats, intervals: Intervals) -> tuple[Estimate, float | None]:
    """Return Spearman's correlation with an interval at fixed ranks, and its p value; examples count as independent."""
    if len(depth) < 3 or np.ptp(depth) == 0 or np.ptp(rating) == 0:
        return UNDEFINED, None
    x, y = rankdata(depth), rankdata(rating)
    x, y = x - x.mean(), y - y.mean()
    sums = intervals.sums(np.stack([x, y, x * x, y * y, x * y, np.ones(len(x))], axis=1))
    found = spearmanr(depth, rating)
    return replace(intervals.estimates(sums, _correlation)[0], value=float(found.statistic)), float(found.pvalue)


def _correlation(sums: Floats) -> Floats:
    x, y, xx, yy, xy = np.moveaxis(sums[..., :-1] / sums[..., -1:], -1, 0)
    return ((xy - x * y) / np.sqrt((xx - x * x) * (yy - y * y)))[..., None]


def _left_out_errors(depth: Floats, rating: Floats) -> tuple[float | None, float | None]:
    """Return root mean squared errors of the rating, from a line on depth and from the mean, each example left out.

    Leaving one out of least squares needs no second fit: its error is the residual over one minus its leverage.
    """
    n = len(depth)
    if n < 3 or np.ptp(depth) == 0 or np.ptp(rating) == 0:
        return None, None
    centred = depth - depth.mean()
    slope = float(centred @ (rating - rating.mean()) / (centred @ centred))
    residual = rating - rating.mean() - slope * centred
    leverage = 1 / n + centred**2 / (centred @ centred)
    alone = leverage > 1 - 1e-9  # the only example of its depth leaves nothing to draw a line through
    line = residual[~alone] / (1 - leverage[~alone])
    mean = (rating - rating.mean()) * n / (n - 1)
    return _rms(line), _rms(mean)


def _rms(errors: Floats) -> float:
    return float(torch.from_numpy(errors).square().mean().sqrt())
