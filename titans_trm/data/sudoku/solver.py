"""Solve many Sudoku puzzles at once: bitmask candidates, naked and hidden singles, fewest candidates first.

All puzzles of a batch are searched side by side in numpy. A node of the search is one column of a `(cells, M)` array of
candidate masks (bit d-1 set = digit d possible); one round makes one pass of singles over the top of the stack, then
drops contradictions, counts solutions, and splits what singles leave open in two.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from titans_trm.data.sudoku.geometry import Geometry

Masks = np.ndarray  # (cells, M) uint16 candidate masks
_ROUND_NODES = 2048  # nodes of one round: the masks of a 9x9 round (330 kB) stay in the second-level cache
_SETTLED = 255  # sort key of a cell with one candidate: never chosen to branch on


@dataclass(frozen=True)
class SolveResult:
    """What a search found, one row per puzzle."""

    counts: np.ndarray  # (M,) int64 solutions found, at most the limit
    solutions: np.ndarray  # (M, cells) uint8 the first solution found, 0 where there is none
    branches: np.ndarray  # (M,) int64 nodes that singles could not settle: a measure of difficulty


def solve(
    puzzles: np.ndarray,
    geometry: Geometry,
    *,
    limit: int = 2,
    progress: Callable[[int], None] | None = None,
) -> SolveResult:
    """Count the solutions of each puzzle, up to `limit`.

    `puzzles` is `(M, cells)` with digits 1..size and 0 for a blank. `progress` is called with the number of puzzles
    that are settled, after each batch. A puzzle with fewer than `limit` solutions is searched to the end, so `branches`
    depends on the puzzle alone.
    """
    result = SolveResult(
        counts=np.zeros(len(puzzles), dtype=np.int64),
        solutions=np.zeros((len(puzzles), geometry.cells), dtype=np.uint8),
        branches=np.zeros(len(puzzles), dtype=np.int64),
    )
    for start in range(0, len(puzzles), _ROUND_NODES):
        part = slice(start, start + _ROUND_NODES)
        counts, solutions = result.counts[part], result.solutions[part]
        for owners, grids in _search(puzzles[part], geometry, limit, counts, result.branches[part]):
            fresh = ~solutions[owners].any(axis=1)
            solutions[owners[fresh]] = grids[fresh]
        np.minimum(counts, limit, out=counts)
        if progress is not None:
            progress(min(start + _ROUND_NODES, len(puzzles)))
    return result


def all_solutions(puzzle: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Return every solution of one `(cells,)` puzzle, sorted, as `(S, cells)` uint8."""
    counts, branches = np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64)
    no_limit = np.iinfo(np.int64).max
    found = [grids for _, grids in _search(puzzle[None], geometry, no_limit, counts, branches)]
    if not found:
        return np.zeros((0, geometry.cells), dtype=np.uint8)
    return np.unique(np.concatenate(found), axis=0)


