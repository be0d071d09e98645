"""What is left of every consultation: `specialist/<n>/context.json` and `results.json`, and a line per event."""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from titans_trm.diagnostics.events import EventLog
from titans_trm.specialist.outcome import Outcome
from titans_trm.specialist.protocol import ContextPackage
from titans_trm.specialist.redact import canonical, scrub_values


class Audit:
    """Write packages and events of a run; nothing is ever overwritten or taken back.

    Args:
        folder: the run folder.
        events: the run's `diagnostics/events.jsonl`.
    """

    def __init__(self, folder: str | Path, events: EventLog | None = None) -> None:
        self.folder = Path(folder)
        self.events = events or EventLog(self.folder / "diagnostics" / "events.jsonl")

    def open(self, context: ContextPackage) -> int:
        """Write `specialist/<n>/context.json` and return n."""
        base = self.folder / "specialist"
        base.mkdir(parents=True, exist_ok=True)
        taken = [int(path.name) for path in base.iterdir() if re.fullmatch(r"\d+", path.name)]
        number = max(taken, default=0) + 1
        _write(self.path(number) / "context.json", context.to_dict())
        return number

    def close(self, number: int, outcome: Outcome, **more: Any) -> None:
        """Write `specialist/<n>/results.json`: the package, how the call ended and what it cost."""
        call = scrub_values({"ending": outcome.ending, **outcome.details, **more})
        _write(self.path(number) / "results.json", outcome.results.to_dict() | {"call": call})

    def add(self, number: int, **more: Any) -> None:
        """Add to `results.json` what came of it later."""
        path = self.path(number) / "results.json"
        values = json.loads(path.read_text(encoding="utf-8"))
        values["call"] |= scrub_values(more)
        _write(path, values)

    def event(
        self, event: str, *, step: int, rule: str, severity: str = "info", data: Mapping[str, Any] | None = None
    ) -> None:
        """Append one event to `events.jsonl`."""
        self.events.append(event, step=step, rule=rule, severity=severity, data=scrub_values(dict(data or {})))

    def path(self, number: int) -> Path:
        """Return the folder of consultation `number`."""
        return self.folder / "specialist" / str(number)


def digest(context: ContextPackage) -> str:
    """Return the SHA-256 of a package as it is sent."""
    return hashlib.sha256(canonical(context).encode("utf-8")).hexdigest()


def _write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(partial, path)
