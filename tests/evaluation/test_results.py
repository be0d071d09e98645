"""The layout of an evaluation survives the way to JSON and back, and keeps the keys that other tools rely on."""

import dataclasses
import json

import pytest
from evaluation_cases import evaluation

from titans_trm.errors import InputError
from titans_trm.evaluation.results import Evaluation
from titans_trm.schema import build


def test_json_and_back_gives_the_same_evaluation() -> None:
    there = json.loads(json.dumps(dataclasses.asdict(evaluation())))
    assert build(Evaluation, there) == evaluation()


def test_the_promised_keys_are_there() -> None:
    values = dataclasses.asdict(evaluation())
    assert {"split", "n", "metrics", "halting"} <= set(values)
    assert {"value", "ci_low", "ci_high"} <= set(values["metrics"]["exact_accuracy"])
    assert set(values["halting"]) == {"full", "adaptive"}


def test_a_damaged_file_is_named_by_its_key() -> None:
    values = dataclasses.asdict(evaluation())
    values["metrics"]["exact_accuracy"]["value"] = "high"
    with pytest.raises(InputError, match=r"metrics\.exact_accuracy\.value='high' is not a number"):
        build(Evaluation, values)
