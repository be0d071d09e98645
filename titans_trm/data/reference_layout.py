"""The folder layout of the public TRM and HRM code (`dataset.json` and five `.npy` files a split): write it, read it.

    <folder>/{train,test}/all__{inputs,labels,puzzle_identifiers,puzzle_indices,group_indices}.npy + dataset.json
    <folder>/identifiers.json

`group_indices` (G + 1) index puzzles, `puzzle_indices` (P + 1) index examples. Here a group and a puzzle is one source
with puzzle ids (ARC), and one example else. Labels use 0 for what is not scored, as our targets do.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from titans_trm.data.examples import ExampleSet
from titans_trm.data.spec import PAD, TaskSpec
from titans_trm.errors import InputError

_PARTS = ("inputs", "labels", "puzzle_identifiers", "puzzle_indices", "group_indices")
_SET = "all"
_REQUIRED = ("pad_id", "ignore_label_id", "vocab_size", "seq_len", "num_puzzle_identifiers", "sets")


def write_layout(folder: Path, splits: dict[str, ExampleSet], spec: TaskSpec) -> None:
    """Write splits, usually `train` and `test`, for the public training code; files that exist are replaced."""
    number = max(1, spec.num_puzzle_ids)
    try:
        for name, examples in splits.items():
            _write_split(folder / name, examples, spec, number)
        (folder / "identifiers.json").write_text(json.dumps(["<blank>", *map(str, range(1, number))]), encoding="utf-8")
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror}); choose another folder.") from None


def read_layout(folder: Path, split: str) -> tuple[ExampleSet, dict[str, Any]]:
    """Return the examples of one split, in order, and its `dataset.json`; nothing is unpickled.

    Any integer type is accepted, `total_puzzles` may be missing (HRM), and the keys are placeholders: the caller
    computes those of its task.

    Raises:
        InputError: a file is missing or damaged, or its content does not fit the others.
    """
    place = folder / split
    about = _metadata(place / "dataset.json")
    parts: list[dict[str, np.ndarray]] = []
    for name in about["sets"]:
        parts.append({part: _array(place / f"{name}__{part}.npy") for part in _PARTS})
        _check(place, parts[-1], about)
    inputs, labels = (np.concatenate([part[name] for part in parts]) for name in ("inputs", "labels"))
    if about["ignore_label_id"] not in (None, PAD):
        labels = np.where(labels == about["ignore_label_id"], PAD, labels)
    ids = np.concatenate([_spread(part["puzzle_identifiers"], part["puzzle_indices"]) for part in parts])
    puzzles = np.concatenate([_spread(np.arange(len(p["puzzle_indices"]) - 1), p["puzzle_indices"]) for p in parts])
    dtype = np.uint8 if about["vocab_size"] <= 256 else np.int16
    count = len(inputs)
    return (
        ExampleSet(
            name=f"{folder}/{split}",
            inputs=torch.from_numpy(inputs.astype(dtype)),
            targets=torch.from_numpy(labels.astype(dtype)),
            keys=[f"{row}" for row in range(count)],
            sources=[f"{split}/{puzzle}" for puzzle in puzzles.tolist()],
            ratings=torch.zeros(count, dtype=torch.int64),
            puzzle_ids=torch.from_numpy(ids.astype(np.int64)) if about["num_puzzle_identifiers"] > 1 else None,
        ),
        about,
    )


def _write_split(place: Path, examples: ExampleSet, spec: TaskSpec, number: int) -> None:
    place.mkdir(parents=True, exist_ok=True)
    order = np.arange(len(examples))
    if examples.puzzle_ids is None:
        starts, ids = np.arange(len(examples) + 1), np.zeros(len(examples))
    else:
        found = examples.puzzle_ids.numpy()
        order = np.argsort(found, kind="stable")  # examples of a puzzle must lie side by side
        ids, first = np.unique(found[order], return_index=True)
        starts = np.append(first, len(examples))
    rows = torch.from_numpy(order)
    arrays = {
        "inputs": examples.inputs[rows].numpy(),
        "labels": examples.targets[rows].numpy(),
        "puzzle_identifiers": ids.astype(np.int32),
        "puzzle_indices": starts.astype(np.int32),
        "group_indices": np.arange(len(starts), dtype=np.int32),
    }
    for part, array in arrays.items():
        np.save(place / f"{_SET}__{part}.npy", array, allow_pickle=False)
    about = {
        "pad_id": PAD,
        "ignore_label_id": PAD,
        "blank_identifier_id": 0,
        "vocab_size": spec.vocab_size,
        "seq_len": spec.seq_len,
        "num_puzzle_identifiers": number,
        "total_groups": len(ids),
        "mean_puzzle_examples": len(examples) / len(ids),
        "total_puzzles": len(ids),
        "sets": [_SET],
        "titans_trm_task": spec.name,
        "titans_trm_sha256": examples.sha256,
    }
    (place / "dataset.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def _metadata(path: Path) -> dict[str, Any]:
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); name a folder in the layout of TRM.") from None
    except ValueError:
        raise InputError(f"{path}: is no JSON; build the folder again.") from None
    if missing := [key for key in _REQUIRED if key not in about]:
        raise InputError(f"{path}: lacks {', '.join(missing)}; build the folder again.")
    about.setdefault("total_puzzles", about.get("total_groups"))
    return about


def _array(path: Path) -> np.ndarray:
    try:
        array = np.load(path, allow_pickle=False)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); build the folder again.") from None
    except (ValueError, EOFError) as error:
        raise InputError(f"{path}: is no plain array ({error}); build the folder again.") from None
    if not np.issubdtype(array.dtype, np.integer):
        raise InputError(f"{path}: holds {array.dtype}, not integers; build the folder again.")
    return array


def _check(place: Path, arrays: dict[str, np.ndarray], about: dict[str, Any]) -> None:
    """Hold the arrays of a set against each other and against `dataset.json`."""
    inputs, labels = arrays["inputs"], arrays["labels"]
    if inputs.ndim != 2 or inputs.shape[1] != about["seq_len"] or labels.shape != inputs.shape:
        raise InputError(
            f"{place}: inputs {inputs.shape}, labels {labels.shape} do not fit seq_len={about['seq_len']}."
        )
    for name, array in {"inputs": inputs, "labels": labels}.items():
        kept = array if name == "inputs" else array[array != about["ignore_label_id"]]
        if kept.size and not 0 <= kept.min() <= kept.max() < about["vocab_size"]:
            raise InputError(f"{place}: {name} hold {kept.min()} to {kept.max()}, not 0 to {about['vocab_size'] - 1}.")
    puzzles, groups, ids = arrays["puzzle_indices"], arrays["group_indices"], arrays["puzzle_identifiers"]
    for name, index, end in (("puzzle_indices", puzzles, len(inputs)), ("group_indices", groups, len(puzzles) - 1)):
        if index.ndim != 1 or not len(index) or index[0] != 0 or index[-1] != end or (np.diff(index) < 0).any():
            raise InputError(f"{place}: {name} do not rise from 0 to {end}; build the folder again.")
    if ids.shape != (len(puzzles) - 1,):
        raise InputError(f"{place}: {len(ids)} puzzle_identifiers for {len(puzzles) - 1} puzzles; build it again.")


def _spread(values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Return the value of each example's puzzle."""
    return np.repeat(values, np.diff(starts))
