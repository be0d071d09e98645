"""Configuration of the data: which task, where its examples come from, how they are split and checked."""

from dataclasses import dataclass
from typing import Literal

Source = Literal["packaged", "generated", "file"]

# Fewest and most clues the generator accepts per size. Digging cells at random seldom gets below 24 clues of 9x9.
CLUE_LIMITS = {4: (4, 15), 6: (8, 35), 9: (24, 80)}
DEFAULT_CLUES = {4: (4, 10), 6: (10, 20), 9: (26, 40)}


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What is learned from. A training or test file makes the source `file`, whatever `source` says."""

    __pydantic_config__ = {"extra": "forbid"}

    task: Literal["sudoku"] = "sudoku"
    size: Literal[4, 6, 9] = 9  # cells along a side; sequence length is its square, vocabulary size + 2
    source: Source = "packaged"  # packaged: 9,000 hard 9x9 puzzles; generated: made on first use; file: train_file
    train_file: str | None = None  # CSV or CSV.gz with source,question,answer,rating; given => source is file
    test_file: str | None = None  # same format, never trained on; null: a test split is cut from train_file
    num_train: int = 20_000  # puzzles to generate for training (source=generated)
    num_val: int = 1_000  # puzzles to generate for validation (source=generated)
    num_test: int = 1_000  # puzzles to generate for the test split (source=generated)
    clues: tuple[int, int] | None = (
        None  # fewest and most given cells of generated puzzles; null: (4,10) (10,20) (26,40)
    )
    val_fraction: float = 0.1  # share of the training examples cut off for validation, by group (packaged, file)
    test_fraction: float = 0.1  # share cut off for test where there is no test file (file)
    max_train: int | None = None  # train on a fixed subset of this many examples, e.g. 1000; null: all
    augment: bool = True  # random symmetries of each training example (digits, bands, rows, stacks, columns, transpose)
    seed: int = 0  # of generation, split, subset and verification sample; not of the training order
    leakage: Literal["error", "remove", "allow"] = (
        "error"  # groups shared with test: stop, drop from train and val, or warn
    )
    verify: Literal["auto", "full", "sample"] = (
        "auto"  # uniqueness of file puzzles: every row (about 1 ms each) or a sample
    )
    verify_all_up_to: int = 20_000  # rows up to which verify=auto checks every row
    verify_sample: int = 2_000  # rows whose uniqueness a sample checks; all other checks run on every row
    cache_dir: str | None = None  # folder of generated and parsed data; null: $TITANS_TRM_DATA or ~/.cache/titans_trm

    def __post_init__(self) -> None:
        _one_of("data.task", self.task, ("sudoku",))
        _one_of("data.size", self.size, (4, 6, 9))
        _one_of("data.source", self.source, ("packaged", "generated", "file"))
        _one_of("data.leakage", self.leakage, ("error", "remove", "allow"))
        _one_of("data.verify", self.verify, ("auto", "full", "sample"))
        for name in ("num_train", "num_val", "num_test", "verify_sample"):
            _at_least(f"data.{name}", getattr(self, name), 1)
        _at_least("data.verify_all_up_to", self.verify_all_up_to, 0)
        _at_least("data.seed", self.seed, 0)
        if self.max_train is not None:
            _at_least("data.max_train", self.max_train, 1)
        self._check_source()
        self._check_fractions()
        self._check_clues()

    @property
    def resolved_source(self) -> Source:
        """Where examples come from once a given file has had its say."""
        return "file" if self.train_file is not None else self.source

    @property
    def clue_range(self) -> tuple[int, int]:
        """Fewest and most clues of a generated puzzle."""
        return DEFAULT_CLUES[self.size] if self.clues is None else (self.clues[0], self.clues[1])

    def _check_source(self) -> None:
        if self.train_file is None and self.test_file is not None:
            raise ValueError(
                f"data.test_file={self.test_file} is given without data.train_file; give both, or use evaluate.py with "
                "file=... to test a trained model on a file."
            )
        if self.resolved_source == "file" and self.train_file is None:
            raise ValueError("data.source=file needs data.train_file=PATH (CSV or CSV.gz).")
        if self.resolved_source == "packaged" and self.size != 9:
            raise ValueError(
                f"data.source=packaged holds 9x9 puzzles, not data.size={self.size}; use data.source=generated."
            )

    def _check_fractions(self) -> None:
        for name in ("val_fraction", "test_fraction"):
            value = getattr(self, name)
            if not 0.0 < value < 1.0:
                raise ValueError(f"data.{name}={value} is not a share between 0 and 1; choose for example 0.1.")
        if self.val_fraction + self.test_fraction >= 1.0:
            raise ValueError(
                f"data.val_fraction={self.val_fraction} and data.test_fraction={self.test_fraction} leave nothing to "
                "train on; choose a sum below 1."
            )

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


def _at_least(key: str, value: int, low: int) -> None:
    if value < low:
        raise ValueError(f"{key}={value} is too small; choose {low} or more.")


def _one_of(key: str, value: object, allowed: tuple[object, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{key}={value!r} is not one of {', '.join(map(str, allowed))}.")
