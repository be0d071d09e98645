"""The test ledger: every look at a test set is written down before it happens, and lines are never changed."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from titans_trm.errors import InputError

NAME = "test_ledger.jsonl"
_START = "0" * 64  # stands for the line before the first one


def read_ledger(path: Path) -> list[dict[str, Any]]:
    """Return the uses written down in `path`, oldest first; none where there is no file.

    Raises:
        InputError: a line is damaged, or does not carry the hash of the line before it.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    uses: list[dict[str, Any]] = []
    before = _START
    for number, line in enumerate(lines, start=1):
        try:
            use = json.loads(line)
            follows = use["previous_sha256"] == before
        except (ValueError, KeyError, TypeError):
            follows = False
        if not follows:
            raise InputError(
                f"{path}: line {number} was changed, or lines before it are missing; a ledger only grows. Bring back "
                "the file as it was."
            )
        uses.append(use)
        before = _hash(line)
    return uses


def append_use(path: Path, use: dict[str, Any]) -> int:
    """Add a line to the ledger, flushed to the disk, and return which use it is, from 1."""
    earlier = read_ledger(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = path.read_text(encoding="utf-8").splitlines() if earlier else []
    previous = _hash(lines[-1]) if lines else _START
    line = json.dumps({"use": len(earlier) + 1, **use, "previous_sha256": previous}, ensure_ascii=False)
    with path.open("a", encoding="utf-8", newline="\n") as file:
        file.write(line + "\n")
        file.flush()
        os.fsync(file.fileno())
    return len(earlier) + 1


def _hash(line: str) -> str:
    return hashlib.sha256(line.encode()).hexdigest()
