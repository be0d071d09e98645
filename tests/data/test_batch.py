import pytest
import torch
from sudoku_cases import example_set

from titans_trm.data.batch import Batch
from titans_trm.data.examples import ExampleSet, to_batch
from titans_trm.data.spec import TaskSpec


def parts(**changed):
    values = {
        "inputs": torch.zeros(2, 3, dtype=torch.int64),
        "targets": torch.zeros(2, 3, dtype=torch.int64),
        "puzzle_ids": torch.zeros(2, dtype=torch.int64),
        "indices": torch.arange(2),
    }
    return values | changed


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"inputs": torch.zeros(2, 3)}, "Batch.inputs has dtype torch.float32"),
        ({"inputs": torch.zeros(2, dtype=torch.int64)}, "not \\(B, N\\)"),
        ({"targets": torch.zeros(2, 4, dtype=torch.int64)}, "Batch.targets has shape"),
        ({"indices": torch.arange(3)}, "Batch.indices has shape \\(3,\\), not \\(2,\\)"),
    ],
)
def test_a_malformed_batch_says_which_part_is_wrong(changed, words):
    with pytest.raises(ValueError, match=words):
        Batch(**parts(**changed))


def test_concat_select_and_to_keep_examples_together():
    batch = example_set(6).batch([4, 1, 3])
    joined = Batch.concat([batch.select(torch.tensor([2])), batch.select(torch.tensor([True, True, False]))])
    assert joined.indices.tolist() == [3, 4, 1]
    assert torch.equal(joined.inputs[:, 0], joined.indices)
    assert torch.equal(joined.targets, joined.inputs + 1)
    assert len(joined.to("cpu")) == 3
    with pytest.raises(ValueError, match="no batches"):
        Batch.concat([])


def test_replace_puts_fresh_examples_in_the_named_rows_only():
    source = example_set(6)
    batch = source.batch([0, 1, 2])
    changed = batch.replace(torch.tensor([2, 0]), source.batch([5, 4]))
    assert changed.indices.tolist() == [4, 1, 5]
    assert torch.equal(changed.targets, changed.inputs + 1)
    assert batch.indices.tolist() == [0, 1, 2]


def test_a_batch_survives_its_state_dict():
    batch = example_set(6).batch([3, 1])
    restored = Batch.from_state_dict(batch.state_dict())
    for name, tensor in batch.state_dict().items():
        assert torch.equal(getattr(restored, name), tensor)


def test_pin_memory_asks_every_tensor():
    batch = example_set(2).batch([0, 1])
    if torch.cuda.is_available():
        assert batch.pin_memory().inputs.is_pinned()
    else:
        with pytest.raises(RuntimeError):
            batch.pin_memory()


def test_pad_targets_are_not_scored():
    batch = to_batch(torch.ones(1, 3, dtype=torch.uint8), torch.tensor([[0, 2, 3]], dtype=torch.uint8), torch.arange(1))
    assert batch.targets.tolist() == [[-100, 2, 3]]


def test_hashes_follow_content_and_order():
    examples = example_set(5)
    same = examples.select([0, 1, 2, 3, 4], name="other")
    assert (same.sha256, same.keys_sha256) == (examples.sha256, examples.keys_sha256)
    swapped = examples.select(torch.tensor([1, 0, 2, 3, 4]))
    assert swapped.sha256 != examples.sha256
    assert swapped.keys_sha256 != examples.keys_sha256
    assert swapped.renamed("x").name == "x"


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"inputs": torch.zeros(2, 3)}, "not uint8"),
        ({"targets": torch.zeros(2, 4, dtype=torch.uint8)}, "make them equal"),
        ({"keys": ["a"]}, "1 entries for 2 examples"),
    ],
)
def test_a_malformed_example_set_says_which_part_is_wrong(changed, words):
    tokens = torch.zeros(2, 3, dtype=torch.uint8)
    values = {"inputs": tokens, "targets": tokens, "keys": ["a", "b"], "sources": ["s", "s"], "ratings": torch.zeros(2)}
    with pytest.raises(ValueError, match=words):
        ExampleSet(name="train", **(values | changed))


@pytest.mark.parametrize(
    "values",
    [{"seq_len": 0}, {"vocab_size": 1}, {"ignore_index": 3}, {"grid_shape": (2, 3)}],
)
def test_an_impossible_task_spec_is_refused(values):
    with pytest.raises(ValueError, match=next(iter(values))):
        TaskSpec(**({"name": "t", "seq_len": 4, "vocab_size": 6} | values))
