import fcntl
import gzip
import json
import logging
import multiprocessing
import os
import shutil
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from sudoku_cases import puzzles, row, transform, write_csv

from titans_trm.data import cache
from titans_trm.data.load import load_data, read_examples
from titans_trm.data.splits import shared_groups
from titans_trm.data.sudoku.config import SudokuConfig
from titans_trm.data.sudoku.geometry import Geometry
from titans_trm.data.sudoku.task import SudokuTask
from titans_trm.data.text.corpus import read_documents
from titans_trm.errors import InputError

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "sudoku"


def config(tmp_path, **values) -> SudokuConfig:
    small = {"size": 4, "source": "generated", "num_train": 80, "num_val": 10, "num_test": 10}
    return SudokuConfig(cache_dir=str(tmp_path / "cache"), **(small | values))


def files(tmp_path, count=60, planted=False) -> dict[str, object]:
    block = puzzles(9, count + 10)
    pairs = [[p, s] for p, s in zip(block.puzzles, block.solutions, strict=True)]
    test = pairs[count:]
    if planted:
        test = test + [transform(pair, Geometry.of(9), np.random.default_rng(0)) for pair in pairs[:5]]
    return {
        "size": 9,
        "source": "packaged",
        "train_file": write_csv(tmp_path / "train.csv", [row(*pair) for pair in pairs[:count]]),
        "test_file": write_csv(tmp_path / "test.csv.gz", [row(*pair) for pair in test]),
    }


def test_packaged_data_are_split_without_a_shared_group_and_quickly(tmp_path):
    start = time.process_time()
    data = load_data(config(tmp_path, source="packaged", size=9))
    assert time.process_time() - start < 3.0
    assert (len(data.train), len(data.val), len(data.test())) == (7200, 800, 1000)
    for first, second in [(data.train, data.val), (data.train, data.test()), (data.val, data.test())]:
        assert not shared_groups(first, second)
    assert data.manifest["licence"] == "CC0-1.0"
    assert json.loads(json.dumps(data.manifest)) == data.manifest


def test_a_sample_of_the_packaged_puzzles_has_one_solution(tmp_path):
    data = load_data(config(tmp_path, source="packaged", size=9))
    task = SudokuTask(9)
    for examples in (data.train, data.val, data.test()):
        task.validate(examples.inputs[::10], examples.targets[::10])


def test_generated_data_have_exact_counts_unique_puzzles_and_disjoint_groups(tmp_path):
    for size in (4, 6):
        data = load_data(config(tmp_path, size=size))
        splits = [data.train, data.val, data.test()]
        assert [len(examples) for examples in splits] == [80, 10, 10]
        everything = torch.cat([examples.inputs for examples in splits])
        assert len(everything.unique(dim=0)) == 100
        assert not set(data.train.keys) & set(data.val.keys + data.test().keys)


def test_generated_data_come_from_the_cache_the_second_time(tmp_path):
    first = load_data(config(tmp_path))
    entries = list((tmp_path / "cache").iterdir())
    again = load_data(config(tmp_path))
    assert again.manifest == first.manifest
    assert again.train.keys == first.train.keys
    assert list((tmp_path / "cache").iterdir()) == entries
    assert load_data(config(tmp_path, seed=1)).train.sha256 != first.train.sha256


@pytest.mark.parametrize("name", ["train.inputs.npy", "val.keys.npy", "manifest.json"])
def test_a_changed_byte_in_the_cache_is_an_error_that_names_the_file(tmp_path, name):
    load_data(config(tmp_path))
    path = next((tmp_path / "cache").rglob(name))
    raw = bytearray(path.read_bytes())
    raw[-2] ^= 1
    path.write_bytes(raw)
    with pytest.raises(InputError, match="bytes have changed") as caught:
        load_data(config(tmp_path))
    assert str(path) in str(caught.value)
    path.unlink()
    with pytest.raises(InputError, match="cannot be read"):
        load_data(config(tmp_path))


def test_an_incomplete_cache_entry_is_built_again(tmp_path):
    first = load_data(config(tmp_path))
    marker = next((tmp_path / "cache").rglob(".complete"))
    marker.unlink()
    (marker.parent / "train.inputs.npy").write_bytes(b"half")
    assert load_data(config(tmp_path)).train.sha256 == first.train.sha256
    assert marker.exists()


def test_an_unwritable_cache_costs_a_warning_not_the_run(tmp_path, caplog):
    (tmp_path / "cache").write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING):
        assert len(load_data(config(tmp_path)).train) == 80
    assert "Cannot keep data" in caplog.text


