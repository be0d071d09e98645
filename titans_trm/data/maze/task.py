"""Mazes: find a shortest path from S to G.

Tokens: 0 PAD, 1 wall `#`, 2 free, 3 start `S`, 4 goal `G`, 5 path `o`. The targets are all cells of the solved maze.

Nearly every maze has several shortest paths; the label is the one of the rule in `paths.py`, so that `exact_accuracy`
compares with published numbers. `valid_optimal` counts every shortest path, as the HRM paper does.

The group that a split must not cut is the layout of walls up to the eight symmetries of the square, whatever S and G.
"""

import hashlib
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from titans_trm.data.cache import Built
from titans_trm.data.examples import ExampleSet
from titans_trm.data.maze.config import MazeConfig
from titans_trm.data.maze.files import SYMBOLS, judge, read_table
from titans_trm.data.maze.generator import VERSION, Mazes, generate_mazes
from titans_trm.data.maze.paths import is_shortest_path, label_paths, pack
from titans_trm.data.sources import file_splits, generated_splits, read_cached
from titans_trm.data.spec import TaskSpec, Undo
from titans_trm.data.splits import GroupAllocator
from titans_trm.errors import InputError

WALL, FREE, START, GOAL, WAY = range(1, len(SYMBOLS) + 1)
_BARREN_BLOCKS = 20  # generated blocks without a single new maze after which the request counts as impossible
_DIHEDRAL = 8  # symmetries of the square
_PROGRESS_LINES = 10  # lines of log while mazes are generated

logger = logging.getLogger(__name__)


