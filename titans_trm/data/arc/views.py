"""The views of every puzzle: a fixed table of symmetries and colours, one row and one puzzle id each.

Views are made from the table when they are needed. Written out, a thousand views of 960 puzzles are gigabytes; the
table is megabytes.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from titans_trm.data.arc.files import Puzzle
from titans_trm.data.arc.grids import NUM_COLOURS, SIDE, move, sizes

_TRIALS = 5  # draws for each view that is wanted, before a puzzle counts as having no more


@dataclass(frozen=True)
class ViewTable:
    """Views of P puzzles, A + 1 each, the first being the puzzle as it is.

    Puzzle ids: 0 = unknown, 1 + p (A + 1) + a for view a of puzzle p. A puzzle with too few colours for A different
    views has some of them twice.
    """

    dihedral: Tensor  # (P, A + 1) int64
    colours: Tensor  # (P, A + 1, 10) int64, new colour of each colour; 0 stays 0

    @classmethod
    def draw(cls, puzzles: Sequence[Puzzle], count: int, seed: int) -> "ViewTable":
        """Return a table with `count` views besides the original; those of a puzzle depend on its name and the seed."""
        drawn = [_draw(puzzle, count, seed) for puzzle in puzzles]
        rows = np.stack(drawn) if drawn else np.zeros((0, count + 1, 1 + NUM_COLOURS), dtype=np.int64)
        return cls(torch.from_numpy(rows[:, :, 0].copy()), torch.from_numpy(rows[:, :, 1:].copy()))

    @property
    def views(self) -> int:
        """Views of one puzzle, the original included."""
        return self.dihedral.shape[1]

    @property
    def num_ids(self) -> int:
        """Puzzle ids, 0 for an unknown puzzle included."""
        return 1 + self.dihedral.numel()

    def first_id(self, puzzle: int) -> int:
        """Return the id of a puzzle as it is."""
        return 1 + puzzle * self.views

    def apply(
        self, inputs: Tensor, targets: Tensor, puzzle_ids: Tensor, view: Tensor, offsets: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return view `view` (B,) of examples given as they are, with their ids; unknown puzzles stay as they are.

        `inputs` and `targets` are top-left canvases (B, 900); `offsets` (B, 2) shift both.
        """
        known = puzzle_ids > 0
        puzzle = torch.where(known, (puzzle_ids - 1) // self.views, 0)
        view = torch.where(known, view, 0)
        dihedral, colours = self.dihedral[puzzle, view], self.colours[puzzle, view]
        moved = [move(tokens, dihedral, colours, offsets) for tokens in (inputs, targets)]
        return moved[0], moved[1], torch.where(known, self.first_id(0) + puzzle * self.views + view, 0)

    def sample(
        self, inputs: Tensor, targets: Tensor, puzzle_ids: Tensor, generator: torch.Generator, untranslated: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return a random view of each example, shifted at random but for a share `untranslated`."""
        count = len(inputs)
        view = torch.randint(self.views, (count,), generator=generator)
        heights, widths = (torch.maximum(*pair) for pair in zip(sizes(inputs), sizes(targets), strict=True))
        longest = torch.maximum(heights, widths)  # whichever way the view turns the grids
        room = SIDE - longest[:, None] + 1
        offsets = (torch.rand(count, 2, generator=generator) * room).long()
        stays = torch.rand(count, 1, generator=generator) < untranslated
        return self.apply(inputs, targets, puzzle_ids, view, torch.where(stays, 0, offsets))


def _draw(puzzle: Puzzle, count: int, seed: int) -> np.ndarray:
    """Return `(count + 1, 11)` rows of symmetry and colours, different in what they do to this puzzle's colours."""
    name = int.from_bytes(hashlib.sha256(puzzle.name.encode()).digest()[:8], "big")
    bits = np.random.PCG64(np.random.SeedSequence([seed, name]))
    trials = max(1, _TRIALS * count)
    rows = np.zeros((trials + 1, 1 + NUM_COLOURS), dtype=np.int64)
    rows[0, 1:] = np.arange(NUM_COLOURS)
    rows[1:, 0] = (bits.random_raw(trials) >> np.uint64(61)).astype(np.int64)
    rows[1:, 2:] = bits.random_raw(trials * 9).reshape(trials, 9).argsort(axis=1, kind="stable") + 1
    pairs = [*puzzle.train, *puzzle.test]
    present = np.unique(np.concatenate([grid.ravel() for pair in pairs for grid in pair]))
    _, first = np.unique(rows[:, [0, *(1 + present)]], axis=0, return_index=True)
    chosen = np.sort(first)[: count + 1]
    return rows[np.resize(chosen, count + 1)]
