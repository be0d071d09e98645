"""Sudoku of 4x4, 6x6 and 9x9 cells.

Tokens: 0 PAD, 1 blank, d + 1 for digit d. The targets are all cells of the solution.

Groups that a split must not cut. 6x6 and 9x9: puzzles whose solution grids are the same up to symmetry. Puzzles that
are merely inequivalent would not do: one grid carries many, and a model trained with random symmetries knows the grid.
4x4 has only 2 solution grids up to symmetry, so there the group is the puzzle itself up to symmetry. 6x6 has 49 grids
up to symmetry, the commonest being 8.8 % of all: its validation and test sets hold few classes.
"""

import hashlib
import json
import logging
from collections.abc import Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from titans_trm.data.cache import Built
from titans_trm.data.examples import ExampleSet
from titans_trm.data.files import decompress, sha256
from titans_trm.data.sources import file_splits, generated_splits, packaged_splits, read_cached
from titans_trm.data.spec import TaskSpec, Undo
from titans_trm.data.splits import GroupAllocator
from titans_trm.data.sudoku.canonical import canonical_form
from titans_trm.data.sudoku.config import SudokuConfig
from titans_trm.data.sudoku.files import Table, check_uniqueness, read_table
from titans_trm.data.sudoku.generator import VERSION, generate_puzzles
from titans_trm.data.sudoku.geometry import Geometry
from titans_trm.data.sudoku.rules import find_faults
from titans_trm.data.sudoku.solver import solve
from titans_trm.errors import InputError

_BLANK = 1  # token of an empty cell; token = digit + 1
_BARREN_BLOCKS = 20  # generated blocks without a single new example after which the space counts as exhausted
_SAMPLE_STREAM = 1  # random stream of the verification sample

logger = logging.getLogger(__name__)


