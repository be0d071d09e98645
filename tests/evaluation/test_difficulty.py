"""Halting depth against difficulty: ranks against scipy, errors against definitions."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from titans_trm.evaluation.difficulty import depth_error, describe_difficulty, equal_bins, needed_steps
from titans_trm.evaluation.resampling import UNDEFINED, Intervals
from titans_trm.evaluation.solving import Solved


def solved(depth: torch.Tensor, exact_by_step: torch.Tensor) -> Solved:
    n, steps = exact_by_step.shape
    return Solved(
        exact=exact_by_step[:, -1],
        token_accuracy=torch.ones(n),
        cross_entropy=torch.zeros(n),
        scored=torch.ones(n, dtype=torch.int64),
        valid=exact_by_step[:, -1],
        steps=torch.full((n,), steps),
        adaptive_exact=exact_by_step.gather(1, depth[:, None] - 1).squeeze(1),
        adaptive_steps=depth,
        exact_by_step=exact_by_step,
        right_by_step=exact_by_step.long(),
        halting_logits=torch.zeros(n, steps),
        answers=torch.zeros(n, 1, dtype=torch.uint8),
        position_nats=torch.zeros(1),
        position_scored=torch.ones(1),
        net_calls=n * steps,
        seconds=1.0,
    )


def intervals(n: int) -> Intervals:
    return Intervals([str(number) for number in range(n)])


def test_needed_steps_are_from_where_the_answer_stays_right() -> None:
    rows = [[1, 1, 1], [0, 1, 1], [1, 0, 1], [0, 0, 0], [1, 1, 0]]
    assert needed_steps(torch.tensor(rows).bool()).tolist() == [1, 2, 3, 3, 3]


def test_the_error_of_depth_is_its_root_mean_square() -> None:
    depth = torch.tensor([1, 3, 2, 3])
    exact = torch.tensor([[1, 1, 1], [0, 1, 1], [0, 1, 1], [1, 1, 1]]).bool()
    estimate = depth_error(solved(depth, exact), intervals(4))
    assert estimate.value == pytest.approx(((0 + 1 + 0 + 4) / 4) ** 0.5)


def test_correlation_and_errors_of_the_rating() -> None:
    rng = np.random.default_rng(0)
    rating = rng.integers(0, 20, size=80)
    depth = torch.from_numpy(np.clip(rating // 4 + rng.integers(1, 4, size=80), 1, 8))
    found = describe_difficulty(solved(depth, torch.rand(80, 8) < 0.5), rating, "nodes", intervals(80))
    expected = spearmanr(depth.numpy(), rating)
    assert found.spearman.value == pytest.approx(expected.statistic)
    assert found.spearman_p == pytest.approx(expected.pvalue)
    assert found.spearman.ci_low is not None and 0.5 < found.spearman.ci_low < expected.statistic
    errors, without = [], []
    for left_out in range(80):
        kept = np.arange(80) != left_out
        slope, start = np.polyfit(depth.numpy()[kept], rating[kept], 1)
        errors.append(rating[left_out] - start - slope * depth.numpy()[left_out])
        without.append(rating[left_out] - rating[kept].mean())
    assert found.rating_rmse == pytest.approx(np.sqrt(np.mean(np.square(errors))))
    assert found.rating_rmse_of_mean == pytest.approx(np.sqrt(np.mean(np.square(without))))
    assert found.rating_rmse is not None and found.rating_rmse < (found.rating_rmse_of_mean or 0)
    assert sum(one.n for one in found.bins) == 80
    depths = [one.mean_supervision_steps.value for one in found.bins]
    assert depths == sorted(depths)  # type: ignore[type-var]


def test_where_all_examples_are_alike_nothing_is_claimed() -> None:
    exact = torch.ones(6, 2).bool()
    same = describe_difficulty(solved(torch.ones(6, dtype=torch.int64), exact), np.arange(6), "r", intervals(6))
    assert same.spearman == UNDEFINED and same.spearman_p is None and same.rating_rmse is None
    flat = describe_difficulty(solved(torch.tensor([1, 2] * 3), exact), np.zeros(6, dtype=int), "r", intervals(6))
    assert flat.spearman == UNDEFINED and [(one.low, one.n) for one in flat.bins] == [(0.0, 6)]


def test_bins_keep_equal_values_together_and_are_about_equal() -> None:
    values = np.random.default_rng(1).integers(0, 1000, size=500).astype(float)
    bins = equal_bins(values)
    assert len(bins) == 5 and all(80 <= inside.sum() <= 120 for _, _, inside in bins)
    assert all(high < low for (_, high, _), (low, _, _) in zip(bins, bins[1:], strict=False))
    assert equal_bins(np.full(9, 3.0)) == []
    few = equal_bins(np.array([0.0] * 95 + [1.0] * 5))
    assert [(low, high, int(inside.sum())) for low, high, inside in few] == [(0.0, 0.0, 95), (1.0, 1.0, 5)]
