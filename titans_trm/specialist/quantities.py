"""Read the quantities that people write into requirements: "25M target", "6GB", "real-time", "45ms (GPU)", "48/48"."""

import re
from dataclasses import asdict, dataclass
from typing import Any

from titans_trm.errors import InputError

REAL_TIME_MS = 100.0  # what "real-time" promises: the limit of perceived immediacy for one answer

_NUMBER = r"(\d{1,3}(?:[,_]\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?)"
_COUNTS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9}
_BYTES = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_MILLISECONDS = {"us": 1e-3, "ms": 1.0, "s": 1e3, "sec": 1e3, "seconds": 1e3, "milliseconds": 1.0}


@dataclass(frozen=True)
class Passed:
    """Tests that passed, of how many."""

    passed: int
    total: int


@dataclass(frozen=True)
class Measured:
    """What a model costs here and now."""

    parameters: int
    latency_ms: float  # median of one forward pass
    latency_p95_ms: float
    peak_bytes: int | None  # of one forward pass on the card; None on a CPU, whose allocator keeps no record
    repeats: int
    device: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def parse_count(text: str | int, *, key: str = "parameters") -> int:
    """Return the number of parameters that `text` stands for: `25M target`, `25.3M`, `25,623,681`, `7000000`."""
    match = re.search(rf"(?<![\w.]){_NUMBER}\s*([kKmMbB]?)(?![A-Za-z0-9])", str(text))
    if match is None or str(text).lstrip().startswith("-"):
        raise InputError(f'{key}={text!r} is not a number of parameters; write e.g. "25M" or 25000000.')
    return round(_plain(match[1]) * _COUNTS[match[2].upper()])


def parse_memory(text: str | int, *, key: str = "vram") -> int:
    """Return bytes: `6GB`, `5.2 GiB`, `under 6 GB`. GB is 10^9 bytes, GiB is 2^30."""
    if isinstance(text, int):
        return text
    match = re.search(rf"(?<![\w.-]){_NUMBER}\s*([KMG]i?B|B)\b", text, re.I)
    if match is None:
        raise InputError(f'{key}={text!r} is not an amount of memory; write e.g. "6GB" or "5.5GiB".')
    return round(_plain(match[1]) * _BYTES[match[2].upper()])


def parse_milliseconds(text: str | float, *, key: str = "inference_speed") -> float:
    """Return milliseconds: `real-time` (100), `< 100 ms`, `45ms (GPU)`, `0.85 s`."""
    if isinstance(text, int | float):
        return float(text)
    if re.search(r"\breal[\s_-]?time\b", text, re.I):
        return REAL_TIME_MS
    match = re.search(rf"(?<![\w.-]){_NUMBER}\s*(us|ms|milliseconds|s|sec|seconds)\b", text, re.I)
    if match is None:
        raise InputError(f'{key}={text!r} is not a time; write "real-time" or e.g. "45ms".')
    return _plain(match[1]) * _MILLISECONDS[match[2].lower()]


def parse_passed(text: str, *, key: str = "unit_tests") -> Passed:
    """Return what `48/48 passing` says.

    Raises:
        InputError: no such pair, or more passed than there are.
    """
    match = re.search(r"(\d+)\s*/\s*(\d+)", text)
    if match is None or int(match[1]) > int(match[2]):
        raise InputError(f'{key}={text!r} does not say how many tests passed; write e.g. "48/48 passing".')
    return Passed(int(match[1]), int(match[2]))


def _plain(number: str) -> float:
    return float(number.replace(",", "").replace("_", ""))
