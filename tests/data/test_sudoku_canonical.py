import hashlib

import numpy as np
import pytest
from sudoku_cases import puzzles, transform

from titans_trm.data.sudoku.canonical import canonical_form
from titans_trm.data.sudoku.geometry import Geometry
from titans_trm.data.sudoku.solver import all_solutions


def every_image(geometry: Geometry):
    """Yield all symmetries of a small Sudoku as orders of cells: the oracle, by brute force."""
    from itertools import permutations, product

    def orders(groups: int, lines: int):
        for outer in permutations(range(groups)):
            for inner in product(list(permutations(range(lines))), repeat=groups):
                yield [g * lines + i for g, order in zip(outer, inner, strict=True) for i in order]

    cells = np.arange(geometry.cells).reshape(geometry.size, geometry.size)
    for rows in orders(geometry.bands, geometry.box_rows):
        for columns in orders(geometry.stacks, geometry.box_cols):
            image = cells[rows][:, columns]
            yield image.reshape(-1)
            if geometry.square:
                yield image.T.reshape(-1)


def relabelled(grid: np.ndarray, size: int) -> list[int]:
    labels = np.zeros(size + 1, dtype=int)
    labels[grid[:size]] = np.arange(1, size + 1)
    return labels[grid].tolist()


@pytest.mark.parametrize("size", [4, 6])
def test_the_canonical_grid_is_the_least_of_all_images(size):
    geometry = Geometry.of(size)
    grids = puzzles(size, 5).solutions
    _, canonical = canonical_form(grids, grids, geometry)
    for grid, form in zip(grids, canonical, strict=True):
        assert form.tolist() == min(relabelled(grid[image], size) for image in every_image(geometry))


@pytest.mark.parametrize("size", [4, 6, 9])
def test_all_images_of_a_puzzle_have_one_canonical_form(size):
    geometry, rng = Geometry.of(size), np.random.default_rng(1)
    block = puzzles(size, 50)
    expected = canonical_form(block.puzzles, block.solutions, geometry)
    for _ in range(10):
        pairs = [transform([p, s], geometry, rng) for p, s in zip(block.puzzles, block.solutions, strict=True)]
        moved = canonical_form(np.stack([p for p, _ in pairs]), np.stack([s for _, s in pairs]), geometry)
        assert np.array_equal(moved[0], expected[0])
        assert np.array_equal(moved[1], expected[1])


@pytest.mark.parametrize("size", [4, 6, 9])
def test_the_canonical_puzzle_is_part_of_the_canonical_grid_and_keeps_its_clues(size):
    block = puzzles(size, 100)
    clues, grids = canonical_form(block.puzzles, block.solutions, Geometry.of(size))
    assert np.array_equal(clues[clues > 0], grids[clues > 0])
    assert np.array_equal((clues > 0).sum(axis=1), (block.puzzles > 0).sum(axis=1))


def test_4x4_has_2_grids_and_6x6_has_49_up_to_symmetry():
    grids = all_solutions(np.zeros(16, dtype=np.uint8), Geometry.of(4))
    _, forms = canonical_form(grids, grids, Geometry.of(4))
    assert sorted(np.unique(forms, axis=0, return_counts=True)[1].tolist()) == [96, 192]
    ordered = np.zeros(36, dtype=np.uint8)
    ordered[:6] = np.arange(1, 7)
    grids = all_solutions(ordered, Geometry.of(6))[::4]  # the rarest class is 0.12 % of them
    _, forms = canonical_form(grids, grids, Geometry.of(6))
    assert len(np.unique(forms, axis=0)) == 49


def test_different_9x9_grids_have_different_forms():
    block = puzzles(9, 200)
    _, forms = canonical_form(block.puzzles, block.solutions, Geometry.of(9))
    assert len({hashlib.sha256(form.tobytes()).digest() for form in forms}) == 200