def _build_slowly(root: str) -> int:
    """Build an entry in a process of its own; return how often it was built here."""
    built = []

    def build():
        built.append(1)
        time.sleep(1.0)
        return SudokuTask(4).generate(config(Path(root)))[0], {}

    cache.cached(Path(root), "x", {"a": 1}, build)
    return len(built)


def test_of_several_processes_one_builds_and_the_others_wait(tmp_path):
    with ProcessPoolExecutor(3, mp_context=multiprocessing.get_context("fork")) as pool:
        assert sum(pool.map(_build_slowly, [str(tmp_path)] * 3)) == 1


def test_two_builders_of_one_entry_agree_where_there_are_no_locks(tmp_path, monkeypatch):
    def no_locks(file, operation):
        raise OSError("this file system has no locks")

    monkeypatch.setattr(fcntl, "flock", no_locks)

    def build_while_another_finishes():
        cache.cached(tmp_path, "x", {"a": 1}, lambda: (sets, {}))
        return sets, {}

    sets = SudokuTask(4).generate(config(tmp_path))[0]
    cache.cached(tmp_path, "x", {"a": 1}, build_while_another_finishes)
    again, _ = cache.cached(tmp_path, "x", {"a": 1}, lambda: pytest.fail("was built twice"))
    assert again["train"].sha256 == sets["train"].sha256
    assert sorted(p.name[:2] for p in tmp_path.iterdir()) == [".l", "x-"]


def test_the_cache_folder_follows_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("TITANS_TRM_DATA", str(tmp_path))
    assert cache.default_root() == tmp_path
    load_data(SudokuConfig(size=4, source="generated", num_train=8, num_val=2, num_test=2))
    assert list(tmp_path.glob("sudoku_4x4-generated-*/.complete"))
    monkeypatch.delenv("TITANS_TRM_DATA")
    assert cache.default_root() == Path.home() / ".cache" / "titans_trm"


def test_validation_is_cut_from_the_training_file_and_never_from_the_test_file(tmp_path):
    data = load_data(config(tmp_path, **files(tmp_path)))
    assert (len(data.train), len(data.val), len(data.test())) == (54, 6, 10)
    assert data.manifest["source"] == "file"
    assert len(data.manifest["files"]) == 2
    assert all(len(about["sha256"]) == 64 for about in data.manifest["files"].values())


