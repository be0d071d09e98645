"""Passages that two byte sequences share, found by hashes of all windows: the leak that whole-file keys do not see.

A window is `width` bytes at any offset, so a paragraph that was copied and shifted is found wherever it lies. Hashes
only propose: bytes decide, and a collision is never reported.
"""

from dataclasses import dataclass

import numpy as np

_BASE = np.uint64(0x9E3779B97F4A7C15)  # odd, so that no byte of a window is lost modulo 2^64
_CHUNK = 1 << 24  # windows hashed at once: bounds memory to some 400 MB


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
        hashes = _window_hashes(self._bytes, width)
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
        hashes = _window_hashes(data, self.width)
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


def _window_hashes(data: np.ndarray, width: int) -> np.ndarray:
    """Return a 64-bit hash of each window, `(n - width + 1,)`: a polynomial of its bytes, scrambled."""
    count = max(0, len(data) - width + 1)
    hashes = np.empty(count, dtype=np.uint64)
    for begin in range(0, count, _CHUNK):
        end = min(begin + _CHUNK, count)
        part = np.zeros(end - begin, dtype=np.uint64)
        for offset in range(width):
            part *= _BASE
            part += data[begin + offset : end + offset]
        part ^= part >> np.uint64(29)
        hashes[begin:end] = part * _BASE
    return hashes


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
