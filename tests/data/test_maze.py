"""Mazes: the label rule against a queue, the rules against brute force, the generator against the law it follows."""

import csv
import gzip
import os
from collections import deque
from pathlib import Path

import numpy as np
import pytest
import torch

from titans_trm.data.load import load_data, read_examples
from titans_trm.data.maze.config import MazeConfig
from titans_trm.data.maze.generator import generate_mazes
from titans_trm.data.maze.paths import label_paths, pack, unpack
from titans_trm.data.maze.task import FREE, GOAL, START, WALL, WAY, MazeTask, dihedral
from titans_trm.errors import InputError

SYMBOLS = "# SGo"
SMALL = {"size": 8, "num_train": 40, "num_val": 8, "num_test": 8, "min_path": 8}
PUBLIC = os.environ.get("TITANS_TRM_MAZE_FILES")  # folder with Maze-Hard's train.csv and test.csv (or .csv.gz)


def queue_path(cells: np.ndarray, start: int, goal: int) -> list[int]:
    """Breadth-first search with a queue, as the label rule is stated: down, left, right, up, first discoverer."""
    size = len(cells)
    parent, queue = {start: start}, deque([start])
    while queue:
        place = queue.popleft()
        for down, right in ((1, 0), (0, -1), (0, 1), (-1, 0)):
            row, column = place // size + down, place % size + right
            step = row * size + column
            if 0 <= row < size and 0 <= column < size and cells[row, column] and step not in parent:
                parent[step] = place
                queue.append(step)
    if goal not in parent:
        return []
    path = [goal]
    while path[-1] != start:
        path.append(parent[path[-1]])
    return path[::-1]


def config(tmp_path: Path, **values) -> MazeConfig:
    return MazeConfig(cache_dir=str(tmp_path / "cache"), **(SMALL | values))


def mazes(size: int = 8, min_path: int = 8, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    task = MazeTask(size)
    block = next(generate_mazes(size, (0.27, 0.46), min_path, seed))
    questions = np.where(block.walls, WALL, FREE).astype(np.uint8).reshape(len(block.walls), -1)[:64]
    rows = np.arange(len(questions))
    questions[rows, block.starts[:64]], questions[rows, block.goals[:64]] = START, GOAL
    return torch.from_numpy(questions), torch.from_numpy(task.solve(questions))


def text(tokens: torch.Tensor) -> str:
    return "".join(SYMBOLS[token - 1] for token in tokens.tolist())


def write(path: Path, rows: list[tuple[str, str, str, str]]) -> str:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([("source", "question", "answer", "rating"), *rows])
    return str(path)


def rows_of(inputs: torch.Tensor, targets: torch.Tensor) -> list[tuple[str, str, str, str]]:
    return [("own", text(q), text(a), "9") for q, a in zip(inputs, targets, strict=True)]


def test_labels_equal_those_of_a_queue():
    rng = np.random.default_rng(0)
    cells = rng.random((300, 9, 9)) > rng.uniform(0.1, 0.5, (300, 1, 1))
    starts, goals = rng.integers(81, size=(2, 300))
    cells.reshape(300, -1)[np.arange(300), starts] = cells.reshape(300, -1)[np.arange(300), goals] = True
    paths, lengths = label_paths(pack(cells), starts, goals)
    found = 0
    for row in range(300):
        path = queue_path(cells[row], starts[row], goals[row])
        assert np.nonzero(paths[row].reshape(-1))[0].tolist() == sorted(path)
        assert lengths[row] == len(path)
        found += bool(path)
    assert 50 < found < 300


@pytest.mark.parametrize("size", [4, 31, 64])
def test_packing_loses_nothing(size):
    cells = np.random.default_rng(1).random((5, size, size)) > 0.5
    assert (unpack(pack(cells), size) == cells).all()


@pytest.mark.skipif(PUBLIC is None, reason="set TITANS_TRM_MAZE_FILES to a folder with Maze-Hard's train and test CSV")
@pytest.mark.parametrize("name", ["train", "test"])
def test_the_rule_reproduces_every_label_of_the_public_files(name, tmp_path):
    path = next(Path(PUBLIC).glob(f"{name}.csv*"))
    examples, entries = read_examples(str(path), MazeConfig(cache_dir=str(tmp_path)))
    assert entries["answers_beside_the_label_rule"] == 0
    assert (MazeTask(30).solve(examples.inputs.numpy()) == examples.targets.numpy()).all()
    assert (examples.ratings == (examples.targets > FREE).sum(dim=1)).all()


def test_the_generator_keeps_to_the_law():
    block = next(generate_mazes(12, (0.27, 0.46), 26, 3))
    assert len(block.walls) > 20
    assert block.lengths.min() >= 26
    assert 0.27 < block.walls.mean() < 0.46
    assert not block.walls[np.arange(len(block.walls)), block.starts // 12, block.starts % 12].any()
    assert (block.paths.reshape(len(block.walls), -1).sum(axis=1) == block.lengths).all()
    again = next(generate_mazes(12, (0.27, 0.46), 26, 3))
    assert (again.walls == block.walls).all()
    assert (again.goals == block.goals).all()


def test_mazes_of_the_hard_kind_are_long():
    found = [block for block, _ in zip(generate_mazes(30, (0.27, 0.46), 110, 0), range(2), strict=False)]
    lengths = np.concatenate([block.lengths for block in found])
    walls = np.concatenate([block.walls for block in found]).mean()
    assert len(lengths) >= 3
    assert 110 <= lengths.min() <= lengths.max() < 170
    assert 0.30 < walls < 0.43  # 0.371 in the public set


# sha256 of the training mazes of seed 0: the generator must give the same mazes on every machine and version.
GOLDEN = "900814711bf42d977471a23190626eac2f779fc27453607f5d5d24b4598ae933"


def test_generated_data_have_exact_counts_a_golden_hash_and_disjoint_layouts(tmp_path):
    data = load_data(config(tmp_path))
    splits = [data.train, data.val, data.test()]
    assert [len(split) for split in splits] == [40, 8, 8]
    keys = [key for split in splits for key in split.keys]
    assert len(set(keys)) == len(keys)
    assert data.train.sha256 == GOLDEN
    for split in splits:
        MazeTask(8).validate(split.inputs, split.targets)
    assert load_data(config(tmp_path)).manifest == data.manifest
    assert load_data(config(tmp_path, seed=1)).train.sha256 != GOLDEN


def test_impossible_mazes_are_refused_with_a_cure(tmp_path):
    with pytest.raises(InputError, match="data.min_path=64 is longer than mazes of data.size=8"):
        load_data(config(tmp_path, min_path=64))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"size": 3}, "choose 4 to 64"),
        ({"walls": (0.5, 0.3)}, "not a range of shares"),
        ({"min_path": 1}, "data.min_path=1"),
        ({"size": 8, "min_path": 65}, "choose 64 or less"),
        ({"source": "packaged"}, "generated, file"),
    ],
)
def test_an_impossible_value_names_key_and_cure(values, words):
    with pytest.raises(ValueError, match="data") as caught:
        MazeConfig(**values)
    assert words in str(caught.value)


