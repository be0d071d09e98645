"""Shortest paths through many mazes at once, a row of cells in the bits of one number.

The label rule of the public Maze-Hard set: breadth-first search from S, neighbours in the order down, left, right, up,
first discoverer kept as parent. A queue serves cells of one distance in the order of the paths it found them by, so the
path kept is the first, in that order of directions, of all shortest paths from S to G. It is walked here directly: from
S, always to the first neighbour that is one step nearer to G.

M mazes of n x n cells; masks are (M, n) uint64, bit c of entry r being the cell in row r, column c.
"""

import numpy as np

_ONE = np.uint64(1)


def pack(cells: np.ndarray) -> np.ndarray:
    """Return boolean cells (M, n, n) as row masks (M, n)."""
    bits = _ONE << np.arange(cells.shape[2], dtype=np.uint64)
    return np.where(cells, bits, np.uint64(0)).sum(axis=2, dtype=np.uint64)


def unpack(masks: np.ndarray, size: int) -> np.ndarray:
    """Return row masks (M, n) as boolean cells (M, n, n)."""
    return (masks[:, :, None] >> np.arange(size, dtype=np.uint64)) & _ONE != 0


def single(places: np.ndarray, size: int) -> np.ndarray:
    """Return masks (M, n) with the one cell at `places` (M,), counted in reading order."""
    masks = np.zeros((len(places), size), dtype=np.uint64)
    rows, columns = np.divmod(places, size)
    masks[np.arange(len(places)), rows] = _ONE << columns.astype(np.uint64)
    return masks


def levels(start: np.ndarray, open_cells: np.ndarray, most: int | None = None) -> np.ndarray:
    """Return the cells (L, M, n) at each distance 0, 1, ... from `start` (M, n) through `open_cells` (M, n).

    `most` stops after that distance.
    """
    found, seen, frontier = [start], start.copy(), start
    while most is None or len(found) <= most:
        frontier = _grown(frontier) & open_cells & ~seen
        if not frontier.any():
            break
        seen |= frontier
        found.append(frontier)
    return np.stack(found)


def farthest(start: np.ndarray, open_cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the greatest distance (M,) from `start` (M, n), and one cell there (M,) in reading order."""
    size = start.shape[1]
    distance, last = np.zeros(len(start), dtype=np.int64), start.copy()
    seen, frontier, rows = start.copy(), start, np.arange(len(start))
    while True:
        frontier = _grown(frontier) & open_cells[rows] & ~seen
        alive = frontier.any(axis=1)
        if not alive.any():
            break
        rows, frontier, seen = rows[alive], frontier[alive], seen[alive]
        seen |= frontier
        distance[rows] += 1
        last[rows] = frontier
    return distance, unpack(last, size).reshape(len(start), size * size).argmax(axis=1)


def label_paths(open_cells: np.ndarray, starts: np.ndarray, goals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the paths of the label rule.

    Args:
        open_cells: (M, n) masks of cells that are no wall, S and G included.
        starts: (M,) place of S in reading order.
        goals: (M,) place of G.

    Returns:
        Boolean cells (M, n, n) of the path, S and G included, and its number of cells (M,), 0 where there is no path.
    """
    count, size = open_cells.shape
    cells = np.zeros((count, size, size), dtype=bool)
    from_goal = levels(single(goals, size), open_cells)
    start_masks = single(starts, size)
    hits = (from_goal & start_masks).any(axis=2)  # (L, M)
    lengths = np.where(hits.any(axis=0), hits.argmax(axis=0) + 1, 0)
    left = np.where(lengths > 0, lengths - 1, -1)  # steps to go
    rows, columns = np.divmod(starts, size)
    walking = np.nonzero(left >= 0)[0]
    while len(walking):
        cells[walking, rows[walking], columns[walking]] = True
        walking = walking[left[walking] > 0]
        left[walking] -= 1
        _step(walking, rows, columns, from_goal[left[walking], walking])
    return cells, lengths


def distances(start: np.ndarray, goal: np.ndarray, open_cells: np.ndarray) -> np.ndarray:
    """Return the steps (M,) from `start` to `goal` (masks of one cell) through `open_cells`; -1: there is no way."""
    hits = (levels(start, open_cells) & goal).any(axis=2)
    return np.where(hits.any(axis=0), hits.argmax(axis=0), -1)


def is_shortest_path(path: np.ndarray, open_cells: np.ndarray, starts: np.ndarray, goals: np.ndarray) -> np.ndarray:
    """Return which `path` (M, n, n), S and G included, goes through open cells and is as short as any, (M,) bool."""
    count, size = open_cells.shape
    masks = pack(path)
    inside = ~(masks & ~open_cells).any(axis=1)
    start, goal = single(starts, size), single(goals, size)
    shortest = distances(start, goal, open_cells)
    along = distances(start, goal, masks | start)
    # Connected with exactly as many cells as a shortest path has: then there is none beside the path.
    return inside & (along >= 0) & (along == shortest) & (path.reshape(count, size * size).sum(axis=1) == shortest + 1)


def _grown(cells: np.ndarray) -> np.ndarray:
    """Return the neighbours of cells (M, n); bits beyond the last column are for the caller's mask to cut."""
    grown = (cells << _ONE) | (cells >> _ONE)
    grown[:, 1:] |= cells[:, :-1]
    grown[:, :-1] |= cells[:, 1:]
    return grown


def _step(walking: np.ndarray, rows: np.ndarray, columns: np.ndarray, nearer: np.ndarray) -> None:
    """Move each of `walking` to the first neighbour, down, left, right, up, that is in its mask `nearer` (W, n)."""
    size = nearer.shape[1]
    todo = np.ones(len(walking), dtype=bool)
    at_row, at_column = rows[walking], columns[walking]
    for down, right in ((1, 0), (0, -1), (0, 1), (-1, 0)):
        row, column = at_row + down, at_column + right
        legal = todo & (row >= 0) & (row < size) & (column >= 0) & (column < size)
        bit = nearer[np.arange(len(walking)), row.clip(0, size - 1)] >> column.clip(0, size - 1).astype(np.uint64)
        go = legal & (bit & _ONE != 0)
        rows[walking[go]], columns[walking[go]] = row[go], column[go]
        todo &= ~go
