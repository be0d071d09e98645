import numpy as np
import pytest
import torch
from sudoku_cases import CLUES, puzzles

from titans_trm.data.sudoku.config import SudokuConfig
from titans_trm.data.sudoku.generator import generate_puzzles
from titans_trm.data.sudoku.geometry import Geometry
from titans_trm.data.sudoku.solver import solve
from titans_trm.data.sudoku.task import SudokuTask
from titans_trm.errors import InputError


def tokens(size: int, count: int = 200) -> tuple[torch.Tensor, torch.Tensor]:
    block = puzzles(size, count)
    return torch.from_numpy(block.puzzles + 1), torch.from_numpy(block.solutions + 1)


@pytest.mark.parametrize("size", [4, 6, 9])
def test_the_spec_fits_the_tokens(size):
    spec = SudokuTask(size).spec
    inputs, targets = tokens(size)
    assert inputs.shape[1] == spec.seq_len == size * size
    assert spec.vocab_size == size + 2
    assert inputs.min() == 1
    assert targets.min() == 2
    assert targets.max() == size + 1


@pytest.mark.parametrize("size", [4, 6, 9])
def test_generated_puzzles_have_one_solution_and_clues_in_range(size):
    block = next(generate_puzzles(Geometry.of(size), CLUES[size], 5))
    clues = (block.puzzles > 0).sum(axis=1)
    assert CLUES[size][0] <= clues.min()
    assert clues.max() <= CLUES[size][1]
    assert len(np.unique(clues)) > 5
    result = solve(block.puzzles, Geometry.of(size))
    assert (result.counts == 1).all()
    assert np.array_equal(result.solutions, block.solutions)
    assert np.array_equal(result.branches, block.ratings)
    SudokuTask(size).validate(torch.from_numpy(block.puzzles + 1), torch.from_numpy(block.solutions + 1))


def test_blocks_and_seeds_differ():
    source = generate_puzzles(Geometry.of(6), CLUES[6], 0)
    first, second = next(source).puzzles, next(source).puzzles
    other = next(generate_puzzles(Geometry.of(6), CLUES[6], 1)).puzzles
    assert not np.array_equal(first[:50], second[:50])
    assert not np.array_equal(first[:50], other[:50])


# sha256 of 64 training examples of seed 0: the generator must give the same puzzles on every machine and version.
GOLDEN = {
    4: "9a0b4f6b1d5e5d77951ceb112e31a3e1485c9d67414e7cce321bfb9dd8cdb5e0",
    6: "eea36dacd44f47c8123043a9fb09978a54f4fb078148e7e01bb261acdf76afe2",
    9: "077a237eab607ba986069b84d8859e9fc37d5ff1771caf1edf8a1976a939d8ad",
}


@pytest.mark.parametrize("size", [4, 6, 9])
def test_a_seed_gives_the_same_puzzles_everywhere(size):
    config = SudokuConfig(size=size, source="generated", num_train=64, num_val=16, num_test=16, clues=CLUES[size])
    sets, _ = SudokuTask(size).generate(config)
    assert {name: len(examples) for name, examples in sets.items()} == {"train": 64, "val": 16, "test": 16}
    assert sets["train"].sha256 == GOLDEN[size]


def test_more_puzzles_than_exist_are_refused():
    config = SudokuConfig(size=4, source="generated", num_train=10_000_000, num_val=1, num_test=1, clues=(15, 15))
    with pytest.raises(InputError, match="more 4x4 puzzles of \\(15, 15\\) clues than can be found"):
        SudokuTask(4).generate(config)


@pytest.mark.parametrize("size", [4, 6, 9])
def test_augmented_puzzles_are_valid_symmetric_copies(size):
    task = SudokuTask(size)
    inputs, targets = tokens(size)
    moved_inputs, moved_targets = task.augment(inputs, targets, torch.Generator().manual_seed(0))
    assert moved_inputs.dtype == torch.uint8
    task.validate(moved_inputs, moved_targets)
    assert task.canonical_keys(moved_inputs, moved_targets) == task.canonical_keys(inputs, targets)
    assert (moved_inputs != inputs).any(dim=1).float().mean() > 0.95


@pytest.mark.parametrize("size", [4, 6, 9])
def test_augmentation_draws_every_kind_of_symmetry(size):
    task, geometry = SudokuTask(size), Geometry.of(size)
    inputs, targets = (t[:1].expand(2000, -1).contiguous() for t in tokens(size))
    moved, solved = task.augment(inputs, targets, torch.Generator().manual_seed(0))
    assert torch.equal((moved > 1).sum(dim=1), (inputs > 1).sum(dim=1))
    given = (moved > 1).view(-1, size, size)
    original = (inputs[0] > 1).view(size, size)
    rows_kept = (given.sum(dim=2).sort(dim=1).values == original.sum(dim=1).sort().values).all(dim=1)
    if geometry.square and not torch.equal(original.sum(0).sort().values, original.sum(1).sort().values):
        assert 0.4 < rows_kept.float().mean() < 0.6
    else:
        assert rows_kept.all()
    for cell in (0, size * size - 1):  # each digit as likely as any other
        share = torch.bincount(solved[:, cell].long(), minlength=size + 2)[2:] / 2000
        assert (share - 1 / size).abs().max() < 0.05


def test_augmentation_follows_its_generator():
    task = SudokuTask(9)
    pair = tokens(9)
    first, again, other = (task.augment(*pair, torch.Generator().manual_seed(seed))[0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_4x4_groups_are_puzzles_and_9x9_groups_are_solution_grids():
    inputs, targets = tokens(4)
    assert len(set(SudokuTask(4).canonical_keys(inputs, targets))) > 50
    inputs, targets = tokens(9, 20)
    easier = torch.where(torch.arange(81) == (inputs == 1).long().argmax(dim=1)[:, None], targets, inputs)
    assert not torch.equal(easier, inputs)
    assert SudokuTask(9).canonical_keys(easier, targets) == SudokuTask(9).canonical_keys(inputs, targets)


def test_validate_names_the_first_bad_example():
    task = SudokuTask(4)
    inputs, targets = tokens(4, 3)
    with pytest.raises(InputError, match="1 of 3 puzzles are bad; first example 1: the question has several"):
        task.validate(torch.where(torch.arange(3)[:, None] == 1, torch.ones_like(inputs), inputs), targets)
    with pytest.raises(InputError, match="3 of 3 .* first example 0: the answer has a blank"):
        task.validate(torch.ones_like(inputs), torch.ones_like(targets))
    with pytest.raises(InputError, match="token 0"):
        task.validate(torch.zeros_like(inputs), targets)
