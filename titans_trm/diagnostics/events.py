"""`diagnostics/events.jsonl`: what happened to a run, one JSON object a line, only ever appended to.

    {"seq": 3, "step": 420, "event": "alert", "rule": "act_collapse", "severity": "warn", "time": "...",
     "previous": "9f2c...", ...}

`seq` counts from 1, `previous` is the start of the SHA-256 of the line before: a line that is changed or taken out
later shows. Events of the engine: `started`, `alert`, `effect`, `escalated`, `cleared`, `resumed`, `finished`; the
four about an alert carry all fields of `Alert.to_dict`. Others (a specialist's) may be added under names of their own.
A run that is resumed from step s appends `resumed` with step s; events of later steps before that line belong to steps
that were run again, and `read_events(..., lost=False)` leaves them out.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from titans_trm.errors import InputError

_DIGITS = 16  # of the hash: enough to notice, short enough to read


class EventLog:
    """Append events; a file that is there is continued.

    Args:
        path: the file; it and its folder are made with the first event.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def append(
        self, event: str, *, step: int, rule: str = "", severity: str = "info", data: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Write one event and return it; keys of `data` stand beside the fixed ones, which win."""
        seq, previous = self._end()
        line = {
            **(data or {}),
            "seq": seq + 1,
            "step": step,
            "event": event,
            "rule": rule,
            "severity": severity,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "previous": previous,
        }
        order = ("seq", "step", "event", "rule", "severity")
        line = _plain({key: line[key] for key in (*order, *(key for key in line if key not in order))})
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8", newline="\n") as file:
            file.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")
        return line

    def _end(self) -> tuple[int, str]:
        """Return the number and the hash of the last whole line; end a line that a crash cut short."""
        if not self.path.is_file():
            return 0, ""
        text = self.path.read_text(encoding="utf-8")
        if text and not text.endswith("\n"):
            with self.path.open("a", encoding="utf-8", newline="\n") as file:
                file.write("\n")
        lines = [line for line in text.splitlines() if _parsed(line)]
        if not lines:
            return 0, ""
        return int(json.loads(lines[-1])["seq"]), _hash(lines[-1])


def read_events(path: str | Path, *, lost: bool = True) -> list[dict[str, Any]]:
    """Return the events of a file in order; with `lost=False` without those of steps that a resumed run ran again.

    Raises:
        InputError: there is no such file.
    """
    if not Path(path).is_file():
        raise InputError(f"{path} does not exist; give the events.jsonl of a run folder.")
    events = [event for event in map(_parsed, Path(path).read_text(encoding="utf-8").splitlines()) if event]
    if lost:
        return events
    kept: list[dict[str, Any]] = []
    for event in events:
        if event["event"] == "resumed":
            kept = [old for old in kept if old["step"] <= event["step"]]
        kept.append(event)
    return kept


def broken_lines(path: str | Path) -> list[int]:
    """Return the numbers of lines that do not follow from the line before: a change after the fact shows here."""
    found, previous, seq = [], "", 0
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), start=1):
        event = _parsed(line)
        if event is None or event["seq"] != seq + 1 or event["previous"] != previous:
            found.append(number)
        if event is not None:
            previous, seq = _hash(line), event["seq"]
    return found


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and "seq" in event else None


def _hash(line: str) -> str:
    return hashlib.sha256(line.encode()).hexdigest()[:_DIGITS]


def _plain(value: Any) -> Any:
    """Return `value` with NaN and infinity as texts: JSON has no word for them, and here they are the message."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
