"""Generate Sudoku puzzles with one solution: draw a solution grid, then dig cells out while it stays the only one.

All draws come from the raw output of a seeded PCG64, which NumPy keeps stable across versions (NEP 19), so a seed gives
the same puzzles everywhere.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from titans_trm.data.sudoku.geometry import Geometry
from titans_trm.data.sudoku.solver import all_solutions, solve

VERSION = 1  # raise when the same seed would give other puzzles
_BLOCK = 1024  # puzzles dug side by side


@dataclass(frozen=True)
class Puzzles:
    """Puzzles with exactly one solution."""

    puzzles: np.ndarray  # (M, cells) uint8, 0 = blank
    solutions: np.ndarray  # (M, cells) uint8
    ratings: np.ndarray  # (M,) int64 nodes the solver must branch at to prove uniqueness; 0 = singles suffice


def generate_puzzles(geometry: Geometry, clues: tuple[int, int], seed: int) -> Iterator[Puzzles]:
    """Yield blocks of puzzles whose number of clues is drawn evenly from `clues` (fewest, most), without end.

    A puzzle that cannot be dug down to its number keeps more clues; it is left out when that is above the most.
    Blocks may repeat puzzles of small sizes.
    """
    block = 0
    while True:
        bits = np.random.PCG64(np.random.SeedSequence([VERSION, geometry.size, seed, block]))
        solutions = _solution_grids(geometry, bits)
        low, high = clues
        target = low + (bits.random_raw(_BLOCK) % np.uint64(high - low + 1)).astype(np.int64)
        puzzles = _dig(solutions, _shuffles(bits, _BLOCK, geometry.cells), target, geometry)
        wanted = (puzzles > 0).sum(axis=1) <= high
        puzzles, solutions = puzzles[wanted], solutions[wanted]
        if len(puzzles):
            yield Puzzles(puzzles, solutions, solve(puzzles, geometry).branches)
        block += 1


def _solution_grids(geometry: Geometry, bits: np.random.PCG64) -> np.ndarray:
    """Return a block of random solution grids `(block, cells)`.

    4x4 and 6x6: uniform over all grids. 9x9: three random boxes along the diagonal (always completable), completed by
    the solver; every class of grids can come up, though not all are equally likely.
    """
    size = geometry.size
    if size != 9:
        templates = _first_row_ordered(geometry)
        chosen = templates[(bits.random_raw(_BLOCK) % np.uint64(len(templates))).astype(np.int64)]
        labels = (_shuffles(bits, _BLOCK, size) + 1).astype(np.uint8)
        return np.take_along_axis(labels, chosen.astype(np.int64) - 1, axis=1)
    grids = np.zeros((_BLOCK, size, size), dtype=np.uint8)
    for box in range(0, size, geometry.box_rows):
        digits = (_shuffles(bits, _BLOCK, size) + 1).astype(np.uint8)
        grids[:, box : box + geometry.box_rows, box : box + geometry.box_cols] = digits.reshape(-1, 3, 3)
    return solve(grids.reshape(_BLOCK, -1), geometry, limit=1).solutions


@lru_cache
def _first_row_ordered(geometry: Geometry) -> np.ndarray:
    """Return all grids whose first row is 1..size: 12 of 4x4, 39,168 of 6x6."""
    puzzle = np.zeros(geometry.cells, dtype=np.uint8)
    puzzle[: geometry.size] = np.arange(1, geometry.size + 1)
    return all_solutions(puzzle, geometry)


def _shuffles(bits: np.random.PCG64, rows: int, length: int) -> np.ndarray:
    """Return random permutations of 0..length-1, one per row."""
    return bits.random_raw(rows * length).reshape(rows, length).argsort(axis=1, kind="stable")


def _dig(solutions: np.ndarray, order: np.ndarray, target: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Blank cells in the given order while the solution stays unique and more than `target` clues remain.

    Cells are tried several at a time: a run that keeps uniqueness is gone at one stroke, one that breaks it is halved.
    """
    puzzles = solutions.copy()
    turn = order.argsort(axis=1)  # when each cell's turn comes
    at = np.zeros(len(solutions), dtype=np.int64)
    run = np.full(len(solutions), geometry.cells // 3)
    while True:
        spare = (puzzles > 0).sum(axis=1) - target
        active = np.nonzero((spare > 0) & (at < geometry.cells))[0]
        if not len(active):
            return puzzles
        length = np.minimum(run[active], np.minimum(spare[active], geometry.cells - at[active]))
        ahead = turn[active] - at[active, None]
        trial = np.where((ahead >= 0) & (ahead < length[:, None]), 0, puzzles[active]).astype(np.uint8)
        unique = solve(trial, geometry).counts == 1
        puzzles[active[unique]] = trial[unique]
        single = length == 1
        at[active] += np.where(unique, length, single)
        run[active] = np.where(unique, 2 * length, np.maximum(1, length // 2))
