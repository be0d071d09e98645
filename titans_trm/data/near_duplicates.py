"""Passages that two byte sequences share, found by hashes of all windows: the leak that whole-file keys do not see.

A window is `width` bytes at any offset, so a paragraph that was copied and shifted is found wherever it lies. Hashes
only propose: bytes decide, and a collision is never reported.
"""

from dataclasses import dataclass

import numpy as np

_BASE = np.uint64(0x9E3779B97F4A7C15)  # odd, bits well mixed; products wrap around at 64 bits
_OFFSET = np.uint64(0xD1B54A32D192ED03)
_CHUNK = 1 << 24  # bytes compared at once: bounds memory


@dataclass(frozen=True)
class SharedPassages:
    """Which bytes of a text lie in a window that also occurs in the reference."""

    covered: np.ndarray  # (n,) bool
    passages: list[tuple[int, int, int]]  # start in the text, start in the reference, bytes; longest first

    @property
    def share(self) -> float:
        """Covered bytes over all bytes; 0 for an empty text."""
        return float(self.covered.mean()) if len(self.covered) else 0.0


class WindowIndex:
    """All windows of `width` bytes of a reference, sorted by hash."""

    def __init__(self, reference: bytes | np.ndarray, *, width: int = 50) -> None:
        if width < 1:
            raise ValueError(f"width={width} is too small; choose 1 byte or more.")
        self.width = width
        self._bytes = _array(reference)
        hashes = window_hashes(self._bytes, width)
        self._order = np.argsort(hashes, kind="stable")
        self._hashes = hashes[self._order]

    def shared(self, text: bytes | np.ndarray) -> SharedPassages:
        """Return the passages of `text` of at least `width` bytes that occur in the reference."""
        data = _array(text)
        found = self._occurrences(data)
        starts = np.nonzero(found >= 0)[0]
        covered = np.zeros(len(data) + 1, dtype=np.int64)
        np.add.at(covered, starts, 1)
        np.add.at(covered, starts + self.width, -1)
        return SharedPassages(covered.cumsum()[:-1] > 0, _merge(starts, found[starts], self.width))

    def _occurrences(self, data: np.ndarray) -> np.ndarray:
        """Return for each window of `data` where it starts in the reference, or -1."""
        hashes = window_hashes(data, self.width)
        found = np.full(len(hashes), -1, dtype=np.int64)
        if not len(self._hashes):
            return found
        place = np.searchsorted(self._hashes, hashes).clip(max=len(self._hashes) - 1)
        candidates = np.nonzero(self._hashes[place] == hashes)[0]
        windows = np.lib.stride_tricks.sliding_window_view
        for begin in range(0, len(candidates), _CHUNK // self.width + 1):
            rows = candidates[begin : begin + _CHUNK // self.width + 1]
            at = self._order[place[rows]]
            same = (windows(data, self.width)[rows] == windows(self._bytes, self.width)[at]).all(axis=1)
            found[rows[same]] = at[same]
        return found


def _array(text: bytes | np.ndarray) -> np.ndarray:
    return np.frombuffer(text, dtype=np.uint8) if isinstance(text, bytes) else text


def window_hashes(text: np.ndarray, window: int) -> np.ndarray:
    """Return a 64-bit hash of every run of `window` bytes: a polynomial, built by doubling the length of the runs."""
    if window < 1 or len(text) < window:
        return np.zeros(0, dtype=np.uint64)
    runs = {1: text.astype(np.uint64) * _BASE ^ _OFFSET}
    factors, length = {1: np.array([_BASE])}, 1
    while 2 * length <= window:
        half = runs[length]
        runs[2 * length] = half[:-length] * factors[length] + half[length:]
        factors[2 * length] = factors[length] * factors[length]
        length *= 2
    total, done = runs[length], length
    while done < window:
        step = max(part for part in runs if part <= window - done)
        count = len(text) - done - step + 1
        total = total[:count] * factors[step] + runs[step][done : done + count]
        done += step
    return total


def _merge(starts: np.ndarray, places: np.ndarray, width: int) -> list[tuple[int, int, int]]:
    """Join windows that follow each other in both sequences; longest passage first."""
    if not len(starts):
        return []
    breaks = np.nonzero((np.diff(starts) != 1) | (np.diff(places) != 1))[0] + 1
    passages = [
        (int(run[0]), int(place[0]), len(run) + width - 1)
        for run, place in zip(np.split(starts, breaks), np.split(places, breaks), strict=True)
    ]
    return sorted(passages, key=lambda passage: (-passage[2], passage[0]))