def _search(
    puzzles: np.ndarray, geometry: Geometry, limit: int, counts: np.ndarray, branches: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (owner rows, solved grids) while `counts` and `branches` are updated in place."""
    full = (1 << geometry.size) - 1
    digits = puzzles.T.astype(np.uint16)
    masks = np.where(digits > 0, np.uint16(1) << np.maximum(digits, 1) - np.uint16(1), np.uint16(full)).astype(
        np.uint16
    )
    stack: list[tuple[Masks, np.ndarray]] = [(masks, np.arange(len(puzzles)))]
    while stack:
        masks, owners = _pop(stack, counts, limit)
        if not len(owners):
            continue
        new, alive = _singles(masks, geometry)
        changed = (new != masks).any(axis=0)
        if changed.any():  # a grid is a solution only after a pass that changes nothing has checked all its units
            again = alive & changed
            stack.append((new.compress(again, axis=1), owners[again]))
        single = (new & (new - np.uint16(1))) == 0
        solved = alive & ~changed & single.all(axis=0)
        if solved.any():
            np.add.at(counts, owners[solved], 1)
            yield owners[solved], (np.bitwise_count(new[:, solved] - np.uint16(1)) + 1).astype(np.uint8).T
        stuck = alive & ~changed & ~solved
        if stuck.any():
            np.add.at(branches, owners[stuck], 1)
            first, rest = _branch(new.compress(stuck, axis=1), single.compress(stuck, axis=1))
            stack += [(rest, owners[stuck]), (first, owners[stuck])]


def _pop(stack: list[tuple[Masks, np.ndarray]], counts: np.ndarray, limit: int) -> tuple[Masks, np.ndarray]:
    """Take up to a round of nodes from the top of the stack, without those whose puzzle is decided."""
    taken: list[tuple[Masks, np.ndarray]] = []
    room = _ROUND_NODES
    while stack and room > 0:
        masks, owners = stack.pop()
        undecided = counts[owners] < limit
        if not undecided.all():
            masks, owners = masks.compress(undecided, axis=1), owners[undecided]
        if len(owners) > room:
            stack.append((masks[:, :-room], owners[:-room]))
            masks, owners = np.ascontiguousarray(masks[:, -room:]), owners[-room:]
        taken.append((masks, owners))
        room -= len(owners)
    if len(taken) == 1:
        return np.ascontiguousarray(taken[0][0]), taken[0][1]
    return np.concatenate([m for m, _ in taken], axis=1), np.concatenate([o for _, o in taken])


def _branch(masks: Masks, single: np.ndarray) -> tuple[Masks, Masks]:
    """Split each node at its cell of fewest candidates: the lowest digit, and all the others."""
    keys = np.bitwise_count(masks)
    keys[single] = _SETTLED
    cell, node = keys.argmin(axis=0), np.arange(masks.shape[1])
    chosen = masks[cell, node]
    lowest = chosen & (~chosen + np.uint16(1))
    first, rest = masks.copy(), masks.copy()
    first[cell, node] = lowest
    rest[cell, node] = chosen ^ lowest
    return first, rest


def _singles(masks: Masks, geometry: Geometry) -> tuple[Masks, np.ndarray]:
    """Make one pass of naked, then hidden singles. Return the new masks and which nodes hold no contradiction."""
    full = np.uint16((1 << geometry.size) - 1)
    settled = np.where((masks & (masks - np.uint16(1))) == 0, masks, np.uint16(0))
    seen, alive = np.zeros(masks.shape, dtype=np.uint16), np.ones(masks.shape[1], dtype=bool)
    for view in _units(geometry):
        once, twice = _tally(view(settled))
        alive &= ~twice.any(axis=(0, 1, 2, 3))  # one digit settled twice in a unit
        view(seen)[...] |= once
    new = np.where(settled > 0, masks, masks & ~seen)
    hidden = np.zeros(masks.shape, dtype=np.uint16)
    for view in _units(geometry):
        once, twice = _tally(view(new))
        alive &= (once == full).all(axis=(0, 1, 2, 3))  # a digit has no place left in a unit
        view(hidden)[...] |= once & ~twice
    hidden &= new
    new = np.where(hidden > 0, hidden, new)
    return new, alive & (new > 0).all(axis=0)


def _units(geometry: Geometry) -> list[Callable[[Masks], np.ndarray]]:
    """Return views of contiguous `(cells, M)` masks as `(units, units', rows, columns, M)` for rows, columns and boxes.

    The cells of one unit lie along axes 2 and 3.
    """
    size, rows, cols = geometry.size, geometry.box_rows, geometry.box_cols
    return [
        lambda m: m.reshape(size, 1, 1, size, -1),
        lambda m: m.reshape(1, size, 1, size, -1).transpose(0, 3, 1, 2, 4).swapaxes(2, 3),
        lambda m: m.reshape(geometry.bands, rows, geometry.stacks, cols, -1).transpose(0, 2, 1, 3, 4),
    ]


def _tally(unit: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the digits that occur at least once, and at least twice, in each unit: `(units, units', 1, 1, M)`."""
    cells = [unit[:, :, i, j] for i in range(unit.shape[2]) for j in range(unit.shape[3])]
    once, twice = cells[0].copy(), np.zeros(cells[0].shape, dtype=np.uint16)
    for cell in cells[1:]:
        twice |= once & cell
        once |= cell
    return once[:, :, None, None], twice[:, :, None, None]