class MazeTask:
    """Mark a shortest path."""

    generator_version = VERSION
    reader_version = 1

    def __init__(self, size: int) -> None:
        self.size = size
        self.spec = TaskSpec(
            name=f"maze_{size}x{size}",
            seq_len=size * size,
            vocab_size=len(SYMBOLS) + 1,
            grid_shape=(size, size),
            exactness="A maze is exactly right when every cell equals the labelled path, one of several shortest ones.",
            headline="valid_optimal",
            valid=self.valid_optimal,
        )

    @classmethod
    def from_config(cls, config: MazeConfig) -> "MazeTask":
        """Return the task of a configuration."""
        return cls(config.size)

    def splits(self, config: MazeConfig) -> Built:
        """Return `train`, `val` and `test` from the configured source, and manifest entries."""
        return generated_splits(self, config) if config.resolved_source == "generated" else file_splits(self, config)

    def read_examples(self, path: str, config: MazeConfig) -> tuple[ExampleSet, dict[str, Any]]:
        """Return the checked mazes of a CSV or CSV.gz file, and manifest entries (cached by content)."""
        return read_cached(self, path, config)

    def generation_identity(self, config: MazeConfig) -> dict[str, Any]:
        """Return what generated mazes depend on, beside size, seed and counts."""
        return {"walls": list(config.walls), "min_path": config.min_path}

    def reading_identity(self, config: MazeConfig) -> dict[str, Any]:
        """Return what the check of a file depends on, beside its bytes: nothing."""
        return {}

    def read(self, path: str, raw: bytes, config: MazeConfig) -> tuple[ExampleSet, dict[str, Any]]:
        """Return all rows of a CSV or CSV.gz file, checked, and manifest entries.

        An answer may be any shortest path; the manifest counts those that are not the one of the label rule.
        """
        table = read_table(path, raw, self.size)
        entries = {
            "licence": "the file's own",
            "rating_kind": "as given in the file; cells of the shortest path in the public set",
            "answers_beside_the_label_rule": table.other_labels,
            "rows": len(table.sources),
        }
        examples = ExampleSet(
            name=path,
            inputs=torch.from_numpy(table.questions.copy()),
            targets=torch.from_numpy(table.answers.copy()),
            keys=self._keys(table.questions == WALL),
            sources=table.sources,
            ratings=torch.from_numpy(table.ratings),
        )
        return examples, entries

    def generate(self, config: MazeConfig) -> Built:
        """Return `train`, `val` and `test` of exactly the configured sizes, sharing no layout of walls."""
        quotas = {"val": config.num_val, "test": config.num_test, "train": config.num_train}
        allocator, barren = GroupAllocator(quotas), 0
        kept: dict[str, list[tuple[np.ndarray, np.ndarray, int, str]]] = {name: [] for name in quotas}
        seen: set[str] = set()
        total = sum(quotas.values())
        for block in generate_mazes(self.size, config.walls, config.min_path, config.seed):
            questions, answers = _tokens(block)
            before = sum(allocator.filled.values())
            keys = self._keys(questions == WALL)
            for question, answer, length, key in zip(questions, answers, block.lengths, keys, strict=True):
                if key not in seen:
                    seen.add(key)
                    if (split := allocator.assign(key)) is not None:
                        kept[split].append((question, answer, int(length), key))
                if allocator.complete:
                    break
            if allocator.complete:
                break
            found = sum(allocator.filled.values())
            if found * _PROGRESS_LINES // total > before * _PROGRESS_LINES // total:
                logger.info("%d of %d mazes generated", found, total)
            barren = 0 if found > before else barren + 1
            if barren == _BARREN_BLOCKS:
                raise InputError(
                    f"data.min_path={config.min_path} is longer than mazes of data.size={self.size} with data.walls="
                    f"{list(config.walls)} get: {allocator.filled} found; ask for shorter paths or other walls."
                )
        entries = {
            "licence": "CC0-1.0",
            "rating_kind": "cells of the shortest path, S and G included",
            "walls": list(config.walls),
            "min_path": config.min_path,
        }
        return {name: self._generated(name, kept[name]) for name in ("train", "val", "test")}, entries

    def canonical_keys(self, inputs: Tensor, targets: Tensor) -> list[str]:
        """Return the group key of each `(B, N)` maze: a SHA-256, equal for layouts that are turned or mirrored."""
        return self._keys(inputs.numpy() == WALL)

    def augment(self, inputs: Tensor, targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Turn or mirror each `(B, N)` maze at random; the label is worked out anew: its rule has a direction."""
        which = torch.randint(_DIHEDRAL, (len(inputs),), generator=generator).numpy()
        grids = inputs.numpy().reshape(-1, self.size, self.size)
        moved = np.empty_like(grids)
        for number in range(_DIHEDRAL):
            rows = np.nonzero(which == number)[0]
            moved[rows] = dihedral(grids[rows], number)
        questions = moved.reshape(len(inputs), -1)
        return torch.from_numpy(questions), torch.from_numpy(self.solve(questions))

    def view(self, inputs: Tensor, generator: torch.Generator) -> tuple[Tensor, Undo]:
        """Return each `(B, N)` maze turned or mirrored at random, and what leads answers `(B, N)` back."""
        which = torch.randint(_DIHEDRAL, (len(inputs),), generator=generator)
        grid = np.arange(self.spec.seq_len).reshape(1, self.size, self.size)
        moves = np.concatenate([dihedral(grid, number).reshape(1, -1) for number in range(_DIHEDRAL)])
        cells = torch.from_numpy(moves)[which]
        back = cells.argsort(dim=1)
        return inputs.gather(1, cells), lambda answers: answers.gather(1, back)

    def solve(self, questions: np.ndarray) -> np.ndarray:
        """Return the labelled answers of `(M, N)` mazes."""
        open_cells, starts, goals = self._geometry(questions)
        paths, _ = label_paths(open_cells, starts, goals)
        way = paths.reshape(len(questions), -1) & (questions == FREE)
        return np.where(way, np.uint8(WAY), questions)

    def valid_optimal(self, inputs: Tensor, answers: Tensor) -> Tensor:
        """Return which `(B, N)` answers are the maze with a path as short as any, (B,) bool."""
        questions, given = inputs.cpu().numpy(), answers.cpu().numpy()
        open_cells, starts, goals = self._geometry(questions)
        same = (np.where(given == WAY, FREE, given) == questions).all(axis=1)
        path = (np.isin(questions, (START, GOAL)) | (given == WAY)).reshape(-1, self.size, self.size)
        return torch.from_numpy(same & is_shortest_path(path, open_cells, starts, goals)).to(inputs.device)

    def validate(self, inputs: Tensor, targets: Tensor) -> None:
        """Raise `InputError` naming the `(B, N)` examples whose target is no shortest path."""
        faults, _ = judge(inputs.numpy(), targets.numpy(), self.size)
        if faults:
            row = min(faults)
            raise InputError(f"{len(faults)} of {len(inputs)} mazes are bad; first example {row}: {faults[row]}.")

    def _geometry(self, questions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        open_cells = pack((questions != WALL).reshape(-1, self.size, self.size))
        return open_cells, (questions == START).argmax(axis=1), (questions == GOAL).argmax(axis=1)

    def _keys(self, walls: np.ndarray) -> list[str]:
        grids = walls.reshape(-1, self.size, self.size)
        images = [
            np.packbits(dihedral(grids, number).reshape(len(grids), self.spec.seq_len), axis=1)
            for number in range(_DIHEDRAL)
        ]
        prefix = self.spec.name.encode()
        least = (min(image[row].tobytes() for image in images) for row in range(len(grids)))
        return [hashlib.sha256(prefix + form).hexdigest() for form in least]

    def _generated(self, name: str, rows: Sequence[tuple[np.ndarray, np.ndarray, int, str]]) -> ExampleSet:
        questions, answers, lengths, keys = zip(*rows, strict=True)
        return ExampleSet(
            name=name,
            inputs=torch.from_numpy(np.stack(questions)),
            targets=torch.from_numpy(np.stack(answers)),
            keys=list(keys),
            sources=[f"maze_generator_v{VERSION}"] * len(rows),
            ratings=torch.tensor(lengths, dtype=torch.int64),
        )


def dihedral(grids: np.ndarray, number: int) -> np.ndarray:
    """Return `(M, n, n)` grids under symmetry `number`: 0 to 3 turn by quarters, 4 to 7 mirror first."""
    if number >= 4:
        grids = grids[:, :, ::-1]
    return np.rot90(grids, number % 4, axes=(1, 2))


def _tokens(mazes: Mazes) -> tuple[np.ndarray, np.ndarray]:
    """Return questions and answers `(M, N)` as uint8 tokens."""
    count, size, _ = mazes.walls.shape
    rows = np.arange(count)
    questions = np.where(mazes.walls, WALL, FREE).astype(np.uint8).reshape(count, size * size)
    questions[rows, mazes.starts], questions[rows, mazes.goals] = START, GOAL
    way = mazes.paths.reshape(count, size * size) & (questions == FREE)
    return questions, np.where(way, np.uint8(WAY), questions)
