"""Check Sudoku puzzles and answers against the rules, all rows at once."""

import numpy as np

from titans_trm.data.sudoku.geometry import Geometry

_UNIT_NAMES = ("row", "column", "box")


def find_faults(puzzles: np.ndarray, solutions: np.ndarray, geometry: Geometry) -> dict[int, str]:
    """Return {row: reason} for the rows that break a rule, in order of rows.

    Both arrays are `(M, cells)` with digits 0..size, 0 = blank. Checked: no digit twice in a unit of the puzzle, the
    answer is a valid grid, and the answer keeps every clue. Uniqueness of the solution is for the solver to check.
    """
    faults: dict[int, str] = {}
    for row in np.nonzero(_repeats(puzzles, geometry))[0]:
        faults[int(row)] = f"the question has {_first_repeat(puzzles[row], geometry)}"
    for row in np.nonzero((puzzles > 0) & (puzzles != solutions))[0]:
        cell = int(np.nonzero((puzzles[row] > 0) & (puzzles[row] != solutions[row]))[0][0])
        place = f"row {cell // geometry.size + 1}, column {cell % geometry.size + 1}"
        reason = f"the answer has {solutions[row, cell]} at {place}, where the question has {puzzles[row, cell]}"
        faults.setdefault(int(row), reason)
    for row in np.nonzero((solutions == 0).any(axis=1))[0]:
        faults.setdefault(int(row), "the answer has a blank cell")
    for row in np.nonzero(_repeats(solutions, geometry))[0]:
        reason = f"the answer is not a valid grid: {_first_repeat(solutions[row], geometry)}"
        faults.setdefault(int(row), reason)
    return dict(sorted(faults.items()))


def _repeats(grids: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Return which `(M, cells)` grids hold a digit twice in a row, column or box."""
    bits = np.where(grids > 0, np.left_shift(1, grids, dtype=np.int32), 0)
    repeats = np.zeros(len(grids), dtype=bool)
    for units in _units(bits, geometry):
        repeats |= (units.sum(axis=2) != np.bitwise_or.reduce(units, axis=2)).any(axis=1)
    return repeats


def _first_repeat(grid: np.ndarray, geometry: Geometry) -> str:
    """Say which digit of a `(cells,)` grid comes twice, and where."""
    for name, units in zip(_UNIT_NAMES, _units(grid[None], geometry), strict=True):
        for number, unit in enumerate(units[0]):
            digits, counts = np.unique(unit[unit > 0], return_counts=True)
            if (counts > 1).any():
                return f"{digits[counts > 1][0]} twice in {name} {number + 1}"
    raise ValueError(f"grid={grid.tolist()} repeats no digit; pass one that `_repeats` found.")


def _units(grids: np.ndarray, geometry: Geometry) -> list[np.ndarray]:
    """Return rows, columns and boxes of `(M, cells)` grids, each as `(M, size, size)`."""
    size, rows, cols = geometry.size, geometry.box_rows, geometry.box_cols
    square = grids.reshape(-1, size, size)
    boxes = square.reshape(-1, geometry.bands, rows, geometry.stacks, cols).swapaxes(2, 3).reshape(-1, size, size)
    return [square, square.swapaxes(1, 2), boxes]