@contextmanager
def as_nobody():
    """Give up root's right to read everything; others have no such right anyway."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_a_folder_without_rights_is_one_clear_line(tmp_path):
    load_data(config(tmp_path))
    entry = next((tmp_path / "cache").glob("sudoku*"))
    entry.chmod(0o000)
    try:
        for parent in (tmp_path, *tmp_path.parents):  # pytest's folders are private; only the entry shall be closed
            if parent.stat().st_mode & 0o5 != 0o5 and parent.owner() == tmp_path.owner() and parent != Path("/"):
                parent.chmod(parent.stat().st_mode | 0o5)
        with (
            as_nobody(),
            pytest.raises(InputError, match=r"cannot be read \(Permission denied\); make the folder") as caught,
        ):
            load_data(config(tmp_path))
        assert "\n" not in str(caught.value)
    finally:
        entry.chmod(0o755)


def test_a_folder_of_texts_that_may_not_be_listed_is_named_even_inside_another(tmp_path):
    for parent in (tmp_path, *tmp_path.parents):
        if parent.stat().st_mode & 0o55 != 0o55 and parent.owner() == tmp_path.owner() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o55)
    (tmp_path / "open.txt").write_text("text")
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o000)
    try:
        with as_nobody(), pytest.raises(InputError, match=r"closed: cannot be listed \(Permission denied\)"):
            read_documents(str(tmp_path), "*")
    finally:
        closed.chmod(0o700)


def test_folds_cut_train_and_validation_together_and_every_group_is_validated_once(tmp_path):
    seen: Counter[str] = Counter()
    for fold in range(4):
        data = load_data(config(tmp_path, fold=fold, num_folds=4))
        assert len(data.train) + len(data.val) == 90
        assert data.test().sha256 == load_data(config(tmp_path)).test().sha256
        assert not shared_groups(data.train, data.val)
        assert data.manifest["fold"].startswith(f"{fold} of 4")
        seen.update(set(data.val.keys))
    assert set(seen.values()) == {1}
    assert len(list((tmp_path / "cache").glob("sudoku*"))) == 1


def test_a_preset_sets_both_shares_and_a_temporal_split_keeps_the_order_of_rows(tmp_path):
    given = files(tmp_path) | {"test_file": None}
    data = load_data(config(tmp_path, **given, split="70/15/15"))
    assert (len(data.train), len(data.val), len(data.test())) == (42, 9, 9)
    data = load_data(config(tmp_path, **given, split="80/10/10", split_by="temporal"))
    whole, _ = read_examples(given["train_file"], config(tmp_path, size=9, source="packaged"))
    assert torch.equal(torch.cat([data.train.inputs, data.val.inputs, data.test().inputs]), whole.inputs)
    assert (len(data.train), len(data.val), len(data.test())) == (48, 6, 6)
    assert "order of time" in data.manifest["split_rule"]


def test_a_stratified_split_takes_equal_shares_of_every_source(tmp_path):
    block = puzzles(9, 60)
    rows = [
        row(p, s, source="ab"[n % 3 == 0]) for n, (p, s) in enumerate(zip(block.puzzles, block.solutions, strict=True))
    ]
    path = write_csv(tmp_path / "mixed.csv", rows)
    data = load_data(config(tmp_path, size=9, source="packaged", train_file=path, split_by="stratified"))
    assert Counter(data.val.sources) == Counter(data.test().sources) == {"a": 4, "b": 2}


def test_without_a_test_file_a_test_split_is_cut_from_train(tmp_path):
    data = load_data(config(tmp_path, **files(tmp_path) | {"test_file": None}))
    assert (len(data.train), len(data.val), len(data.test())) == (48, 6, 6)


def test_a_test_file_that_holds_a_training_grid_is_refused_removed_or_reported(tmp_path, caplog):
    given = files(tmp_path, planted=True)
    with pytest.raises(InputError, match="share . groups") as caught:
        load_data(config(tmp_path, **given))
    assert "data.leakage=remove" in str(caught.value)
    kept = load_data(config(tmp_path, **given, leakage="remove"))
    assert len(kept.train) + len(kept.val) == 55
    assert not shared_groups(kept.train, kept.test()) | shared_groups(kept.val, kept.test())
    removed = kept.manifest["leakage"]["removed"]
    assert removed["train"] + removed["val"] == 5
    with caplog.at_level(logging.WARNING):
        allowed = load_data(config(tmp_path, **given, leakage="allow"))
    assert len(allowed.train) + len(allowed.val) == 60
    assert sum(allowed.manifest["leakage"]["groups_shared_with_test"].values()) == 5
    assert "data.leakage=allow" in caplog.text


def test_removing_everything_is_refused(tmp_path):
    given = files(tmp_path)
    with pytest.raises(InputError, match="share a group with the test set"):
        load_data(config(tmp_path, **given | {"test_file": given["train_file"], "leakage": "remove"}))


def test_max_train_takes_a_named_subset_of_train_only(tmp_path):
    full = load_data(config(tmp_path))
    data = load_data(config(tmp_path, max_train=10))
    assert (len(data.train), len(data.val)) == (10, 10)
    assert set(data.train.keys) <= set(full.train.keys)
    assert data.manifest["train_subset"].startswith("10 of 80")
    assert len(load_data(config(tmp_path, max_train=1000)).train) == 80


def test_changed_packaged_bytes_are_refused(tmp_path):
    folder = tmp_path / "sudoku"
    shutil.copytree(resources.files("titans_trm.data") / "resources" / "sudoku", folder)
    assert len(SudokuTask(9).packaged(folder)[1]) == 1000
    content = gzip.decompress((folder / "hard_test.csv.gz").read_bytes())
    (folder / "hard_test.csv.gz").write_bytes(gzip.compress(content.replace(b"1", b"2", 1)))
    with pytest.raises(InputError, match="hard_test.csv.gz: the bytes have changed"):
        SudokuTask(9).packaged(folder)


def test_augmentation_can_be_switched_off(tmp_path):
    assert load_data(config(tmp_path)).augment is not None
    assert load_data(config(tmp_path, augment=False)).augment is None


@pytest.mark.skipif(not SHARED.exists(), reason="the public puzzle lists are not part of the project")
def test_the_public_lists_are_read_and_share_no_grid(tmp_path):
    public, own = str(SHARED / "test.csv.gz"), str(SHARED / "clean_train.csv.gz")
    data = load_data(config(tmp_path, size=9, train_file=public, test_file=own, verify="sample", verify_sample=200))
    assert (len(data.train) + len(data.val), len(data.test())) == (8940, 8000)
    assert data.manifest["files"][public]["uniqueness_checked"] == 200
    assert data.manifest["leakage"]["groups_shared_with_test"] == {"train": 0, "val": 0}