def test_augmentation_turns_mazes_keeps_their_key_and_labels_them_anew():
    task = MazeTask(8)
    inputs, targets = mazes()
    moved, labels = task.augment(inputs, targets, torch.Generator().manual_seed(0))
    assert (moved != inputs).any()
    task.validate(moved, labels)
    assert (torch.from_numpy(task.solve(moved.numpy())) == labels).all()
    assert task.canonical_keys(moved, labels) == task.canonical_keys(inputs, targets)
    assert len({text(row) for row in moved}) > 60
    again, _ = task.augment(inputs, targets, torch.Generator().manual_seed(0))
    assert (again == moved).all()


def test_the_eight_symmetries_are_different_and_another_layout_has_another_key():
    inputs, targets = mazes()
    grids = inputs.numpy().reshape(-1, 8, 8)
    assert len({dihedral(grids[:1], number).tobytes() for number in range(8)}) == 8
    assert len(set(MazeTask(8).canonical_keys(inputs, targets))) == len(inputs)
    other = inputs.clone()
    other[other == START] = FREE  # S and G do not belong to the layout
    assert MazeTask(8).canonical_keys(other, targets) == MazeTask(8).canonical_keys(inputs, targets)


def test_a_planted_mirror_image_in_the_test_file_is_refused(tmp_path):
    inputs, targets = mazes()
    mirrored = torch.from_numpy(inputs.numpy().reshape(-1, 8, 8)[:, :, ::-1].reshape(len(inputs), -1).copy())
    solved = torch.from_numpy(MazeTask(8).solve(mirrored.numpy()))
    train = write(tmp_path / "train.csv", rows_of(inputs[:40], targets[:40]))
    test = write(tmp_path / "test.csv", rows_of(mirrored[39:], solved[39:]))
    with pytest.raises(InputError, match="share 1 groups"):
        load_data(config(tmp_path, train_file=train, test_file=test))
    clean = write(tmp_path / "clean.csv", rows_of(mirrored[40:], solved[40:]))
    data = load_data(config(tmp_path, train_file=train, test_file=clean))
    assert (len(data.train), len(data.val), len(data.test())) == (36, 4, len(inputs) - 40)


# Two shortest ways from S to G around a wall, and a longer one.
FORK = "S  " "#" "   " "#" "  G" "#" "####"  # fmt: skip


def answer(*places: int) -> torch.Tensor:
    tokens = torch.tensor([SYMBOLS.index(symbol) + 1 for symbol in FORK])
    tokens[list(places)] = WAY
    return tokens[None]


