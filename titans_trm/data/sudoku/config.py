"""Configuration of the task `sudoku`."""

from dataclasses import dataclass
from typing import Literal

from titans_trm.data.config import CountFields, FileFields, at_least, one_of

# Fewest and most clues the generator accepts per size. Digging cells at random seldom gets below 24 clues of 9x9.
CLUE_LIMITS = {4: (4, 15), 6: (8, 35), 9: (24, 80)}
DEFAULT_CLUES = {4: (4, 10), 6: (10, 20), 9: (26, 40)}


@dataclass(frozen=True, kw_only=True)
class SudokuConfig(CountFields, FileFields):
    """Sudoku puzzles: packaged, generated, or from CSV files with source,question,answer,rating."""

    task: Literal["sudoku"] = "sudoku"
    source: Literal["packaged", "generated", "file"] = (
        "packaged"  # packaged: 9,000 hard 9x9 puzzles; generated: made on first use; file: train_file
    )
    size: Literal[4, 6, 9] = 9  # cells along a side; sequence length is its square, vocabulary size + 2
    clues: tuple[int, int] | None = (
        None  # fewest and most given cells of generated puzzles; null: (4,10) (10,20) (26,40)
    )
    verify: Literal["auto", "full", "sample"] = (
        "auto"  # uniqueness of file puzzles: every row (about 1 ms each) or a sample
    )
    verify_all_up_to: int = 20_000  # rows up to which verify=auto checks every row
    verify_sample: int = 2_000  # rows whose uniqueness a sample checks; all other checks run on every row

    def __post_init__(self) -> None:
        one_of("data.size", self.size, (4, 6, 9))
        one_of("data.source", self.source, ("packaged", "generated", "file"))
        one_of("data.verify", self.verify, ("auto", "full", "sample"))
        at_least("data.verify_sample", self.verify_sample, 1)
        at_least("data.verify_all_up_to", self.verify_all_up_to, 0)
        super().__post_init__()
        if self.resolved_source == "packaged" and self.size != 9:
            raise ValueError(
                f"data.source=packaged holds 9x9 puzzles, not data.size={self.size}; use data.source=generated."
            )
        self._check_clues()

    @property
    def clue_range(self) -> tuple[int, int]:
        """Fewest and most clues of a generated puzzle."""
        return DEFAULT_CLUES[self.size] if self.clues is None else (self.clues[0], self.clues[1])

    def _check_clues(self) -> None:
        if self.clues is not None and len(self.clues) != 2:
            raise ValueError(f"data.clues={self.clues} is not a pair; give [fewest, most].")
        low, high = self.clue_range
        least, most = CLUE_LIMITS[self.size]
        if not least <= low <= high <= most:
            raise ValueError(
                f"data.clues=[{low}, {high}] does not fit data.size={self.size}; choose {least} <= fewest <= most "
                f"<= {most}."
            )
