import subprocess
import sys

import pytest

from titans_trm.data.sudoku.config import SudokuConfig


def test_a_training_file_makes_the_source_a_file_even_from_a_packaged_preset():
    config = SudokuConfig(source="packaged", train_file="train.csv", test_file="test.csv")
    assert config.resolved_source == "file"
    assert SudokuConfig().resolved_source == "packaged"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"test_file": "t.csv"}, "data.train_file"),
        ({"source": "file"}, "data.train_file=PATH"),
        ({"size": 6}, "data.source=generated"),
        ({"size": 5}, "4, 6, 9"),
        ({"source": "web"}, "packaged, generated, file"),
        ({"task": "chess"}, "data.task"),
        ({"leakage": "ignore"}, "error, remove, allow"),
        ({"verify": "never"}, "auto, full, sample"),
        ({"val_fraction": 0.0}, "data.val_fraction=0.0"),
        ({"test_fraction": 1.0}, "data.test_fraction=1.0"),
        ({"val_fraction": 0.6, "test_fraction": 0.5}, "sum below 1"),
        ({"num_val": 0}, "data.num_val=0"),
        ({"max_train": 0}, "data.max_train=0"),
        ({"seed": -1}, "data.seed=-1"),
        ({"fold": 5}, "choose 0 to 4"),
        ({"num_folds": 1}, "data.num_folds=1"),
        ({"fold": 1, "split_by": "temporal"}, "choose one"),
        ({"split": "90/5/5"}, "80/10/10, 70/15/15"),
        ({"split_by": "random"}, "group, stratified, temporal"),
        ({"balance": "label"}, "off, source, rating, length"),
        ({"balance_power": 0.0}, "data.balance_power=0.0"),
        ({"clues": (17, 20)}, "choose 24"),
        ({"clues": (30, 29)}, "data.clues=[30, 29]"),
        ({"clues": (30, 31, 32)}, "not a pair"),
        ({"size": 4, "source": "generated", "clues": (4, 16)}, "<= 15"),
    ],
)
def test_an_impossible_value_names_key_and_cure(values, words):
    with pytest.raises(ValueError, match="data") as caught:
        SudokuConfig(**values)
    assert words in str(caught.value)


def test_clues_have_a_default_for_each_size():
    assert SudokuConfig(size=4, source="generated").clue_range == (4, 10)
    assert SudokuConfig(clues=(30, 31)).clue_range == (30, 31)


def test_configuration_needs_no_torch():
    code = "import sys, titans_trm.data.config; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
