"""Find what two texts have in common, so that it is not scored."""

import numpy as np

_BASE = np.uint64(0x9E3779B97F4A7C15)  # odd, bits well mixed; products wrap around at 64 bits
_OFFSET = np.uint64(0xD1B54A32D192ED03)


class KnownRuns:
    """All runs of `window` bytes of a text (uint8), as 64-bit hashes; window 0 knows none."""

    def __init__(self, text: np.ndarray, window: int) -> None:
        self.window = window
        self._hashes = np.unique(_hashes(text, window))

    def covered(self, text: np.ndarray) -> np.ndarray:
        """Return which bytes of `text` (uint8) lie in a known run, (len(text),) bool."""
        mine = _hashes(text, self.window)
        if not len(mine) or not len(self._hashes):
            return np.zeros(len(text), dtype=bool)
        place = np.searchsorted(self._hashes, mine).clip(max=len(self._hashes) - 1)
        starts = np.nonzero(self._hashes[place] == mine)[0]
        edges = np.zeros(len(text) + 1, dtype=np.int64)
        edges[starts] += 1  # starts are distinct, and so are ends
        edges[starts + self.window] -= 1
        return edges.cumsum()[:-1] > 0


def _hashes(text: np.ndarray, window: int) -> np.ndarray:
    """Return the hash of every run of `window` bytes: a polynomial, built by doubling the length of the runs."""
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
