"""The least of all grids that are the same Sudoku: the key that keeps symmetric copies in one split.

Symmetries of a Sudoku: any relabelling of digits, any order of bands, of rows in a band, of stacks and of columns in a
stack, and (with square boxes) transposition. Of all images of a solution grid, the least one read row by row is the
canonical grid; its first row is always 1, 2, ..., size. All images need not be tried. Two rows r, s of a band, as rows
1 and 2, define a permutation of columns (where does row r hold the digit of row s?), and the least row 2 they can give
over all orders of stacks and columns is the least conjugate of that permutation. A table of conjugacy classes therefore
names the few images that can be least, and only those are built.
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations, product

import numpy as np

from titans_trm.data.sudoku.geometry import Geometry

_GRIDS_AT_ONCE = 4096  # bounds memory: some 10 images of 81 cells are built per 9x9 grid


def canonical_form(puzzles: np.ndarray, solutions: np.ndarray, geometry: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """Return the canonical puzzles and canonical solution grids, both `(M, cells)` uint8.

    `puzzles` (0 = blank) and `solutions` are `(M, cells)`, solutions being valid grids. Of the images of a puzzle whose
    solution is the canonical grid, the canonical puzzle is the one whose clues come last in reading order.
    """
    shape = (len(solutions), geometry.cells)
    forms = np.zeros(shape, dtype=np.uint8), np.zeros(shape, dtype=np.uint8)
    for start in range(0, len(solutions), _GRIDS_AT_ONCE):
        part = slice(start, start + _GRIDS_AT_ONCE)
        clues, grids = _canonical_block(puzzles[part] > 0, solutions[part], geometry)
        forms[0][part], forms[1][part] = np.where(clues, grids, 0), grids
    return forms


@dataclass(frozen=True)
class _Images:
    """Candidate images: grid, its transpose or not, the row that comes first, the order of columns."""

    owner: np.ndarray  # (K,) sorted
    version: np.ndarray  # (K,) 1 = transposed
    first_row: np.ndarray  # (K,)
    columns: np.ndarray  # (K, size) image column -> grid column

    def keep(self, rows: np.ndarray) -> "_Images":
        return _Images(self.owner[rows], self.version[rows], self.first_row[rows], self.columns[rows])


def _canonical_block(clues: np.ndarray, solutions: np.ndarray, geometry: Geometry) -> tuple[np.ndarray, np.ndarray]:
    size = geometry.size
    grids = _versions(solutions, geometry) - 1  # digits from 0
    images = _least_second_row(grids, geometry)
    cells, order = _build(grids, images, geometry)
    best = _least(images.owner, cells)
    images, order, cells = images.keep(best), order[best], cells[best]
    given = _versions(clues, geometry)[images.owner, images.version]
    given = np.take_along_axis(given, images.columns[:, None, :], axis=2)
    given = np.take_along_axis(given, order[:, :, None], axis=1)
    last = _least(images.owner, given.astype(np.int64))
    _, starts = np.unique(images.owner[last], return_index=True)
    chosen = last[starts]
    shape = (len(solutions), size * size)
    return given[chosen].reshape(shape), (cells[chosen] + 1).astype(np.uint8).reshape(shape)


def _versions(flat: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Return grids, and their transposes where boxes are square, as `(M, versions, size, size)`."""
    grids = flat.reshape(-1, geometry.size, geometry.size)
    return np.stack([grids, grids.swapaxes(1, 2)], axis=1) if geometry.square else grids[:, None]


def _least_second_row(grids: np.ndarray, geometry: Geometry) -> _Images:
    """Return all images whose first row is 1..size and whose second row is the least possible."""
    table = _conjugacy(geometry)
    first, second = _row_pairs(geometry)
    place = np.empty_like(grids)  # column of each digit in each row
    np.put_along_axis(place, grids, np.arange(geometry.size, dtype=grids.dtype), axis=3)
    moves = np.take_along_axis(place[:, :, first], grids[:, :, second], axis=3)
    index = np.searchsorted(table.codes, _code(moves, geometry.size))
    rank = table.rank[index]
    owner, version, pair = np.nonzero(rank == rank.min(axis=(1, 2), keepdims=True))
    index = index[owner, version, pair]
    count = table.orders_count[index]
    which = np.repeat(np.arange(len(owner)), count)
    nth = np.arange(len(which)) - np.repeat(np.cumsum(count) - count, count)
    columns = table.orders[table.orders_start[index][which] + nth]
    return _Images(owner[which], version[which], first[pair][which], columns)


