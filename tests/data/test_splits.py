import numpy as np
import pytest
import torch
from sudoku_cases import example_set, puzzles, transform

from titans_trm.data.examples import ExampleSet
from titans_trm.data.splits import GroupAllocator, assert_disjoint, shared_groups, split_by_group, subset
from titans_trm.data.sudoku.geometry import Geometry
from titans_trm.data.sudoku.task import SudokuTask
from titans_trm.errors import InputError

SHARES = {"test": 0.1, "val": 0.1}


def test_shares_are_met_no_group_is_cut_and_no_row_is_lost():
    keys = [f"group{i % 300}" for i in range(1000)]
    rows = split_by_group(keys, SHARES, "salt")
    assert torch.cat(list(rows.values())).sort().values.tolist() == list(range(1000))
    groups = {name: {keys[row] for row in chosen.tolist()} for name, chosen in rows.items()}
    assert not groups["train"] & groups["val"] | groups["train"] & groups["test"] | groups["val"] & groups["test"]
    assert all(95 <= len(rows[name]) <= 100 for name in SHARES)


def test_a_split_depends_on_groups_and_salt_but_not_on_order():
    keys = [f"group{i}" for i in range(500)]
    first = {keys[row] for row in split_by_group(keys, SHARES, "a")["val"].tolist()}
    turned = keys[::-1]
    assert {turned[row] for row in split_by_group(turned, SHARES, "a")["val"].tolist()} == first
    assert {keys[row] for row in split_by_group(keys, SHARES, "b")["val"].tolist()} != first


def test_few_large_groups_never_overfill_a_share():
    keys = [f"group{i % 49}" for i in range(4900)]
    rows = split_by_group(keys, SHARES, "salt")
    assert len(rows["val"]) == len(rows["test"]) == 400
    with pytest.raises(InputError, match="leaves test empty"):
        split_by_group(["only"] * 10, SHARES, "salt")


def test_the_allocator_fills_quotas_exactly_and_keeps_groups_together():
    quotas = {"val": 20, "test": 20, "train": 160}
    allocator, home = GroupAllocator(quotas), {}
    rng = np.random.default_rng(0)
    drawn = 0
    while not allocator.complete:
        key, drawn = f"group{rng.integers(49)}", drawn + 1
        split = allocator.assign(key)
        if split is not None:
            assert home.setdefault(key, split) == split
    assert allocator.filled == quotas
    assert allocator.surplus == drawn - 200


def test_subsets_nest_and_keep_their_order():
    examples = example_set(100)
    small, large = (subset(examples, n, "s").ratings.tolist() for n in (10, 30))
    assert set(small) < set(large)
    assert large == sorted(large)
    assert subset(examples, 10, "t").ratings.tolist() != small
    assert subset(examples, 1000, "s") is examples


@pytest.mark.parametrize("size", [4, 6, 9])
def test_a_planted_symmetric_copy_in_another_split_is_caught(size):
    geometry, task = Geometry.of(size), SudokuTask(size)
    block = puzzles(size, 12)

    def examples(name: str, pairs: list[list[np.ndarray]]) -> ExampleSet:
        inputs, targets = (torch.from_numpy(np.stack(part) + 1) for part in zip(*pairs, strict=True))
        keys = task.canonical_keys(inputs, targets)
        return ExampleSet(name, inputs, targets, keys, ["own"] * len(keys), torch.zeros(len(keys)))

    pairs = [[p, s] for p, s in zip(block.puzzles, block.solutions, strict=True)]
    train = examples("train", pairs[:-1])
    planted = examples("test", [transform(pairs[3], geometry, np.random.default_rng(2))])
    with pytest.raises(InputError, match="train and test share 1 groups") as caught:
        assert_disjoint(train, planted)
    assert "row 0 of test" in str(caught.value)


def test_disjoint_sets_pass():
    first, second = example_set(5), example_set(5, "test", [f"other{i}" for i in range(5)])
    assert_disjoint(first, second)
    assert shared_groups(first, second) == set()
