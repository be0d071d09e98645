"""What a person sees: tables that fit 80 columns, pictures of every shape of result."""

import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
from evaluation_cases import estimate, evaluation
from rich.console import Console

from titans_trm.evaluation.config import Bound, CriteriaConfig
from titans_trm.evaluation.criteria import judge
from titans_trm.evaluation.plots import draw_calibration, draw_confusion, draw_halting
from titans_trm.evaluation.screen import show

PNG = b"\x89PNG\r\n\x1a\n"


def shown(result, verdict=None) -> str:
    screen = io.StringIO()
    show(result, verdict, Console(file=screen, width=80))
    return screen.getvalue()


def test_everything_that_matters_is_on_the_screen() -> None:
    targets = {"exact_accuracy": Bound(at_least=0.91), "token_accuracy": Bound(at_least=0.5)}
    verdict = judge(evaluation(), None, None, CriteriaConfig(name="mine", targets=targets))
    text = shown(evaluation(), verdict)
    for words in ("exact_accuracy", "0.9000", "0.8800 to 0.9200", "copy_input", "adaptive", "16,000", "McNemar",
                  "2.10 times fewer", "25 ms", "difficulty", "ece, every step", "criteria: mine", "no, not",
                  "1 for 2 1", "yes"):  # fmt: skip
        assert words in text, words
    assert max(len(line) for line in text.splitlines()[1:]) <= 80


def test_what_is_missing_leaves_no_holes() -> None:
    bare = evaluation(halting_gain=None, slices=[], metrics={"exact_accuracy": estimate(None)})
    text = shown(dataclasses.replace(bare, halting={"full": bare.halting["full"]}))
    assert "McNemar" not in text and "criteria" not in text and "slices" not in text


def test_of_many_steps_a_few_are_shown_the_last_among_them() -> None:
    steps = [dataclasses.replace(evaluation().steps[0], step=number) for number in range(1, 65)]
    lines = [line.split() for line in shown(evaluation(steps=steps, slices=[])).splitlines()]
    numbers = [int(words[0]) for words in lines if words and words[0].isdigit()]
    assert numbers[-1] == 64 and len(numbers) <= 12


@pytest.mark.parametrize("classes", [1, 5, 40])
def test_confusion_is_drawn_for_few_and_many_classes(tmp_path: Path, classes: int) -> None:
    matrix = np.zeros((classes + 1, classes + 1), dtype=np.int64)
    matrix[1:, 1:] = np.random.default_rng(0).integers(0, 9, size=(classes, classes))
    draw_confusion(tmp_path / "c.png", matrix, [str(one) for one in range(classes + 1)], "title")
    assert (tmp_path / "c.png").read_bytes().startswith(PNG)
    assert [path.name for path in tmp_path.iterdir()] == ["c.png"]


def test_calibration_and_halting_are_drawn_also_where_parts_are_not_defined(tmp_path: Path) -> None:
    result = evaluation()
    draw_calibration(tmp_path / "a.png", result.calibration, "title")
    empty = {name: dataclasses.replace(one, bins=[], auroc=estimate(None)) for name, one in result.calibration.items()}
    draw_calibration(tmp_path / "b.png", empty, "title")
    steps = [dataclasses.replace(result.steps[0], step=number) for number in range(1, 33)]
    draw_halting(tmp_path / "c.png", steps, result.difficulty, "title")
    for name in "abc":
        assert (tmp_path / f"{name}.png").read_bytes().startswith(PNG)
