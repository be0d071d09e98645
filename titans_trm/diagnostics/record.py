"""`diagnostics/signals.jsonl`: every check's signals, one JSON object a line, for plots and for a later diagnosis."""

import json
import math
from collections.abc import Iterator
from pathlib import Path

from titans_trm.diagnostics.signals import Signals


class SignalLog:
    """Append signals; on a resumed run what came after its checkpoint is dropped first, and written again.

    Args:
        path: the file; it and its folder are made with the first line.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def start(self, step: int) -> None:
        """Keep the lines up to `step`, where the checkpoint stands (0: none)."""
        if self.path.is_file():
            kept = [signals for signals in read_signals(self.path) if step > 0 and signals.step <= step]
            partial = self.path.with_name(f".{self.path.name}.partial")
            partial.write_text("".join(map(_line, kept)), encoding="utf-8", newline="\n")
            partial.replace(self.path)

    def append(self, signals: Signals) -> None:
        """Write one line."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8", newline="\n") as file:
            file.write(_line(signals))


def read_signals(path: str | Path) -> Iterator[Signals]:
    """Yield the signals of a file in order; a last line cut short by a crash is left out."""
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        try:
            values = json.loads(line)
        except ValueError:
            continue
        yield Signals(
            values["step"],
            {name: float(value) for name, value in values["values"].items()},  # "nan" and "inf" are texts in JSON
            values.get("names", {}),
        )


def _line(signals: Signals) -> str:
    values = {name: value if math.isfinite(value) else str(value) for name, value in signals.values.items()}
    names = {key: found for key, found in signals.names.items() if found}
    plain = {"step": signals.step, "values": values, **({"names": names} if names else {})}
    return json.dumps(plain, ensure_ascii=False, allow_nan=False) + "\n"
