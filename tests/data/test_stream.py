import pytest
import torch
from sudoku_cases import example_set

from titans_trm.data.batch import Batch
from titans_trm.data.stream import ExampleStream


def shift(inputs, targets, generator):
    """Stand-in for a symmetry whose draw can be read back from the batch."""
    drawn = torch.randint(0, 100, (len(inputs), 1), generator=generator, dtype=torch.uint8)
    return inputs + drawn, targets + drawn


def stream(count=10, augment=shift, **options):
    return ExampleStream(example_set(count), **({"seed": 3, "augment": augment, "block_size": 7} | options))


def test_every_example_comes_exactly_once_per_epoch_in_changing_order():
    source = stream()
    epochs = [source.take(10).indices.tolist() for _ in range(3)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert source.epoch == 3.0


def test_batches_do_not_depend_on_how_they_are_cut():
    whole = stream().take(40)
    source = stream()
    pieces = Batch.concat([source.take(n) for n in (1, 2, 30, 7)])
    assert torch.equal(whole.inputs, pieces.inputs)
    assert torch.equal(whole.targets, pieces.targets)
    assert torch.equal(whole.indices, pieces.indices)


def test_a_resumed_stream_equals_the_uninterrupted_one():
    source = stream()
    source.take(13)
    state = source.state_dict()
    expected = source.take(25)
    resumed = stream()
    resumed.load_state_dict(state)
    got = resumed.take(25)
    assert torch.equal(expected.inputs, got.inputs)
    assert torch.equal(expected.indices, got.indices)
    assert resumed.position == source.position == 38


def test_any_stretch_is_read_without_moving():
    source = stream()
    source.take(5)
    ahead = source.read(11, 20)
    assert source.position == 5
    whole = stream().take(40)
    assert torch.equal(ahead.inputs, whole.inputs[11:31]) and torch.equal(ahead.indices, whole.indices[11:31])


def test_an_example_is_augmented_anew_each_epoch_and_targets_with_it():
    source = stream(count=4)
    batch = source.take(80)
    assert torch.equal(batch.targets, batch.inputs + 1)
    draws = (batch.inputs[:, 0] - batch.indices)[batch.indices == 2]
    assert len(draws) == 20
    assert draws.unique().numel() > 10


def test_other_seeds_give_other_orders_and_no_augmentation_leaves_examples_alone():
    plain = stream(augment=None).take(30)
    assert torch.equal(plain.inputs[:, 0], plain.indices)
    assert plain.indices.tolist() != stream(augment=None, seed=4).take(30).indices.tolist()


WEIGHTS = torch.tensor([0.5] * 8 + [3.0] * 2, dtype=torch.float64)


def test_a_weighted_epoch_serves_each_example_as_often_as_its_weight_says():
    source = stream(augment=None, weights=WEIGHTS)
    counts = torch.stack([torch.bincount(source.take(10).indices, minlength=10) for _ in range(200)])
    assert ((counts >= WEIGHTS.floor()) & (counts <= WEIGHTS.ceil())).all()
    torch.testing.assert_close(counts.double().mean(0), WEIGHTS, atol=0.12, rtol=0)
    assert counts.sum(1).eq(10).all()


def test_a_weighted_stream_resumes_exactly():
    whole = stream(weights=WEIGHTS).take(60)
    source = stream(weights=WEIGHTS)
    source.take(23)
    resumed = stream(weights=WEIGHTS)
    resumed.load_state_dict(source.state_dict())
    assert torch.equal(resumed.take(37).inputs, whole.inputs[23:])


@pytest.mark.parametrize("weights", [torch.ones(9), torch.zeros(10)])
def test_weights_that_do_not_fit_are_refused(weights):
    with pytest.raises(ValueError, match="do not fit 10 examples"):
        stream(weights=weights)


@pytest.mark.parametrize(
    "other", [{"weights": WEIGHTS}, {"seed": 4}, {"count": 11}, {"augment": None}, {"block_size": 8}]
)
def test_a_position_of_another_stream_is_refused(other):
    state = stream().state_dict()
    with pytest.raises(ValueError, match="resume with the same data"):
        stream(**other).load_state_dict(state)


@pytest.mark.parametrize("options", [{"count": 0}, {"block_size": 0}])
def test_an_impossible_stream_is_refused(options):
    with pytest.raises(ValueError, match="at least 1|block_size=0"):
        stream(**options)


def test_taking_nothing_is_refused():
    with pytest.raises(ValueError, match="count=0"):
        stream().take(0)
