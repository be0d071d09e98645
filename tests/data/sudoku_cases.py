"""Sudoku puzzles, symmetries and files that several tests share."""

import gzip
from functools import cache
from pathlib import Path

import numpy as np
import torch

from titans_trm.data.examples import ExampleSet
from titans_trm.data.sudoku.generator import Puzzles, generate_puzzles
from titans_trm.data.sudoku.geometry import Geometry

HEADER = "source,question,answer,rating"
QUESTION = "53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79"
ANSWER = "534678912672195348198342567859761423426853791713924856961537284287419635345286179"
CLUES = {4: (4, 10), 6: (10, 20), 9: (30, 40)}


def puzzles(size: int, count: int = 200, seed: int = 0) -> Puzzles:
    block = _block(size, seed)
    return Puzzles(block.puzzles[:count], block.solutions[:count], block.ratings[:count])


@cache
def _block(size: int, seed: int) -> Puzzles:
    return next(generate_puzzles(Geometry.of(size), CLUES[size], seed))


def text(grid: np.ndarray) -> str:
    return "".join(map(str, grid.tolist())).replace("0", ".")


def row(puzzle: np.ndarray, solution: np.ndarray, source: str = "own", rating: int = 0) -> str:
    return f"{source},{text(puzzle)},{text(solution)},{rating}"


def write_csv(path: Path, rows: list[str], header: str = HEADER) -> str:
    content = "\n".join([header, *rows]) + "\n"
    path.write_bytes(gzip.compress(content.encode()) if path.name.endswith(".gz") else content.encode())
    return str(path)


def transform(grids: list[np.ndarray], geometry: Geometry, rng: np.random.Generator) -> list[np.ndarray]:
    """Apply one random symmetry to all of `grids`: written out independently of the package."""
    size, rows, cols = geometry.size, geometry.box_rows, geometry.box_cols
    row_order = [b * rows + r for b in rng.permutation(size // rows) for r in rng.permutation(rows)]
    col_order = [s * cols + c for s in rng.permutation(size // cols) for c in rng.permutation(cols)]
    digits = np.concatenate([[0], rng.permutation(size) + 1])
    turn = rows == cols and rng.random() < 0.5
    out = []
    for grid in grids:
        square = digits[grid.reshape(size, size)][row_order][:, col_order]
        out.append((square.T if turn else square).reshape(-1).astype(np.uint8))
    return out


def example_set(count: int, name: str = "train", keys: list[str] | None = None) -> ExampleSet:
    tokens = torch.arange(count, dtype=torch.uint8)[:, None].expand(count, 4).contiguous()
    return ExampleSet(
        name=name,
        inputs=tokens,
        targets=tokens + 1,
        keys=keys or [f"k{i}" for i in range(count)],
        sources=["own"] * count,
        ratings=torch.arange(count),
    )