def _build(grids: np.ndarray, images: _Images, geometry: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """Return the images `(K, size, size)` with digits from 0, and their order of rows `(K, size)`."""
    size = geometry.size
    cells = np.take_along_axis(grids[images.owner, images.version], images.columns[:, None, :], axis=2)
    labels = np.empty((len(cells), size), dtype=cells.dtype)
    np.put_along_axis(
        labels, cells[np.arange(len(cells)), images.first_row], np.arange(size, dtype=cells.dtype), axis=1
    )
    cells = np.take_along_axis(labels, cells.reshape(len(cells), -1), axis=1).reshape(cells.shape)
    # The digits of the first column differ, so they settle the least order of rows in a band and of bands.
    starts = cells[:, :, 0].reshape(len(cells), geometry.bands, geometry.box_rows)
    rows = starts.argsort(axis=2) + np.arange(0, size, geometry.box_rows)[None, :, None]
    bands = starts.min(axis=2).argsort(axis=1)
    order = np.take_along_axis(rows, bands[:, :, None], axis=1).reshape(len(cells), size)
    return np.take_along_axis(cells, order[:, :, None], axis=1), order


def _least(owner: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Return the rows of `(K, size, size)` that are least among those of their owner, ties included."""
    rows = np.arange(len(owner))
    codes = _code(cells, cells.shape[2])  # (K, size), one number per grid row
    for column in range(codes.shape[1]):
        _, starts, group = np.unique(owner[rows], return_index=True, return_inverse=True)
        values = codes[rows, column]
        rows = rows[values == np.minimum.reduceat(values, starts)[group]]
    return rows


def _code(values: np.ndarray, base: int) -> np.ndarray:
    """Read the last axis as a number in `base`."""
    return values.astype(np.int64) @ base ** np.arange(values.shape[-1] - 1, -1, -1, dtype=np.int64)


@lru_cache
def _row_pairs(geometry: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """Return all ordered pairs of different rows of one band."""
    rows = geometry.box_rows
    pairs = [
        (band * rows + i, band * rows + j) for band in range(geometry.bands) for i, j in permutations(range(rows), 2)
    ]
    first, second = zip(*pairs, strict=True)
    return np.array(first), np.array(second)


@dataclass(frozen=True)
class _Conjugacy:
    """For each permutation of columns that two rows of a band can define: its class, and the orders minimising it."""

    codes: np.ndarray  # (P,) sorted
    rank: np.ndarray  # (P,) classes numbered by their least member
    orders_start: np.ndarray  # (P,) where its minimising column orders begin in `orders`
    orders_count: np.ndarray  # (P,)
    orders: np.ndarray  # (sum, size)


@lru_cache
def _conjugacy(geometry: Geometry) -> _Conjugacy:
    moves = _moves(geometry)
    orders = _column_orders(geometry)
    inverse = np.argsort(orders, axis=1)
    codes = _code(moves, geometry.size)  # sorted: permutations come in lexicographic order
    rank = np.full(len(codes), -1)
    minimising: list[np.ndarray] = [np.empty(0)] * len(codes)
    for least in range(len(codes)):
        if rank[least] >= 0:
            continue
        # With order s, image column j is column s[j], so p becomes s^-1 p s; its class is { s p s^-1 }.
        conjugates = np.take_along_axis(orders, moves[least][inverse], axis=1)
        members = np.searchsorted(codes, _code(conjugates, geometry.size))
        number = rank.max() + 1
        for member in np.unique(members):
            rank[member] = number
            minimising[member] = orders[members == member]
    count = np.array([len(found) for found in minimising])
    return _Conjugacy(codes, rank, np.cumsum(count) - count, count, np.concatenate(minimising))


def _moves(geometry: Geometry) -> np.ndarray:
    """Return the permutations of columns that leave no column in its own stack, in lexicographic order."""
    rows: list[tuple[int, ...]] = [()]
    for column in range(geometry.size):
        stack = column // geometry.box_cols
        allowed = [c for c in range(geometry.size) if c // geometry.box_cols != stack]
        rows = [row + (c,) for row in rows for c in allowed if c not in row]
    return np.array(rows)


def _column_orders(geometry: Geometry) -> np.ndarray:
    """Return all orders of stacks and of columns in each stack."""
    cols = geometry.box_cols
    inner = list(permutations(range(cols)))
    return np.array(
        [
            [stack * cols + c for stack, order in zip(stacks, orders, strict=True) for c in order]
            for stacks in permutations(range(geometry.stacks))
            for orders in product(inner, repeat=geometry.stacks)
        ]
    )