class SudokuTask:
    """Fill in the grid: every digit once in each row, column and box."""

    generator_version = VERSION
    reader_version = 1

    def __init__(self, size: int) -> None:
        self.geometry = Geometry.of(size)
        self.spec = TaskSpec(
            name=f"sudoku_{size}x{size}",
            seq_len=self.geometry.cells,
            vocab_size=size + 2,
            grid_shape=(size, size),
            labels=("pad", "blank", *map(str, range(1, size + 1))),
            exactness="A puzzle is exactly right when all cells of the grid equal its only solution.",
        )

    @classmethod
    def from_config(cls, config: SudokuConfig) -> "SudokuTask":
        """Return the task of a configuration."""
        return cls(config.size)

    def splits(self, config: SudokuConfig) -> Built:
        """Return `train`, `val` and `test` from the configured source, and manifest entries."""
        if config.resolved_source == "packaged":
            return packaged_splits(*self.packaged(), config)
        return generated_splits(self, config) if config.resolved_source == "generated" else file_splits(self, config)

    def read_examples(self, path: str, config: SudokuConfig) -> tuple[ExampleSet, dict[str, Any]]:
        """Return the checked puzzles of a CSV or CSV.gz file, and manifest entries (cached by content)."""
        return read_cached(self, path, config)

    def generation_identity(self, config: SudokuConfig) -> dict[str, Any]:
        """Return what generated puzzles depend on, beside size, seed and counts."""
        return {"clues": list(config.clue_range)}

    def reading_identity(self, config: SudokuConfig) -> dict[str, Any]:
        """Return what the check of a file depends on, beside its bytes."""
        return {"verify": [config.verify, config.verify_all_up_to, config.verify_sample, config.seed]}

    def packaged(self, folder: Traversable | None = None) -> tuple[ExampleSet, ExampleSet, dict[str, Any]]:
        """Return the 8,000 training and 1,000 test puzzles of the package (9x9), and manifest entries.

        `folder` is where they lie, with their MANIFEST.json; by default inside the package.

        Their uniqueness was verified when they were made; the checksums in the manifest stand for it.
        """
        if folder is None:
            folder = resources.files("titans_trm.data") / "resources" / "sudoku"
        manifest = json.loads((folder / "MANIFEST.json").read_text(encoding="utf-8"))
        sets: dict[str, ExampleSet] = {}
        for split in ("train", "test"):
            about = manifest["splits"][split]
            raw = (folder / about["file"]).read_bytes()
            if sha256(decompress(about["file"], raw)) != about["sha256"]:
                raise InputError(f"{folder / about['file']}: the bytes have changed; install the package again.")
            sets[split] = self._examples(split, read_table(about["file"], raw, self.geometry))
        entries = {
            "licence": manifest["licence"],
            "rating_kind": manifest["rating_kind"],
            "files": {about["file"]: {"sha256": about["sha256"]} for about in manifest["splits"].values()},
        }
        return sets["train"], sets["test"], entries

    def read(self, path: str, raw: bytes, config: SudokuConfig) -> tuple[ExampleSet, dict[str, Any]]:
        """Return all rows of a CSV or CSV.gz file, checked, and manifest entries.

        Every row is checked against the rules; uniqueness is checked on all rows or on a seeded sample, as
        `config.verify` says. `InputError` names the file and up to five bad rows with line and reason.
        """
        table = read_table(path, raw, self.geometry)
        count = len(table.lines)
        rows = np.arange(count)
        if config.verify == "sample" or (config.verify == "auto" and count > config.verify_all_up_to):
            bits = np.random.PCG64(np.random.SeedSequence([_SAMPLE_STREAM, config.seed]))
            rows = np.sort(bits.random_raw(count).argsort(kind="stable")[: config.verify_sample])
        logger.info("%s: %d puzzles; checking that %d of them have one solution", path, count, len(rows))
        check_uniqueness(table, rows, self.geometry)
        entries = {
            "licence": "the file's own",
            "rating_kind": "as given in the file",
            "uniqueness_checked": len(rows),
            "rows": count,
        }
        return self._examples(path, table), entries

    def generate(self, config: SudokuConfig) -> Built:
        """Return `train`, `val` and `test` of exactly the configured sizes, sharing no group and no puzzle."""
        quotas = {"val": config.num_val, "test": config.num_test, "train": config.num_train}
        allocator, seen, barren = GroupAllocator(quotas), set[bytes](), 0
        kept: dict[str, list[tuple[np.ndarray, np.ndarray, int, str]]] = {name: [] for name in quotas}
        for block in generate_puzzles(self.geometry, config.clue_range, config.seed):
            keys = self._keys(block.puzzles, block.solutions)
            before = sum(allocator.filled.values())
            for puzzle, solution, rating, key in zip(block.puzzles, block.solutions, block.ratings, keys, strict=True):
                if (text := puzzle.tobytes()) not in seen:
                    seen.add(text)
                    if (split := allocator.assign(key)) is not None:
                        kept[split].append((puzzle, solution, int(rating), key))
            if allocator.complete:
                break
            barren = 0 if sum(allocator.filled.values()) > before else barren + 1
            if barren == _BARREN_BLOCKS:
                raise InputError(
                    f"data.num_train, num_val, num_test = {config.num_train}, {config.num_val}, {config.num_test} are "
                    f"more {self.geometry.size}x{self.geometry.size} puzzles of {config.clue_range} clues than can be "
                    f"found: {allocator.filled} so far; ask for fewer or for a wider range of data.clues."
                )
        sets = {name: self._generated(name, kept[name]) for name in ("train", "val", "test")}
        entries = {
            "licence": "CC0-1.0",
            "rating_kind": "nodes at which the singles solver branches to prove uniqueness",
            "clues": list(config.clue_range),
            "surplus_not_used": allocator.surplus,
        }
        return sets, entries

    def canonical_keys(self, inputs: Tensor, targets: Tensor) -> list[str]:
        """Return the group key of each `(B, N)` puzzle and solution: a SHA-256, equal for symmetric copies."""
        return self._keys(_to_digits(inputs), _to_digits(targets))

    def augment(self, inputs: Tensor, targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Apply to each `(B, N)` puzzle and its solution one random symmetry.

        Digits are relabelled; bands, rows within a band, stacks and columns within a stack are permuted; with square
        boxes half of the grids are transposed. All `(B, N)` tokens are drawn and moved at once.
        """
        labels, cells = self._symmetries(len(inputs), generator)
        first, second = (labels.gather(1, tokens.gather(1, cells).long()) for tokens in (inputs, targets))
        return first.to(inputs.dtype), second.to(inputs.dtype)

    def view(self, inputs: Tensor, generator: torch.Generator) -> tuple[Tensor, Undo]:
        """Return each `(B, N)` puzzle under a random symmetry, and what leads answers `(B, N)` back."""
        labels, cells = self._symmetries(len(inputs), generator)
        back_labels, back_cells = labels.argsort(dim=1), cells.argsort(dim=1)
        shown = labels.gather(1, inputs.gather(1, cells).long()).to(inputs.dtype)
        return shown, lambda answers: back_labels.gather(1, answers.gather(1, back_cells))

    def _symmetries(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw `count` symmetries: the new label of each token (B, V), and the cell each cell is taken from (B, N)."""
        geometry = self.geometry
        digits = _permutations(count, 1, geometry.size, generator)[:, 0] + _BLANK + 1
        labels = torch.cat([torch.arange(_BLANK + 1).expand(count, -1), digits], dim=1)
        rows = _line_order(count, geometry.bands, geometry.box_rows, generator)
        columns = _line_order(count, geometry.stacks, geometry.box_cols, generator)
        cells = rows[:, :, None] * geometry.size + columns[:, None, :]  # (B, size, size)
        if geometry.square:
            transposed = torch.rand(count, 1, 1, generator=generator) < 0.5
            cells = torch.where(transposed, cells.transpose(1, 2), cells)
        return labels, cells.flatten(1)

    def validate(self, inputs: Tensor, targets: Tensor) -> None:
        """Raise `InputError` naming the `(B, N)` examples that break a rule or have several solutions."""
        puzzles, solutions = _to_digits(inputs), _to_digits(targets)
        faults = find_faults(puzzles, solutions, self.geometry)
        sound = np.array([row for row in range(len(puzzles)) if row not in faults], dtype=np.int64)
        counts = solve(puzzles[sound], self.geometry).counts
        faults |= dict.fromkeys(sound[counts != 1].tolist(), "the question has several solutions")
        if faults:
            row = min(faults)
            raise InputError(f"{len(faults)} of {len(puzzles)} puzzles are bad; first example {row}: {faults[row]}.")

    def _keys(self, puzzles: np.ndarray, solutions: np.ndarray) -> list[str]:
        canonical_puzzles, grids = canonical_form(puzzles, solutions, self.geometry)
        forms = canonical_puzzles if self.geometry.size == 4 else grids
        prefix = self.spec.name.encode()
        return [hashlib.sha256(prefix + form.tobytes()).hexdigest() for form in forms]

    def _examples(self, name: str, table: Table) -> ExampleSet:
        return ExampleSet(
            name=name,
            inputs=torch.from_numpy(table.puzzles + np.uint8(1)),
            targets=torch.from_numpy(table.solutions + np.uint8(1)),
            keys=self._keys(table.puzzles, table.solutions),
            sources=table.sources,
            ratings=torch.from_numpy(table.ratings),
        )

    def _generated(self, name: str, rows: Sequence[tuple[np.ndarray, np.ndarray, int, str]]) -> ExampleSet:
        puzzles, solutions, ratings, keys = zip(*rows, strict=True)
        return ExampleSet(
            name=name,
            inputs=torch.from_numpy(np.stack(puzzles) + np.uint8(1)),
            targets=torch.from_numpy(np.stack(solutions) + np.uint8(1)),
            keys=list(keys),
            sources=[f"sudoku_generator_v{VERSION}"] * len(rows),
            ratings=torch.tensor(ratings, dtype=torch.int64),
        )


def _to_digits(tokens: Tensor) -> np.ndarray:
    """Return tokens as uint8 digits, 0 = blank."""
    if tokens.numel() and int(tokens.min()) < _BLANK:
        raise InputError(f"token {int(tokens.min())} is no Sudoku cell; use 1 for a blank and digit + 1 for a digit.")
    return (tokens - _BLANK).to(torch.uint8).numpy()


def _permutations(count: int, times: int, length: int, generator: torch.Generator) -> Tensor:
    """Return `(count, times, length)` random permutations of 0..length-1."""
    return torch.rand(count, times, length, generator=generator).argsort(dim=2)


def _line_order(count: int, groups: int, lines: int, generator: torch.Generator) -> Tensor:
    """Return `(count, groups * lines)` orders of rows (or columns) that keep bands (or stacks) together."""
    outer = _permutations(count, 1, groups, generator)[:, 0]
    inner = _permutations(count, groups, lines, generator)
    return (outer[:, :, None] * lines + inner).flatten(1)
