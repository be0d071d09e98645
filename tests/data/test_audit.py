import math

import numpy as np
import pytest
import torch

from titans_trm.data.audit import audit, js_divergence
from titans_trm.data.examples import ExampleSet
from titans_trm.data.leakage import compare
from titans_trm.data.load import TaskData
from titans_trm.data.spec import TaskSpec

RNG = np.random.default_rng(0)


def made(name: str, count: int, *, high: int = 8, shift: int = 0, sources=None, start: int = 0) -> ExampleSet:
    tokens = torch.from_numpy(RNG.integers(1, high, (count, 12)).astype(np.uint8))
    return ExampleSet(
        name=name,
        inputs=tokens,
        targets=tokens.clone(),
        keys=[f"{name}{start + row}" for row in range(count)],
        sources=sources or ["a"] * count,
        ratings=torch.from_numpy(RNG.integers(0, 50, count) + shift),
    )


def task_data(train: ExampleSet, val: ExampleSet, test: ExampleSet) -> TaskData:
    return TaskData(TaskSpec("toy", seq_len=12, vocab_size=9), train, val, None, {}, test)


def test_divergence_is_zero_for_equal_one_bit_for_disjoint_and_symmetric():
    assert js_divergence(np.array([1, 2, 3]), np.array([10, 20, 30])) == pytest.approx(0.0, abs=1e-12)
    assert js_divergence(np.array([1, 0]), np.array([0, 5])) == pytest.approx(1.0)
    p, q = np.array([0.9, 0.1]), np.array([0.5, 0.5])
    mean = (p + q) / 2
    expected = sum(0.5 * x * math.log2(x / m) for pair in (p, q) for x, m in zip(pair, mean, strict=True))
    assert js_divergence(p, q) == pytest.approx(expected) == pytest.approx(js_divergence(q, p))


def test_sets_of_one_law_give_no_warning_and_shares_that_sum_to_one():
    report = audit(task_data(made("train", 600), made("val", 200), made("test", 200)))
    assert report["warnings"] == []
    for split in report["splits"].values():
        for shares in ("label_shares", "rating_buckets", "length_buckets", "source_shares"):
            assert sum(split[shares]) == pytest.approx(1.0)
    assert len(report["bucket_labels"]["rating"]) == len(report["splits"]["val"]["rating_buckets"])


def test_a_harder_test_set_is_told_from_chance_by_the_property_that_differs():
    report = audit(task_data(made("train", 600), made("val", 200), made("test", 200, shift=25)))
    assert {name for name, one in report["divergence"]["train-test"].items() if one["differs"]} == {"rating"}
    assert not any(one["differs"] for one in report["divergence"]["train-val"].values())
    assert len(report["warnings"]) == 1 and "test differs from train in rating" in report["warnings"][0]


def test_uneven_labels_duplicates_and_other_sources_are_reported():
    train = made("train", 400)
    train.targets[:] = 1
    train.targets[0, 0] = 2
    train.inputs[5] = train.inputs[9]
    report = audit(task_data(train, made("val", 100, sources=["b"] * 100), made("test", 100)))
    text = "\n".join(report["warnings"])
    assert "4799 times as frequent" in text and "loss.class_weight_power" in text
    assert "train holds 1 inputs that occur before" in text
    assert "val differs from train in source" in text
    assert report["splits"]["train"]["duplicate_inputs"] == 1


def test_a_large_vocabulary_and_many_examples_are_audited_in_bounded_memory():
    sets = []
    for name, count in {"train": 3000, "val": 100, "test": 100}.items():
        tokens = torch.from_numpy(RNG.integers(1, 8192, (count, 4)).astype(np.uint8))
        sets.append(
            ExampleSet(
                name,
                tokens,
                tokens,
                [f"{name}{i}" for i in range(count)],
                ["a"] * count,
                torch.zeros(count, dtype=torch.int64),
            )
        )
    data = TaskData(TaskSpec("toy", seq_len=4, vocab_size=8192), sets[0], sets[1], None, {}, sets[2])
    assert not audit(data)["divergence"]["train-test"]["labels"]["differs"]


def text_set(name: str, content: bytes, length: int = 64) -> ExampleSet:
    rows = torch.frombuffer(bytearray(content), dtype=torch.uint8).long().add(1).clamp(max=255).byte()
    rows = rows[: len(rows) // length * length].reshape(-1, length)
    count = len(rows)
    return ExampleSet(
        name, rows, rows, [f"{name}{i}" for i in range(count)], ["a"] * count, torch.zeros(count, dtype=torch.int64)
    )


def noise(length: int, seed: int) -> bytes:
    return np.random.default_rng(seed).integers(32, 127, length, dtype=np.uint8).tobytes()


def test_a_shifted_paragraph_is_found_across_rows_where_no_key_is_shared():
    paragraph = noise(156, 9)
    train = text_set("train", noise(640, 0) + paragraph + noise(500, 1))
    test = text_set("test", noise(101, 2) + paragraph + noise(700, 3))
    overlap = compare(train, test, window=50, byte_offset=1)
    assert overlap.groups == 0 and not overlap.is_clean()
    assert overlap.covered == pytest.approx(156 / test.inputs.numel())
    assert overlap.passages[0] == {"first_row": 10, "second_row": 1, "bytes": 156, "text": paragraph[:60].decode()}
    assert compare(text_set("a", noise(1000, 4)), test, window=50, byte_offset=1).is_clean()


def test_shared_groups_are_counted_with_examples_of_both_sets():
    first, second = made("x", 5), made("x", 4, start=3)
    overlap = compare(first, second)
    assert (overlap.groups, overlap.rows, overlap.sizes) == (2, (2, 2), (5, 4))
    assert overlap.examples[0] == {"first_row": 3, "second_row": 0, "first_source": "a", "second_source": "a"}
    assert overlap.window is None and json_ready(overlap.to_dict())


def json_ready(value) -> bool:
    import json

    return json.loads(json.dumps(value))["groups"] == value["groups"]