def test_every_shortest_path_is_valid_and_optimal_and_nothing_else_is():
    task, question = MazeTask(4), answer()
    label = torch.from_numpy(task.solve(question.numpy().astype(np.uint8)))
    assert text(label[0]) == text(answer(4, 8, 9)[0])  # down first

    def valid(given: torch.Tensor) -> bool:
        return bool(task.valid_optimal(question, given))

    assert valid(label)
    assert valid(answer(1, 2, 6))
    assert valid(answer(4, 5, 6))
    assert not valid(answer(4, 5))  # does not arrive
    assert not valid(answer(1, 2, 6, 4))  # an extra cell
    assert not valid(answer(1, 2, 3, 6))  # through a wall
    assert not valid(answer(1, 5, 4, 8, 9))  # a detour
    changed = label.clone()
    changed[0, 15] = FREE
    assert not valid(changed)  # another maze
    changed = label.clone()
    changed[0, 0] = WAY
    assert not valid(changed)  # S is gone


def test_validity_agrees_with_brute_force_on_random_answers():
    task, (inputs, targets) = MazeTask(8), mazes()
    generator = torch.Generator().manual_seed(1)
    answers = targets.clone()
    spoilt = torch.rand(len(answers), generator=generator) < 0.5
    for row in spoilt.nonzero().flatten().tolist():
        way = (answers[row] == WAY).nonzero().flatten()
        answers[row, way[int(torch.randint(len(way), (1,), generator=generator))]] = FREE
    found = task.valid_optimal(inputs, answers)
    assert (found == ~spoilt).all()


@pytest.mark.parametrize("packed", [False, True])
def test_a_file_round_trip_loses_nothing(tmp_path, packed):
    inputs, targets = mazes()
    path = write(tmp_path / "mazes.csv", rows_of(inputs, targets))
    if packed:
        raw = Path(path).read_bytes()
        path = str(tmp_path / "mazes.csv.gz")
        Path(path).write_bytes(gzip.compress(raw))
    examples, entries = read_examples(path, config(tmp_path))
    assert (examples.inputs == inputs).all()
    assert (examples.targets == targets).all()
    assert entries["answers_beside_the_label_rule"] == 0
    assert entries["rows"] == len(inputs)


def test_another_shortest_path_is_read_and_counted(tmp_path):
    path = write(tmp_path / "fork.csv", [("own", FORK, text(answer(1, 2, 6)[0]), "5")])
    _, entries = read_examples(path, MazeConfig(size=4, min_path=4, cache_dir=str(tmp_path / "cache")))
    assert entries["answers_beside_the_label_rule"] == 1


GOOD = text(answer(4, 8, 9)[0])
BAD = {
    "the question has 15 characters, not 16 (data.size=4)": (FORK[1:], GOOD, "5"),
    "the answer has 17 characters": (FORK, GOOD + "#", "5"),
    "the question has the illegal character 'o' at position 2": (FORK.replace(" ", "o", 1), GOOD, "5"),
    "the answer has the illegal character 'x' at position 16": (FORK, GOOD[:-1] + "x", "5"),
    "the question has 0 cells S, not 1": (FORK.replace("S", " "), GOOD, "5"),
    "the answer has 2 cells G, not 1": (FORK, GOOD[:-1] + "G", "5"),
    "the maze has no way from S to G": ("S###" + "####" + "##G#" + "####", "S###" + "####" + "##G#" + "####", "5"),
    "another maze: row 4, column 4 differs": (FORK, GOOD[:-1] + " ", "5"),
    "no shortest path (4 cells; the shortest has 5)": (FORK, text(answer(4, 5)[0]), "5"),
    "the rating 'hard' is not a whole number": (FORK, GOOD, "hard"),
}


@pytest.mark.parametrize(("words", "values"), BAD.items())
def test_a_bad_row_is_named_with_line_and_reason(tmp_path, words, values):
    path = write(tmp_path / "bad.csv", [("own", FORK, GOOD, "5"), ("own", *values)])
    with pytest.raises(InputError) as caught:
        read_examples(path, MazeConfig(size=4, min_path=4, cache_dir=str(tmp_path / "cache")))
    message = str(caught.value)
    assert message.startswith(f"{path}: line 3: ")
    assert words in message
    assert message.endswith("; mend or remove the row (1 bad row of 2).")
    assert "\n" not in message


def test_a_repeated_maze_is_named(tmp_path):
    path = write(tmp_path / "bad.csv", [("own", FORK, GOOD, "5")] * 2)
    with pytest.raises(InputError, match="line 3: the question repeats that of line 2"):
        read_examples(path, MazeConfig(size=4, min_path=4, cache_dir=str(tmp_path / "cache")))


def test_validate_names_the_first_bad_example():
    inputs, targets = mazes()
    targets[5][targets[5] == WAY] = FREE
    with pytest.raises(InputError, match=r"1 of \d+ mazes are bad; first example 5: the answer is no shortest path"):
        MazeTask(8).validate(inputs, targets)
