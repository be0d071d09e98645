"""Which token is taken for which: confusion matrix, precision, recall and F1 by class, macro and micro F1."""

import csv
import io
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics.functional.classification import multiclass_confusion_matrix, multiclass_f1_score

from titans_trm.evaluation.resampling import Floats, Intervals
from titans_trm.evaluation.results import Confused, Confusion, Estimate, TokenClass

_LARGEST_MATRIX = 64  # classes in the JSON; the CSV file holds any number
_MOST_CONFUSED = 10  # pairs named


def token_confusion(answers: Tensor, targets: Tensor, vocab_size: int, ignore_index: int) -> NDArray[np.int64]:
    """Return counts [target, answered] (V, V) over the scored tokens of answers and targets (n, N)."""
    scored = targets != ignore_index
    matrix = multiclass_confusion_matrix(answers[scored].long(), targets[scored].long(), num_classes=vocab_size)
    return np.asarray(matrix.numpy(), dtype=np.int64)


def f1_scores(
    answers: Tensor, targets: Tensor, vocab_size: int, ignore_index: int, intervals: Intervals
) -> dict[str, Estimate]:
    """Return `macro_f1`, the mean over classes that occur as target or answer, and `micro_f1`, over all tokens."""
    scored = targets != ignore_index
    rows = torch.nonzero(scored)[:, 0].numpy()
    given, wanted = answers[scored].long(), targets[scored].long()
    right = (given == wanted).numpy()
    sums = np.concatenate(
        [
            intervals.histogram(wanted.numpy()[right], rows[right], vocab_size),
            intervals.histogram(given.numpy(), rows, vocab_size),
            intervals.histogram(wanted.numpy(), rows, vocab_size),
        ],
        axis=1,
    )
    names: tuple[Literal["macro", "micro"], ...] = ("macro", "micro")
    return {
        f"{name}_f1": replace(
            estimate, value=float(multiclass_f1_score(given, wanted, num_classes=vocab_size, average=name))
        )
        for name, estimate in zip(names, intervals.estimates(sums, _f1), strict=True)
    }


def describe_confusion(matrix: NDArray[np.int64], labels: Sequence[str]) -> Confusion:
    """Return a confusion matrix (V, V) as classes, pairs and, where it is small, itself; absent tokens left out."""
    support, predicted, right = matrix.sum(axis=1), matrix.sum(axis=0), matrix.diagonal()
    kept = np.nonzero(support + predicted)[0].tolist()
    classes = [
        TokenClass(
            token=token,
            label=labels[token],
            support=int(support[token]),
            predicted=int(predicted[token]),
            precision=_ratio(right[token], predicted[token]),
            recall=_ratio(right[token], support[token]),
            f1=_ratio(2 * right[token], support[token] + predicted[token]),
        )
        for token in kept
    ]
    wrong = matrix.copy()
    np.fill_diagonal(wrong, 0)
    commonest = np.argsort(-wrong, axis=None, kind="stable")[:_MOST_CONFUSED]
    pairs = [(int(i // len(wrong)), int(i % len(wrong))) for i in commonest]
    small = matrix[np.ix_(kept, kept)].tolist() if len(kept) <= _LARGEST_MATRIX else None
    confused = [Confused(target=labels[i], answered=labels[j], count=int(wrong[i, j])) for i, j in pairs if wrong[i, j]]
    return Confusion(classes=classes, matrix=small, most_confused=confused)


def confusion_csv(matrix: NDArray[np.int64], labels: Sequence[str]) -> str:
    """Return the matrix as CSV, a row for each target and a column for each answer; absent tokens left out."""
    kept = np.nonzero(matrix.sum(axis=0) + matrix.sum(axis=1))[0].tolist()
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["target \\ answered", *(labels[token] for token in kept)])
    writer.writerows([labels[token], *matrix[token, kept].tolist()] for token in kept)
    return text.getvalue()


def _f1(sums: Floats) -> Floats:
    """Return macro and micro F1 (..., 2) from right, predicted and support by class (..., 3 V)."""
    right, predicted, support = np.split(sums, 3, axis=-1)
    occurs = predicted + support > 0
    each = np.divide(2 * right, predicted + support, out=np.zeros_like(right), where=occurs)
    return np.stack([each.sum(axis=-1) / occurs.sum(axis=-1), right.sum(axis=-1) / support.sum(axis=-1)], axis=-1)


def _ratio(part: int, whole: int) -> float | None:
    return float(part / whole) if whole else None
