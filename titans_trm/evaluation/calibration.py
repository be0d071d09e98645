"""Whether the halting head knows when an answer is right: reliability, calibration error, AUROC, Brier score."""

from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc, binary_calibration_error

from titans_trm.evaluation.resampling import UNDEFINED, Floats, Intervals
from titans_trm.evaluation.results import Calibration, CalibrationBin, Estimate
from titans_trm.evaluation.solving import Solved

BINS = 10  # of equal width in probability
_BELOW_1 = 1 - 1e-12  # torchmetrics gives a probability of exactly 1 a bin of its own
_LEVELS = 512  # of the logit, by quantile, for the interval of the AUROC


def halting_calibration(solved: Solved, intervals: Intervals) -> dict[str, Calibration]:
    """Return the calibration of the halting head over all supervision steps of a full run, and at its last step."""
    scopes: tuple[tuple[Literal["every_step", "last_step"], slice], ...] = (
        ("every_step", slice(None)),
        ("last_step", slice(-1, None)),
    )
    found: dict[str, Calibration] = {}
    for scope, steps in scopes:
        logits, right = solved.halting_logits[:, steps], solved.exact_by_step[:, steps]
        rows = torch.arange(len(solved)).repeat_interleave(logits.shape[1]).numpy()
        found[scope] = calibration(logits.flatten(), right.flatten(), rows, scope, intervals)
    return found


def calibration(
    logits: Tensor,
    right: Tensor,
    rows: NDArray[np.integer],
    scope: Literal["every_step", "last_step"],
    intervals: Intervals,
) -> Calibration:
    """Return the calibration of `logits` (m,) as log-odds of `right` (m,) bool; `rows` are the examples they are of."""
    probability = logits.double().sigmoid().clamp(max=_BELOW_1)
    bins = torch.bucketize(probability, torch.linspace(0, 1, BINS + 1, dtype=torch.float64)[1:-1], right=True).numpy()
    p, hits = probability.numpy(), right.numpy()
    sums = np.concatenate(
        [
            intervals.sums(np.eye(BINS)[bins] * (hits - p)[:, None], rows),
            intervals.sums(np.stack([np.square(hits - p), np.ones(len(p))], axis=1), rows),
        ],
        axis=1,
    )
    ece, brier = intervals.estimates(sums, _errors)
    return Calibration(
        scope=scope,
        n=len(p),
        ece=replace(ece, value=float(binary_calibration_error(probability, right.long(), n_bins=BINS, norm="l1"))),
        auroc=_auroc(logits, right, rows, intervals),
        brier=brier,
        bins=[
            CalibrationBin(
                low=number / BINS,
                high=(number + 1) / BINS,
                n=int(inside.sum()),
                mean_probability=float(p[inside].mean()),
                exact_accuracy=intervals.proportion(hits[inside], rows[inside]),
            )
            for number in range(BINS)
            if (inside := bins == number).any()
        ],
    )


def _auroc(logits: Tensor, right: Tensor, rows: NDArray[np.integer], intervals: Intervals) -> Estimate:
    """Return the AUROC; its interval is computed on logits rounded to levels, which moves it by less than 1/1000."""
    if right.all() or not right.any():
        return UNDEFINED
    values = logits.double().numpy()
    edges = np.unique(np.quantile(values, np.linspace(0, 1, _LEVELS + 1)[1:-1]))
    levels, hits = np.searchsorted(edges, values, side="left"), right.numpy()
    count = len(edges) + 1
    sums = np.concatenate(
        [
            intervals.histogram(levels[hits], rows[hits], count),
            intervals.histogram(levels[~hits], rows[~hits], count),
        ],
        axis=1,
    )
    rough = intervals.estimates(sums, _area)[0]
    return replace(rough, value=float(binary_auroc(logits.double().sigmoid(), right.long())))


def _errors(sums: Floats) -> Floats:
    """Return calibration error and Brier score (..., 2) from the sums made above."""
    count = sums[..., -1]
    return np.stack([np.abs(sums[..., :BINS]).sum(axis=-1) / count, sums[..., -2] / count], axis=-1)


def _area(sums: Floats) -> Floats:
    """Return the AUROC (..., 1) from counts by level of right and wrong answers (..., 2 levels); ties count half."""
    right, wrong = np.split(sums, 2, axis=-1)
    below = np.cumsum(wrong, axis=-1) - 0.5 * wrong
    return ((right * below).sum(axis=-1) / (right.sum(axis=-1) * wrong.sum(axis=-1)))[..., None]
