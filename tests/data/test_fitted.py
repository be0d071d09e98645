import numpy as np
import pytest
import torch
from sudoku_cases import example_set

from titans_trm.data.examples import ExampleSet
from titans_trm.data.fitted import ClassWeights, Fitted, QuantileBuckets, SampleWeights, attribute
from titans_trm.errors import InputError

SEVERAL = [
    (ClassWeights, {"vocab_size": 64, "power": 1.0, "largest": 10.0}),
    (QuantileBuckets, {"by": "rating"}),
    (SampleWeights, {"by": "source", "power": 1.0}),
]


def targets(*rows: list[int], name: str = "train", **values) -> ExampleSet:
    tokens = torch.tensor(rows, dtype=torch.uint8)
    examples = example_set(len(rows), name)
    columns = {"keys": examples.keys, "sources": examples.sources, "ratings": examples.ratings} | values
    return ExampleSet(name=name, inputs=tokens, targets=tokens, **columns)


def test_every_fitted_statistic_is_in_this_test():
    assert {kind for kind, _ in SEVERAL} == set(Fitted.__subclasses__())


@pytest.mark.parametrize(("kind", "options"), SEVERAL)
@pytest.mark.parametrize("name", ["val", "test", "puzzles.csv"])
def test_nothing_is_fitted_on_anything_but_the_training_split(kind, options, name):
    with pytest.raises(InputError, match=f"would be fitted on '{name}'"):
        kind.fit(example_set(20, name), **options)
    kind.fit(example_set(20, "train"), **options)


def test_class_weights_are_inverse_shares_with_mean_one_and_padding_never_counts():
    train = targets([1, 1, 1, 0], [1, 1, 2, 0])
    weights = ClassWeights.fit(train, vocab_size=4, power=1.0, largest=10.0).values
    assert weights[3] == 1.0
    torch.testing.assert_close(weights[2] / weights[1], torch.tensor(5.0))
    torch.testing.assert_close((5 * weights[1] + weights[2]) / 6, torch.tensor(1.0))
    root = ClassWeights.fit(train, vocab_size=4, power=0.5, largest=10.0).values
    torch.testing.assert_close(root[2] / root[1], torch.tensor(5.0) ** 0.5)
    assert ClassWeights.fit(train, vocab_size=4, power=0.0, largest=10.0).values.tolist() == [1.0] * 4


def test_a_rare_class_is_capped_and_the_mean_stays_one():
    train = targets(*[[1] * 50] * 20, [2] + [1] * 49)
    weights = ClassWeights.fit(train, vocab_size=3, power=1.0, largest=3.0).values
    assert weights[2] == 3.0
    torch.testing.assert_close((1049 * weights[1] + weights[2]) / 1050, torch.tensor(1.0), atol=1e-4, rtol=0)


def test_buckets_are_of_equal_size_on_train_and_their_edges_hold_for_other_sets():
    train = example_set(100)  # ratings 0..99
    buckets = QuantileBuckets.fit(train, by="rating", buckets=4)
    assert np.bincount(buckets.of(train)).tolist() == [25, 25, 25, 25]
    shifted = targets(*[[1]] * 3, name="val", ratings=torch.tensor([-5, 24, 1000]))
    assert buckets.of(shifted).tolist() == [0, 0, 3]
    assert [buckets.label(bucket) for bucket in range(4)] == [
        "up to 24", "over 24 to 49", "over 49 to 74", "over 74",
    ]  # fmt: skip


def test_equal_ratings_share_a_bucket():
    train = targets(*[[1]] * 10, ratings=torch.tensor([0] * 9 + [7]))
    buckets = QuantileBuckets.fit(train, by="rating", buckets=4)
    assert buckets.of(train).tolist() == [0] * 9 + [1]
    one = targets(*[[1]] * 4, ratings=torch.tensor([3] * 4))
    assert QuantileBuckets.fit(one, by="rating").of(one).tolist() == [0] * 4


def test_length_counts_input_tokens_that_are_not_padding():
    assert attribute(targets([1, 0, 0], [1, 2, 3]), "length").tolist() == [1.0, 3.0]
    with pytest.raises(ValueError, match="by='source'"):
        attribute(targets([1]), "source")


def test_balanced_sources_get_equal_total_weight():
    train = targets(*[[1]] * 10, sources=["a"] * 8 + ["b"] * 2)
    weights = SampleWeights.fit(train, by="source", power=1.0).values
    torch.testing.assert_close(weights[:8].sum(), weights[8:].sum())
    torch.testing.assert_close(weights.mean(), torch.tensor(1.0, dtype=torch.float64))
    assert SampleWeights.fit(train, by="source", power=0.0).values.unique().tolist() == [1.0]
    by_length = SampleWeights.fit(targets([1, 0], [1, 0], [1, 0], [1, 1]), by="length", power=1.0).values
    torch.testing.assert_close(by_length[3], 3 * by_length[0])
