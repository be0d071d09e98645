import json

import numpy as np
import pytest
import torch
from arc_cases import config as arc_config

from titans_trm.data.load import load_data
from titans_trm.data.reference_layout import read_layout, write_layout
from titans_trm.data.sudoku.config import SudokuConfig
from titans_trm.errors import InputError


def sudoku(tmp_path, **values):
    small = {"size": 4, "source": "generated", "num_train": 40, "num_val": 5, "num_test": 10}
    return load_data(SudokuConfig(cache_dir=str(tmp_path / "cache"), **(small | values)))


def exported(tmp_path, data):
    folder = tmp_path / "trm"
    write_layout(folder, {"train": data.train, "test": data.test()}, data.spec)
    return folder


def test_examples_come_back_as_they_were(tmp_path):
    data = sudoku(tmp_path)
    folder = exported(tmp_path, data)
    for name, examples in {"train": data.train, "test": data.test()}.items():
        again, about = read_layout(folder, name)
        assert torch.equal(again.inputs, examples.inputs) and torch.equal(again.targets, examples.targets)
        assert (about["seq_len"], about["vocab_size"], about["num_puzzle_identifiers"]) == (16, 6, 1)
        assert again.puzzle_ids is None
    assert json.loads((folder / "identifiers.json").read_text()) == ["<blank>"]


def test_a_sampler_of_the_layout_finds_every_puzzle_with_its_own_examples(tmp_path):
    data = load_data(arc_config(tmp_path))
    folder = exported(tmp_path, data) / "train"
    parts = {
        name: np.load(folder / f"all__{name}.npy")
        for name in ("inputs", "puzzle_identifiers", "puzzle_indices", "group_indices")
    }
    seen = []
    for group in range(len(parts["group_indices"]) - 1):
        for puzzle in range(parts["group_indices"][group], parts["group_indices"][group + 1]):
            rows = range(parts["puzzle_indices"][puzzle], parts["puzzle_indices"][puzzle + 1])
            wanted = data.train.inputs[data.train.puzzle_ids == int(parts["puzzle_identifiers"][puzzle])]
            assert sorted(map(bytes, parts["inputs"][rows])) == sorted(map(bytes, wanted.numpy()))
            seen += rows
    assert seen == list(range(len(data.train)))
    again, about = read_layout(folder.parent, "train")
    assert about["num_puzzle_identifiers"] == data.spec.num_puzzle_ids
    assert sorted(again.puzzle_ids.tolist()) == sorted(data.train.puzzle_ids.tolist())


def test_wide_integers_a_missing_total_and_another_ignore_label_are_accepted(tmp_path):
    data = sudoku(tmp_path)
    place = exported(tmp_path, data) / "train"
    for part in ("inputs", "labels"):
        np.save(place / f"all__{part}.npy", np.load(place / f"all__{part}.npy").astype(np.int64))
    labels = np.load(place / "all__labels.npy")
    labels[3, 4] = -100
    np.save(place / "all__labels.npy", labels)
    about = json.loads((place / "dataset.json").read_text())
    del about["total_puzzles"]
    (place / "dataset.json").write_text(json.dumps(about | {"ignore_label_id": -100}))
    again, about = read_layout(place.parent, "train")
    assert again.inputs.dtype == torch.uint8 and torch.equal(again.inputs, data.train.inputs)
    assert again.targets[3, 4] == 0
    assert about["total_puzzles"] == about["total_groups"] == 40


def test_a_folder_of_the_layout_trains_and_tests_like_a_file(tmp_path):
    data = sudoku(tmp_path)
    folder = exported(tmp_path, data)
    files = {"train_file": str(folder / "train"), "test_file": str(folder / "test")}
    again = sudoku(tmp_path, **files)
    assert again.test().keys == data.test().keys
    assert len(again.train) + len(again.val) == 40
    with pytest.raises(InputError, match="seq_len=16 and vocab_size=6 are not those of sudoku_9x9"):
        sudoku(tmp_path, size=9, **files)


def test_an_unfaithful_answer_in_a_folder_is_refused(tmp_path):
    data = sudoku(tmp_path)
    folder = exported(tmp_path, data)
    labels = np.load(folder / "train" / "all__labels.npy")
    labels[0] = labels[1]
    np.save(folder / "train" / "all__labels.npy", labels)
    with pytest.raises(InputError, match="1 of 40 puzzles are bad; first example 0"):
        sudoku(tmp_path, train_file=str(folder / "train"), test_file=str(folder / "test"))


def _damage(place, part, change):
    np.save(place / f"all__{part}.npy", change(np.load(place / f"all__{part}.npy")), allow_pickle=True)


@pytest.mark.parametrize(
    ("part", "change", "reason"),
    [
        ("inputs", lambda a: a[:, :5], "do not fit seq_len=16"),
        ("inputs", lambda a: a + 9, "inputs hold 10 to 14, not 0 to 5"),
        ("inputs", lambda a: a.astype(float), "float64, not integers"),
        ("inputs", lambda a: np.array([{}]), "is no plain array"),
        ("puzzle_indices", lambda a: a[1:], "puzzle_indices do not rise from 0 to 40"),
        ("group_indices", lambda a: a[::-1], "group_indices do not rise from 0 to 40"),
        ("puzzle_identifiers", lambda a: a[1:], "39 puzzle_identifiers for 40 puzzles"),
    ],
)
def test_damaged_arrays_are_named_and_nothing_is_unpickled(tmp_path, part, change, reason):
    place = exported(tmp_path, sudoku(tmp_path)) / "train"
    _damage(place, part, change)
    with pytest.raises(InputError, match=reason):
        read_layout(place.parent, "train")


def test_missing_and_unreadable_files_are_named(tmp_path):
    place = exported(tmp_path, sudoku(tmp_path)) / "train"
    (place / "all__labels.npy").unlink()
    with pytest.raises(InputError, match="all__labels.npy: cannot be read"):
        read_layout(place.parent, "train")
    (place / "dataset.json").write_text("{}")
    with pytest.raises(InputError, match="lacks pad_id"):
        read_layout(place.parent, "train")
    (place / "dataset.json").write_text("{")
    with pytest.raises(InputError, match="is no JSON"):
        read_layout(place.parent, "train")
    with pytest.raises(InputError, match="dataset.json: cannot be read"):
        read_layout(place.parent, "valid")
    with pytest.raises(InputError, match="cannot be written"):
        write_layout(place / "dataset.json", {"train": sudoku(tmp_path).train}, sudoku(tmp_path).spec)
