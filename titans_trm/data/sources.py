"""What tasks share of getting examples: packaged rows, seeded generation, the user's files; cached, split by group."""

import dataclasses
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from titans_trm.data.cache import Built, cached, default_root
from titans_trm.data.config import CountFields, DataConfig, FileFields
from titans_trm.data.examples import ExampleSet
from titans_trm.data.files import read_bytes, sha256
from titans_trm.data.folds import split_by_time, split_stratified
from titans_trm.data.reference_layout import read_layout
from titans_trm.data.spec import TaskSpec
from titans_trm.data.splits import split_by_group
from titans_trm.errors import InputError

logger = logging.getLogger(__name__)


class Generator(Protocol):
    """A task that makes its examples."""

    spec: TaskSpec
    generator_version: int  # raised whenever the same seed would give other examples
    reader_version: int  # raised whenever the same file would give other examples or keys

    def generation_identity(self, config: Any) -> dict[str, Any]:
        """Return the keys of `config` (JSON values) that generated examples depend on, beside seed and counts."""
        ...

    def generate(self, config: Any) -> Built:
        """Return seeded `train`, `val` and `test` examples that share no group, and manifest entries."""
        ...


class Reader(Protocol):
    """A task that reads examples from a file of its format."""

    spec: TaskSpec
    reader_version: int

    def reading_identity(self, config: Any) -> dict[str, Any]:
        """Return the keys of `config` (JSON values) that the result of reading depends on, beside the bytes."""
        ...

    def canonical_keys(self, inputs: Tensor, targets: Tensor) -> list[str]:
        """Return the group key of each `(B, N)` example."""
        ...

    def validate(self, inputs: Tensor, targets: Tensor) -> None:
        """Raise `InputError` naming the examples that break the rules of the task."""
        ...

    def read(self, path: str, raw: bytes, config: Any) -> tuple[ExampleSet, dict[str, Any]]:
        """Return the checked examples of a file's bytes, and manifest entries; `InputError` names file and bad rows."""
        ...


def generated_splits(task: Generator, config: CountFields) -> Built:
    """Return generated `train`, `val` and `test`, from the cache when they were generated before."""
    identity = {
        "kind": "generated",
        "task": task.spec.name,
        "generator_version": task.generator_version,
        "reader_version": task.reader_version,
        "seed": config.seed,
        "counts": config.counts,
        **task.generation_identity(config),
    }

    def build() -> Built:
        logger.info("Generating %s examples: %s", task.spec.name, config.counts)
        return task.generate(config)

    return cached(root(config), f"{task.spec.name}-generated", identity, build)


def file_splits(task: Reader, config: FileFields) -> Built:
    """Return `train`, `val` and `test` of the user's files; validation comes from the training file only."""
    if config.train_file is None:
        raise InputError("data.source=file needs data.train_file=PATH.")
    train, entries = read_cached(task, config.train_file, config)
    files = {config.train_file: entries}
    fractions = dict(config.fractions)
    if config.test_file is not None:
        del fractions["test"]
    rows = split_rows(train, fractions, config)
    sets = {name: train.select(chosen, f"{name} of {config.train_file}") for name, chosen in rows.items()}
    if config.test_file is not None:
        sets["test"], files[config.test_file] = read_cached(task, config.test_file, config)
    shared = {name: entries[name] for name in ("licence", "rating_kind")}
    return sets, {**shared, "files": files}


def packaged_splits(train: ExampleSet, test: ExampleSet, entries: dict[str, Any], config: FileFields) -> Built:
    """Return given training examples with validation cut off by group, and the given test examples."""
    rows = split_rows(train, {"val": config.fractions["val"]}, config)
    return {"train": train.select(rows["train"]), "val": train.select(rows["val"], "val"), "test": test}, entries


def split_rows(examples: ExampleSet, fractions: Mapping[str, float], config: FileFields) -> dict[str, Tensor]:
    """Return the rows of `train` and of each split in `fractions`, cut as `data.split_by` says, groups kept whole."""
    salt = f"split-{config.seed}"
    if config.split_by == "temporal":
        return split_by_time(range(len(examples)), examples.keys, fractions)
    if config.split_by == "stratified":
        return split_stratified(examples.sources, examples.keys, fractions, salt)
    return split_by_group(examples.keys, fractions, salt)


def read_cached(task: Reader, path: str, config: DataConfig) -> tuple[ExampleSet, dict[str, Any]]:
    """Return the checked examples of one file, and manifest entries (cached by content).

    A folder with a `dataset.json` is a split in the layout of the public TRM code, such as DIR/train.
    """
    if os.path.isfile(Path(path).expanduser() / "dataset.json"):  # False, and no error, for a path that cannot be
        return _read_reference(task, path)
    raw = read_bytes(path)
    identity = {
        "kind": "file",
        "task": task.spec.name,
        "reader_version": task.reader_version,
        "sha256": sha256(raw),
        **task.reading_identity(config),
    }

    def build() -> Built:
        examples, entries = task.read(path, raw, config)
        return {"all": examples}, entries

    sets, entries = cached(root(config), f"{task.spec.name}-file", identity, build)
    return sets["all"].renamed(path), {**entries, "sha256": identity["sha256"]}


def _read_reference(task: Reader, path: str) -> tuple[ExampleSet, dict[str, Any]]:
    place = Path(path).expanduser()
    examples, about = read_layout(place.parent, place.name)
    spec = task.spec
    if (about["seq_len"], about["vocab_size"]) != (spec.seq_len, spec.vocab_size):
        raise InputError(
            f"{path}: seq_len={about['seq_len']} and vocab_size={about['vocab_size']} are not those of {spec.name} "
            f"({spec.seq_len} and {spec.vocab_size}); name the folder of that task."
        )
    task.validate(examples.inputs, examples.targets)
    keys = task.canonical_keys(examples.inputs, examples.targets)
    entries = {"licence": "the folder's own", "rating_kind": "none", "sha256": examples.sha256}
    return dataclasses.replace(examples, name=path, keys=keys, puzzle_ids=None), entries


def root(config: DataConfig) -> Path:
    """Return the folder of cached data."""
    return default_root() if config.cache_dir is None else Path(config.cache_dir)
