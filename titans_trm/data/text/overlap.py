"""Find what two texts have in common, so that it is not scored."""

import numpy as np

from titans_trm.data.near_duplicates import window_hashes


class KnownRuns:
    """All runs of `window` bytes of a text (uint8), as 64-bit hashes; window 0 knows none."""

    def __init__(self, text: np.ndarray, window: int) -> None:
        self.window = window
        self._hashes = np.unique(window_hashes(text, window))

    def covered(self, text: np.ndarray) -> np.ndarray:
        """Return which bytes of `text` (uint8) lie in a known run, (len(text),) bool."""
        mine = window_hashes(text, self.window)
        if not len(mine) or not len(self._hashes):
            return np.zeros(len(text), dtype=bool)
        place = np.searchsorted(self._hashes, mine).clip(max=len(self._hashes) - 1)
        starts = np.nonzero(self._hashes[place] == mine)[0]
        edges = np.zeros(len(text) + 1, dtype=np.int64)
        edges[starts] += 1  # starts are distinct, and so are ends
        edges[starts + self.window] -= 1
        return edges.cumsum()[:-1] > 0
