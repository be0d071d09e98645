"""Read Sudoku CSV files in the format of the public Sudoku-Extreme set: source,question,answer,rating."""

import csv
import io
import logging
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from titans_trm.data.files import decode
from titans_trm.data.sudoku.geometry import Geometry
from titans_trm.data.sudoku.rules import find_faults
from titans_trm.data.sudoku.solver import solve
from titans_trm.errors import InputError

HEADER = ["source", "question", "answer", "rating"]
_MAX_RATING = 2**31 - 1
_MAX_SHOWN = 5  # bad rows named in one message
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
    rows: list[tuple[int, list[str]]] = []
    faults: dict[int, str] = {}  # line -> reason
    for line, fields in _records(path, decode(path, raw)):
        reason = _row_fault(fields, geometry)
        if reason is None:
            rows.append((line, fields))
        else:
            faults[line] = reason
    total = len(rows) + len(faults)
    table = Table(
        path=path,
        puzzles=_digits([fields[1] for _, fields in rows], geometry),
        solutions=_digits([fields[2] for _, fields in rows], geometry),
        sources=[fields[0] for _, fields in rows],
        ratings=np.array([int(fields[3]) for _, fields in rows], dtype=np.int64),
        lines=[line for line, _ in rows],
    )
    found = find_faults(table.puzzles, table.solutions, geometry)
    for row in list(found)[:_MAX_SHOWN]:  # only those that can be shown are worth a search
        found[row] += _solvability(table.puzzles[row], geometry)
    faults |= {table.lines[row]: reason for row, reason in found.items()}
    faults |= _duplicates(table, skip=faults)
    _refuse(path, faults, total)
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
    _refuse(table.path, faults, len(rows))


def _records(path: str, text: str) -> Iterator[tuple[int, list[str]]]:
    """Yield (line, fields) of each row after checking the header."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = next(reader, None)
        if header is None:
            raise InputError(f"{path}: the file is empty; it needs the header {','.join(HEADER)} and rows.")
        if [name.strip() for name in header] != HEADER:
            shown = ",".join(header)[:80]
            raise InputError(f"{path}: line 1: the header is {shown!r}, not {','.join(HEADER)}; {_header_cure(header)}")
        empty = True
        for fields in reader:
            if not fields:  # a blank line holds nothing that could be lost
                continue
            empty = False
            yield reader.line_num, fields
    except csv.Error as error:
        raise InputError(f"{path}: line {reader.line_num}: not valid CSV ({error}); mend or remove the line.") from None
    if empty:
        raise InputError(f"{path}: the file has a header but no rows; add puzzles.")


def _header_cure(header: list[str]) -> str:
    missing = [name for name in HEADER if name not in header]
    return f"add {', '.join(missing)}." if missing else "keep exactly these four columns in this order."


def _row_fault(fields: list[str], geometry: Geometry) -> str | None:
    """Return why the text of one row cannot be read, if so."""
    if len(fields) != len(HEADER):
        return f"has {len(fields)} columns, not {len(HEADER)}"
    _, question, answer, rating = fields
    allowed = {".", *map(str, range(geometry.size + 1))}
    for name, value in (("question", question), ("answer", answer)):
        if len(value) != geometry.cells:
            return f"the {name} has {len(value)} characters, not {geometry.cells} (data.size={geometry.size})"
        if illegal := set(value) - allowed:
            position = min(value.index(bad) for bad in illegal)
            return f"the {name} has the illegal character {value[position]!r} at position {position + 1}"
    if not (rating.isascii() and rating.isdigit() and int(rating[:11]) <= _MAX_RATING):
        return f"the rating {rating[:20]!r} is not a whole number from 0 to {_MAX_RATING}"
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


def _refuse(path: str, faults: dict[int, str], checked: int) -> None:
    if not faults:
        return
    shown = [f"  line {line}: {faults[line]}" for line in sorted(faults)[:_MAX_SHOWN]]
    more = len(faults) - len(shown)
    if more:
        shown.append(f"  and {more} more")
    noun = "row" if len(faults) == 1 else "rows"
    raise InputError(f"{path}: {len(faults)} bad {noun} of {checked}; mend or remove:\n" + "\n".join(shown))
