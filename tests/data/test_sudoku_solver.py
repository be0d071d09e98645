import numpy as np
import pytest
from sudoku_cases import ANSWER, QUESTION, puzzles

from titans_trm.data.sudoku.geometry import Geometry
from titans_trm.data.sudoku.rules import find_faults
from titans_trm.data.sudoku.solver import all_solutions, solve


def digits(grid: str) -> np.ndarray:
    return np.array([0 if c == "." else int(c) for c in grid], dtype=np.uint8)


def brute_force(puzzle: np.ndarray, geometry: Geometry) -> int:
    """Count solutions by plain backtracking: the oracle."""
    size, rows, cols = geometry.size, geometry.box_rows, geometry.box_cols
    grid = puzzle.reshape(size, size).copy()
    empty = np.argwhere(grid == 0)
    if not len(empty):
        boxes = grid.reshape(size // rows, rows, size // cols, cols).swapaxes(1, 2).reshape(size, size)
        return int(all(len(set(unit)) == size for units in (grid, grid.T, boxes) for unit in units))
    r, c = empty[0]
    box = grid[r // rows * rows : r // rows * rows + rows, c // cols * cols : c // cols * cols + cols]
    used = set(grid[r]) | set(grid[:, c]) | set(box.flat)
    total = 0
    for digit in set(range(1, size + 1)) - used:
        grid[r, c] = digit
        total += brute_force(grid.reshape(-1), geometry)
    return total


def test_a_published_puzzle_is_solved():
    result = solve(digits(QUESTION)[None], Geometry.of(9))
    assert result.counts.tolist() == [1]
    assert result.solutions[0].tolist() == digits(ANSWER).tolist()


@pytest.mark.parametrize(("size", "blanks"), [(4, 10), (6, 22)])
def test_solution_counts_equal_those_of_plain_backtracking(size, blanks):
    geometry, rng = Geometry.of(size), np.random.default_rng(0)
    grids = puzzles(size, 30).solutions.copy()
    for grid in grids:
        grid[rng.permutation(geometry.cells)[:blanks]] = 0
        if rng.random() < 0.3:  # some with a clue that is wrong
            cell = rng.choice(np.nonzero(grid)[0])
            grid[cell] = grid[cell] % size + 1
    expected = np.array([brute_force(grid, geometry) for grid in grids])
    limit = int(expected.max()) + 1
    assert {0, 1} < set(expected.tolist())
    assert solve(grids, geometry, limit=limit).counts.tolist() == expected.tolist()
    assert solve(grids, geometry).counts.tolist() == np.minimum(expected, 2).tolist()


def test_contradictory_clues_have_no_solution():
    geometry = Geometry.of(9)
    twice = np.zeros(81, dtype=np.uint8)
    twice[[0, 8]] = 5
    nowhere = np.zeros((9, 9), dtype=np.uint8)
    nowhere[0, :8] = np.arange(1, 9)
    nowhere[5, 8] = 9
    result = solve(np.stack([twice, nowhere.reshape(-1)]), geometry)
    assert result.counts.tolist() == [0, 0]
    assert not result.solutions.any()


def test_an_empty_grid_has_several_and_the_first_is_valid():
    for size in (4, 6, 9):
        geometry = Geometry.of(size)
        result = solve(np.zeros((3, geometry.cells), dtype=np.uint8), geometry)
        assert result.counts.tolist() == [2, 2, 2]
        assert find_faults(result.solutions, result.solutions, geometry) == {}


def test_all_grids_of_4x4_and_6x6_are_found():
    # 288 grids of 4x4; 28,200,960 of 6x6, a 720th of them with the first row in order
    assert len(all_solutions(np.zeros(16, dtype=np.uint8), Geometry.of(4))) == 288
    ordered = np.zeros(36, dtype=np.uint8)
    ordered[:6] = np.arange(1, 7)
    assert len(all_solutions(ordered, Geometry.of(6))) * 720 == 28_200_960
    blocked = np.zeros(16, dtype=np.uint8)
    blocked[[0, 1]] = 1
    assert all_solutions(blocked, Geometry.of(4)).shape == (0, 16)


def test_branches_do_not_depend_on_the_company_a_puzzle_is_in():
    block = puzzles(9, 60)
    together = solve(block.puzzles, Geometry.of(9)).branches
    alone = [int(solve(puzzle[None], Geometry.of(9)).branches[0]) for puzzle in block.puzzles[:20]]
    assert together[:20].tolist() == alone


def test_progress_tells_how_many_are_settled():
    told: list[int] = []
    solve(np.repeat(digits(QUESTION)[None], 2050, axis=0), Geometry.of(9), progress=told.append)
    assert told == [2048, 2050]


def test_an_unknown_size_is_refused():
    with pytest.raises(ValueError, match="size=5"):
        Geometry.of(5)
