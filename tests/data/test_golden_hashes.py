"""The same seed gives the same examples, to the byte, on every machine and with every version of NumPy.

A hash that changes without a reason is a changed random stream: caches, splits and published scores would silently be
of other data. With a reason, raise the task's `generator_version` (or `reader_version`) and write the new hash here.
"""

import hashlib
from functools import partial

import numpy as np
import pytest

from titans_trm.data.arc.files import Puzzle
from titans_trm.data.arc.views import ViewTable
from titans_trm.data.load import load_data
from titans_trm.data.sudoku.config import SudokuConfig

SMALL = {"source": "generated", "num_train": 64, "num_val": 8, "num_test": 8}
GOLDEN = {  # configuration, generator version, SHA-256 of the 64 training examples
    "sudoku_4x4": (
        partial(SudokuConfig, size=4, **SMALL),
        1,
        "6ed4adb9e38629cdf0a1ecf61181ce1a0d944ae21f5ad582969c3fcb20975c50",
    ),
    "sudoku_6x6": (
        partial(SudokuConfig, size=6, **SMALL),
        1,
        "c9bf732ff7c0306197789824be607bf2550d9bf6976169538a98c3414b8a85f5",
    ),
    "sudoku_9x9": (
        partial(SudokuConfig, size=9, **SMALL),
        1,
        "0df85672dea3c9e77e3a966abca2a5298623715145a0ae41def9bfe09b824595",
    ),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_generated_data_have_their_golden_hash(name, tmp_path):
    config, version, digest = GOLDEN[name]
    data = load_data(config(cache_dir=str(tmp_path)))
    assert (data.manifest["generator_version"], data.train.sha256) == (version, digest)


def test_the_views_of_an_arc_puzzle_have_their_golden_hash():
    grid = np.arange(9, dtype=np.uint8).reshape(3, 3)
    table = ViewTable.draw([Puzzle("set/id", [(grid, grid.T)], [(grid[:2], grid)])], 50, seed=3)
    content = table.dihedral.numpy().astype("<i8").tobytes() + table.colours.numpy().astype("<i8").tobytes()
    assert hashlib.sha256(content).hexdigest() == ""
