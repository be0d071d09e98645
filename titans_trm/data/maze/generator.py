"""Generate mazes by the law of the public Maze-Hard set (after Lehnert et al., arXiv 2402.14083).

Every cell is a wall by its own chance, whose probability is drawn for each maze; no border, loops everywhere. A maze is
kept when its widest open region is wide enough, and S and G are a random pair of open cells that is far enough apart.
All draws come from the raw output of a seeded PCG64, so a seed gives the same mazes everywhere.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from titans_trm.data.maze.paths import distances, farthest, label_paths, pack, single
from titans_trm.data.synthetic import Draws

VERSION = 1  # raise when the same seed would give other mazes
_BLOCK = 4096  # grids drawn at once
_PAIRS = 100  # random pairs of S and G tried in a grid that is wide enough


@dataclass(frozen=True)
class Mazes:
    """Mazes with their labels."""

    walls: np.ndarray  # (M, n, n) bool
    starts: np.ndarray  # (M,) place of S in reading order
    goals: np.ndarray  # (M,) place of G
    paths: np.ndarray  # (M, n, n) bool, S and G included
    lengths: np.ndarray  # (M,) cells of the path, S and G included


def generate_mazes(size: int, walls: tuple[float, float], min_path: int, seed: int) -> Iterator[Mazes]:
    """Yield blocks of mazes whose shortest path has at least `min_path` cells, without end; a block may be empty."""
    block = 0
    while True:
        draws = Draws(VERSION, size, seed, block)
        share = walls[0] + (walls[1] - walls[0]) * draws.uniform(_BLOCK)
        is_wall = draws.uniform(_BLOCK, size, size) < share[:, None, None]
        wide = _wide_enough(is_wall, min_path - 1)
        yield _place(is_wall[wide], pack(~is_wall[wide]), min_path, draws)
        block += 1


def _wide_enough(is_wall: np.ndarray, steps: int) -> np.ndarray:
    """Return the grids (rows of `is_wall`) whose middle region has two cells at least `steps` apart.

    Double sweep: the cell farthest from any cell is an end of a nearly longest shortest path of its region. No two
    cells are farther apart than twice the first sweep's distance, which spares most grids the second sweep.
    """
    count, size, _ = is_wall.shape
    open_cells = pack(~is_wall)
    middle = size * size // 2 + size // 2
    place = (np.roll(is_wall.reshape(count, size * size), -middle, axis=1).argmin(axis=1) + middle) % (size * size)
    near, end = farthest(single(place, size) & open_cells, open_cells)
    rows = np.nonzero(2 * near >= steps)[0]
    far, _ = farthest(single(end[rows], size) & open_cells[rows], open_cells[rows])
    return rows[far >= steps]


def _place(is_wall: np.ndarray, open_cells: np.ndarray, min_path: int, draws: Draws) -> Mazes:
    """Return the grids that have, among random pairs of open cells, one far enough apart: the first such pair."""
    count, size = open_cells.shape
    starts, goals = np.full(count, -1), np.full(count, -1)
    pairs = draws.uniform(count, _PAIRS, 2)
    free = np.nonzero(~is_wall.reshape(count, size * size))
    first = np.searchsorted(free[0], np.arange(count))
    number = np.bincount(free[0], minlength=count)
    chosen = free[1][first[:, None, None] + (pairs * number[:, None, None]).astype(np.int64)]  # (count, pairs, 2)
    open_left = np.arange(count)
    for attempt in range(_PAIRS):
        a, b = chosen[open_left, attempt].T
        far = distances(single(a, size), single(b, size), open_cells[open_left]) >= min_path - 1
        starts[open_left[far]], goals[open_left[far]] = a[far], b[far]
        open_left = open_left[~far]
        if not len(open_left):
            break
    kept = np.nonzero(starts >= 0)[0]
    paths, lengths = label_paths(open_cells[kept], starts[kept], goals[kept])
    return Mazes(is_wall[kept], starts[kept], goals[kept], paths, lengths)
