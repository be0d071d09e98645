"""Read CSV files of puzzles in the format of the public sets: source,question,answer,rating."""

import csv
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from titans_trm.data.files import decode
from titans_trm.errors import InputError

HEADER = ["source", "question", "answer", "rating"]
_MAX_RATING = 2**31 - 1
_MAX_SHOWN = 5  # bad rows named in one message


@dataclass(frozen=True)
class Row:
    """One row that could be read."""

    line: int  # in the file, the header being line 1
    fields: list[str]  # source, question, answer, rating


def read_rows(path: str, raw: bytes, fault: Callable[[list[str]], str | None]) -> tuple[list[Row], dict[int, str]]:
    """Return the rows of a CSV or CSV.gz file whose text can be read, and {line: reason} of the others.

    `fault` judges question and answer of a row. `InputError` names what is wrong with the file as a whole.
    """
    rows: list[Row] = []
    faults: dict[int, str] = {}
    for line, fields in _records(path, decode(path, raw)):
        reason = _columns_fault(fields) or fault(fields) or _rating_fault(fields[3])
        if reason is None:
            rows.append(Row(line, fields))
        else:
            faults[line] = reason
    return rows, faults


def refuse_rows(path: str, faults: dict[int, str], checked: int) -> None:
    """Raise `InputError` that shows the first of the bad rows {line: reason}, if there are any."""
    if not faults:
        return
    shown = [f"line {line}: {faults[line]}" for line in sorted(faults)[:_MAX_SHOWN]]
    if len(faults) == 1:
        raise InputError(f"{path}: {shown[0]}; mend or remove the row (1 bad row of {checked}).")
    more = len(faults) - len(shown)
    if more:
        shown.append(f"and {more} more")
    raise InputError("\n  ".join([f"{path}: {len(faults)} bad rows of {checked}; mend or remove:", *shown]))


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


def _columns_fault(fields: list[str]) -> str | None:
    if len(fields) != len(HEADER):
        return f"has {len(fields)} columns, not {len(HEADER)}"
    return None


def _rating_fault(rating: str) -> str | None:
    if not (rating.isascii() and rating.isdigit() and int(rating[:11]) <= _MAX_RATING):
        return f"the rating {rating[:20]!r} is not a whole number from 0 to {_MAX_RATING}"
    return None
