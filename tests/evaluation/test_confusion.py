"""Confusion matrix, classes and F1 scores against torchmetrics and counting by hand."""

import numpy as np
import pytest
import torch
from torchmetrics.classification import MulticlassF1Score, MulticlassPrecision, MulticlassRecall

from titans_trm.evaluation.confusion import confusion_csv, describe_confusion, f1_scores, token_confusion
from titans_trm.evaluation.resampling import Intervals

IGNORE = -100
LABELS = ["pad", "blank", "one", "two", "three"]


@pytest.fixture
def tokens() -> tuple[torch.Tensor, torch.Tensor]:
    """Answers and targets (60, 7): mostly right, token 1 never a target, some targets not scored."""
    generator = torch.Generator().manual_seed(0)
    targets = torch.randint(2, 5, (60, 7), generator=generator)
    wrong = torch.rand(60, 7, generator=generator) < 0.3
    answers = torch.where(wrong, torch.randint(1, 5, (60, 7), generator=generator), targets)
    return answers, targets.masked_fill(torch.rand(60, 7, generator=generator) < 0.2, IGNORE)


def test_the_matrix_counts_targets_against_answers(tokens: tuple[torch.Tensor, torch.Tensor]) -> None:
    answers, targets = tokens
    matrix = token_confusion(answers.to(torch.uint8), targets, 5, IGNORE)
    for target in range(5):
        for answer in range(5):
            assert matrix[target, answer] == int(((targets == target) & (answers == answer)).sum())


def test_classes_equal_torchmetrics_and_absent_ones_are_left_out(tokens: tuple[torch.Tensor, torch.Tensor]) -> None:
    answers, targets = tokens
    found = describe_confusion(token_confusion(answers, targets, 5, IGNORE), LABELS)
    assert [one.label for one in found.classes] == LABELS[1:]
    blank = found.classes[0]
    assert blank.support == 0 and blank.recall is None and blank.precision == 0.0 and blank.f1 == 0.0
    for metric, name in ((MulticlassPrecision, "precision"), (MulticlassRecall, "recall"), (MulticlassF1Score, "f1")):
        expected = metric(5, average="none", ignore_index=IGNORE)(answers, targets)
        for one in found.classes[1:]:
            assert getattr(one, name) == pytest.approx(float(expected[one.token]))
    assert found.matrix is not None and np.array(found.matrix).sum() == int((targets != IGNORE).sum())


def test_pairs_are_named_commonest_first(tokens: tuple[torch.Tensor, torch.Tensor]) -> None:
    answers, targets = tokens
    matrix = token_confusion(answers, targets, 5, IGNORE)
    found = describe_confusion(matrix, LABELS).most_confused
    assert [one.count for one in found] == sorted((one.count for one in found), reverse=True)
    for one in found:
        assert matrix[LABELS.index(one.target), LABELS.index(one.answered)] == one.count > 0
    assert describe_confusion(np.diag([0, 3, 4]), LABELS[:3]).most_confused == []


def test_scores_equal_torchmetrics_and_lie_in_their_intervals(tokens: tuple[torch.Tensor, torch.Tensor]) -> None:
    answers, targets = tokens
    intervals = Intervals([str(number // 2) for number in range(60)])
    found = f1_scores(answers.to(torch.uint8), targets, 5, IGNORE, intervals)
    for average in ("macro", "micro"):
        expected = MulticlassF1Score(5, average=average, ignore_index=IGNORE)(answers, targets)
        estimate = found[f"{average}_f1"]
        assert estimate.value == pytest.approx(float(expected))
        assert estimate.ci_low is not None and estimate.ci_high is not None and estimate.value is not None
        assert 0.0 < estimate.ci_low < estimate.value < estimate.ci_high < 1.0
    scored = targets != IGNORE
    assert found["micro_f1"].value == pytest.approx(float((answers == targets)[scored].float().mean()))


def test_the_csv_file_has_a_row_for_each_target() -> None:
    text = confusion_csv(np.array([[0, 0, 0], [0, 5, 1], [0, 2, 7]]), ["pad", "a,b", "c"])
    assert text.splitlines() == ['target \\ answered,"a,b",c', '"a,b",5,1', "c,2,7"]


def test_large_matrices_are_left_to_the_csv_file() -> None:
    assert describe_confusion(np.eye(100, dtype=np.int64), [str(one) for one in range(100)]).matrix is None
