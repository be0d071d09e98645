"""Read Sudoku CSV files in the format of the public Sudoku-Extreme set: source,question,answer,rating."""

import logging
from dataclasses import dataclass

import numpy as np

from titans_trm.data.sudoku.geometry import Geometry
from titans_trm.data.sudoku.rules import find_faults
from titans_trm.data.sudoku.solver import solve
from titans_trm.data.tables import read_rows, refuse_rows

_MAX_SEARCHED = 5  # bad rows whose question is solved to say more: as many as one message names
_PROGRESS_LINES = 10  # lines of log during one check of uniqueness
_DIGITS = bytes.maketrans(b".", b"0")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Table:
    """The rows of a file."""

    path: str
    puzzles: np.ndarray  # (M, cells) uint8, 0 = blank
    solutions: np.ndarray  # (M, cells) uint8
    sources: list[str]
    ratings: np.ndarray  # (M,) int64
    lines: list[int]  # line of each row in the file, the header being line 1


def read_table(path: str, raw: bytes, geometry: Geometry) -> Table:
    """Return the rows of a CSV or CSV.gz file after every check but uniqueness.

    `InputError` names the file and, for up to five bad rows, line and reason.
    """
    rows, faults = read_rows(path, raw, lambda fields: _row_fault(fields, geometry))
    total = len(rows) + len(faults)
    table = Table(
        path=path,
        puzzles=_digits([row.fields[1] for row in rows], geometry),
        solutions=_digits([row.fields[2] for row in rows], geometry),
        sources=[row.fields[0] for row in rows],
        ratings=np.array([int(row.fields[3]) for row in rows], dtype=np.int64),
        lines=[row.line for row in rows],
    )
    found = find_faults(table.puzzles, table.solutions, geometry)
    for row in list(found)[:_MAX_SEARCHED]:  # only those that can be shown are worth a search
        found[row] += _solvability(table.puzzles[row], geometry)
    faults |= {table.lines[row]: reason for row, reason in found.items()}
    faults |= _duplicates(table, skip=faults)
    refuse_rows(path, faults, total)
    return table


def check_uniqueness(table: Table, rows: np.ndarray, geometry: Geometry) -> None:
    """Raise `InputError` when a puzzle at `rows` has more than one solution. Takes about 1 ms per hard 9x9 puzzle."""
    step = max(1, len(rows) // _PROGRESS_LINES)
    told = 0

    def progress(done: int) -> None:
        nonlocal told
        if done - told >= step:
            told = done
            logger.info("%s: uniqueness checked for %d of %d puzzles", table.path, done, len(rows))

    counts = solve(table.puzzles[rows], geometry, progress=progress).counts
    wrong = rows[counts != 1]
    faults = {table.lines[row]: "the question has several solutions" for row in wrong.tolist()}
    refuse_rows(table.path, faults, len(rows))


def _row_fault(fields: list[str], geometry: Geometry) -> str | None:
    """Return why the text of one row cannot be read, if so."""
    _, question, answer, _ = fields
    allowed = {".", *map(str, range(geometry.size + 1))}
    for name, value in (("question", question), ("answer", answer)):
        if len(value) != geometry.cells:
            return f"the {name} has {len(value)} characters, not {geometry.cells} (data.size={geometry.size})"
        if illegal := set(value) - allowed:
            position = min(value.index(bad) for bad in illegal)
            return f"the {name} has the illegal character {value[position]!r} at position {position + 1}"
    return None


def _digits(grids: list[str], geometry: Geometry) -> np.ndarray:
    """Return texts of digits as `(M, cells)` uint8, `.` and `0` as 0."""
    raw = "".join(grids).encode("ascii").translate(_DIGITS)
    return np.frombuffer(raw, dtype=np.uint8).reshape(-1, geometry.cells) - ord("0")


def _solvability(puzzle: np.ndarray, geometry: Geometry) -> str:
    """Say when a puzzle with a bad answer has itself no solution, or several."""
    count = int(solve(puzzle[None], geometry).counts[0])
    return {0: "; the question has no solution", 1: "", 2: "; the question has several solutions"}[count]


def _duplicates(table: Table, skip: dict[int, str]) -> dict[int, str]:
    """Return {line: reason} for puzzles that came before in the file."""
    first: dict[bytes, int] = {}
    faults: dict[int, str] = {}
    for line, puzzle in zip(table.lines, table.puzzles, strict=True):
        earlier = first.setdefault(puzzle.tobytes(), line)
        if earlier != line and line not in skip:
            faults[line] = f"the question repeats that of line {earlier}"
    return faults
