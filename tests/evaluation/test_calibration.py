"""Calibration of halting logits against torchmetrics, scipy and what is known by construction."""

import numpy as np
import pytest
import torch
from scipy.stats import mannwhitneyu
from torchmetrics.classification import BinaryCalibrationError

from titans_trm.evaluation.calibration import BINS, calibration
from titans_trm.evaluation.resampling import UNDEFINED, Intervals
from titans_trm.evaluation.results import Calibration


def measured(logits: torch.Tensor, right: torch.Tensor, per_example: int = 1) -> Calibration:
    rows = np.arange(len(logits)) // per_example
    return calibration(logits, right, rows, "every_step", Intervals([str(row) for row in np.unique(rows)]))


@pytest.fixture
def calibrated() -> tuple[torch.Tensor, torch.Tensor]:
    """Logits that are the log-odds of being right."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(1600, generator=generator)
    return logits, torch.rand(1600, generator=generator) < logits.sigmoid()


def test_errors_equal_torchmetrics_and_closed_forms(calibrated: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, right = calibrated
    found = measured(logits, right, per_example=4)
    expected = BinaryCalibrationError(n_bins=BINS, norm="l1")(logits.sigmoid(), right.long())
    assert found.ece.value == pytest.approx(float(expected), abs=1e-6)
    assert found.brier.value == pytest.approx(float((logits.sigmoid() - right.float()).square().mean()), abs=1e-6)
    count = int(right.sum()) * int((~right).sum())
    area = mannwhitneyu(logits[right].numpy(), logits[~right].numpy()).statistic / count
    assert found.auroc.value == pytest.approx(area, abs=1e-6)
    assert found.n == 1600 == sum(one.n for one in found.bins)


def test_a_calibrated_head_has_a_small_error_and_bins_on_the_diagonal(
    calibrated: tuple[torch.Tensor, torch.Tensor],
) -> None:
    found = measured(*calibrated)
    assert found.ece.value is not None and found.ece.value < 0.04
    inside = 0
    for one in found.bins:
        accuracy = one.exact_accuracy
        assert one.low <= one.mean_probability <= one.high
        assert accuracy.ci_low is not None and accuracy.ci_high is not None
        inside += accuracy.ci_low <= one.mean_probability <= accuracy.ci_high
    assert inside >= len(found.bins) - 1


def test_a_head_that_is_too_sure_is_found(calibrated: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, right = calibrated
    found = measured(4 * logits, right)
    assert found.ece.ci_low is not None and found.ece.ci_low > 0.08
    honest = measured(logits, right).auroc.value
    assert found.auroc.value == pytest.approx(honest)  # the order of the logits is the same


def test_the_interval_of_the_auroc_is_that_of_its_values(calibrated: tuple[torch.Tensor, torch.Tensor]) -> None:
    """Hanley and McNeil's standard error (1982, Radiology 143:29) is close for many pairs."""
    logits, right = calibrated
    auroc = measured(logits, right).auroc
    a, ones, zeros = float(auroc.value or 0), int(right.sum()), int((~right).sum())
    q1, q2 = a / (2 - a), 2 * a * a / (1 + a)
    error = ((a * (1 - a) + (ones - 1) * (q1 - a * a) + (zeros - 1) * (q2 - a * a)) / (ones * zeros)) ** 0.5
    assert auroc.ci_high is not None and auroc.ci_low is not None
    assert auroc.ci_high - auroc.ci_low == pytest.approx(2 * 1.96 * error, rel=0.15)


def test_answers_that_are_all_right_have_no_auroc() -> None:
    assert measured(torch.randn(20), torch.ones(20, dtype=torch.bool)).auroc == UNDEFINED
    assert measured(torch.randn(20), torch.zeros(20, dtype=torch.bool)).auroc == UNDEFINED


def test_a_certain_head_that_is_right_has_no_error() -> None:
    found = measured(torch.tensor([90.0, -90.0] * 10), torch.tensor([True, False] * 10))
    assert found.ece.value == pytest.approx(0.0, abs=1e-9) and found.auroc.value == 1.0
    assert [(one.low, one.n) for one in found.bins] == [(0.0, 10), (0.9, 10)]
