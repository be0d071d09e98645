"""Read maze CSV files in the format of the public Maze-Hard set: source,question,answer,rating."""

from dataclasses import dataclass

import numpy as np

from titans_trm.data.maze.paths import is_shortest_path, label_paths, pack
from titans_trm.data.tables import read_rows, refuse_rows

SYMBOLS = "# SGo"  # wall, free, start, goal, path; token = place in this text + 1


@dataclass(frozen=True)
class Table:
    """The rows of a file."""

    questions: np.ndarray  # (M, n * n) uint8 tokens
    answers: np.ndarray  # (M, n * n) uint8 tokens
    sources: list[str]
    ratings: np.ndarray  # (M,) int64
    other_labels: int  # answers that are a shortest path, but not the one of the label rule


def read_table(path: str, raw: bytes, size: int) -> Table:
    """Return the rows of a CSV or CSV.gz file after every check.

    `InputError` names the file and, for up to five bad rows, line and reason.
    """
    rows, faults = read_rows(path, raw, lambda fields: _row_fault(fields, size))
    total = len(rows) + len(faults)
    questions, answers = (_tokens([row.fields[column] for row in rows], size) for column in (1, 2))
    lines = [row.line for row in rows]
    reasons, other_labels = judge(questions, answers, size)
    faults |= {lines[row]: reason for row, reason in reasons.items()}
    first: dict[bytes, int] = {}
    for line, question in zip(lines, questions, strict=True):
        earlier = first.setdefault(question.tobytes(), line)
        if earlier != line:
            faults.setdefault(line, f"the question repeats that of line {earlier}")
    refuse_rows(path, faults, total)
    ratings = np.array([int(row.fields[3]) for row in rows], dtype=np.int64)
    return Table(questions, answers, [row.fields[0] for row in rows], ratings, other_labels)


def judge(questions: np.ndarray, answers: np.ndarray, size: int) -> tuple[dict[int, str], int]:
    """Return {row: reason} of bad `(M, n * n)` mazes, and the number of good answers beside the label rule."""
    wall, free, start, goal, way = range(1, len(SYMBOLS) + 1)
    open_cells = pack((questions != wall).reshape(-1, size, size))
    starts, goals = (questions == start).argmax(axis=1), (questions == goal).argmax(axis=1)
    path = np.isin(answers, (way, start, goal)).reshape(-1, size, size)
    labels, lengths = label_paths(open_cells, starts, goals)
    same = np.where(answers == way, free, answers) == questions
    shortest = is_shortest_path(path, open_cells, starts, goals)
    faults: dict[int, str] = {}
    for row in np.nonzero((lengths == 0) | ~same.all(axis=1) | ~shortest)[0].tolist():
        if lengths[row] == 0:
            faults[row] = "the maze has no way from S to G"
        elif not same[row].all():
            place = int(same[row].argmin())
            faults[row] = f"the answer is another maze: row {place // size + 1}, column {place % size + 1} differs"
        else:
            cells = int(path[row].sum())
            faults[row] = f"the answer is no shortest path ({cells} cells; the shortest has {int(lengths[row])})"
    return faults, int((labels != path).any(axis=(1, 2)).sum())


def _row_fault(fields: list[str], size: int) -> str | None:
    """Return why the text of one row cannot be read, if so."""
    for name, value, allowed in (("question", fields[1], SYMBOLS[:4]), ("answer", fields[2], SYMBOLS)):
        if len(value) != size * size:
            return f"the {name} has {len(value)} characters, not {size * size} (data.size={size})"
        if illegal := set(value) - set(allowed):
            position = min(value.index(bad) for bad in illegal)
            return f"the {name} has the illegal character {value[position]!r} at position {position + 1}"
        for symbol in "SG":
            if value.count(symbol) != 1:
                return f"the {name} has {value.count(symbol)} cells {symbol}, not 1"
    return None


def _tokens(grids: list[str], size: int) -> np.ndarray:
    table = bytes.maketrans(SYMBOLS.encode(), bytes(range(1, len(SYMBOLS) + 1)))
    raw = "".join(grids).encode("ascii").translate(table)
    return np.frombuffer(raw, dtype=np.uint8).reshape(-1, size * size)
