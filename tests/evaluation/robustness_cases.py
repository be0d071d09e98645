"""A small model and small sets of 4x4 puzzles."""

import torch

from titans_trm.data.examples import ExampleSet
from titans_trm.data.sudoku.config import SudokuConfig
from titans_trm.data.sudoku.task import SudokuTask
from titans_trm.models.config import (
    BackboneConfig,
    HaltingConfig,
    MemoryConfig,
    RecursionConfig,
    TitansTRMConfig,
)
from titans_trm.models.titans_trm import TitansTRM


def nano(*, num_recursions: int = 2, max_supervision_steps: int = 2) -> TitansTRM:
    """Return an untrained model of 4x4 Sudoku in evaluation mode."""
    torch.manual_seed(0)
    config = TitansTRMConfig(
        vocab_size=6,
        seq_len=16,
        width=16,
        backbone=BackboneConfig(num_blocks=1, num_heads=2, mlp_hidden=24, num_persistent_tokens=1),
        memory=MemoryConfig(num_heads=2, expansion=2),
        recursion=RecursionConfig(num_latent_steps=1, num_recursions=num_recursions),
        halting=HaltingConfig(max_supervision_steps=max_supervision_steps),
    )
    return TitansTRM(config).eval()


def examples_of(*, clues: tuple[int, int], seed: int, count: int, split: str = "train") -> ExampleSet:
    """Return freshly generated puzzles."""
    sizes = {"num_train": 1, "num_val": 1, "num_test": 1, f"num_{split}": count}
    config = SudokuConfig(size=4, source="generated", clues=clues, seed=seed, **sizes)
    return SudokuTask(4).generate(config)[0][split]
