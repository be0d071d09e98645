"""Turn a data configuration into train, validation and test examples: the one entry point of this room."""

import logging
from dataclasses import dataclass
from typing import Any

from titans_trm.data.config import DataConfig
from titans_trm.data.examples import ExampleSet
from titans_trm.data.folds import split_fold
from titans_trm.data.registry import make_task
from titans_trm.data.spec import Augment, AugmentWithIds, TaskSpec
from titans_trm.data.splits import assert_disjoint, shared_groups, subset
from titans_trm.errors import InputError

_SPLIT_RULES = {
    "group": "groups of symmetric examples stay together, in order of sha256(salt, group); validation from train only",
    "stratified": "equal shares of every source, groups kept whole, in order of sha256(salt, group)",
    "temporal": "rows in order of time, groups kept whole and as late as their last row",
}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TaskData:
    """Everything a run needs to know about its data."""

    spec: TaskSpec
    train: ExampleSet
    val: ExampleSet
    augment: Augment | AugmentWithIds | None  # random symmetry for training examples; None when switched off
    manifest: dict[str, Any]  # JSON-able: what the data are, to the byte
    held_out: ExampleSet

    def test(self) -> ExampleSet:
        """Return the test split: for a final evaluation, never for a choice made during development."""
        return self.held_out


def load_data(config: DataConfig) -> TaskData:
    """Read or generate the examples of a configuration, split them, and prove that the splits are disjoint.

    Raises `InputError` for bad files, damaged caches, and train and test sets that share a group (`data.leakage`).
    """
    task = make_task(config)
    sets, entries = task.splits(config)
    train, val, test = sets["train"], sets["val"], sets["test"]
    if config.fold is not None and not task.spec.own_folds:
        train, val = _fold(train, val, config.fold, config)
    assert_disjoint(train, val)
    train, val, leakage = _guard(train, val, test, config)
    if config.max_train is not None:
        entries["train_subset"] = (
            f"{min(config.max_train, len(train))} of {len(train)} by sha256(seed {config.seed}, example)"
        )
        train = subset(train, config.max_train, f"subset-{config.seed}")
    splits = {"train": train.renamed("train"), "val": val.renamed("val"), "test": test.renamed("test")}
    manifest = {
        "task": task.spec.name,
        "source": config.resolved_source,
        "generator_version": task.generator_version,
        "reader_version": task.reader_version,
        "seed": config.seed,
        "split_rule": _SPLIT_RULES[getattr(config, "split_by", "group")],
        "split_salt": f"split-{config.seed}",
        "fold": _fold_rule(config),
        "leakage": leakage,
        **entries,
        "splits": {name: _describe(examples) for name, examples in splits.items()},
    }
    counts = ", ".join(f"{len(examples):,} {name}" for name, examples in splits.items())
    logger.info("%s (%s): %s", task.spec.name, config.resolved_source, counts)
    return TaskData(
        spec=task.spec,
        train=splits["train"],
        val=splits["val"],
        augment=task.augment if config.augment else None,
        manifest=manifest,
        held_out=splits["test"],
    )


def read_examples(path: str, config: DataConfig) -> tuple[ExampleSet, dict[str, Any]]:
    """Return the checked examples of one file of the configured task, and manifest entries (cached by content)."""
    return make_task(config).read_examples(path, config)


def _fold_rule(config: DataConfig) -> str | None:
    return None if config.fold is None else f"{config.fold} of {config.num_folds}, by group; salt fold-{config.seed}"


def _fold(train: ExampleSet, val: ExampleSet, fold: int, config: DataConfig) -> tuple[ExampleSet, ExampleSet]:
    """Return training and validation examples of one fold of both together; the test set is the same in all folds."""
    pool = ExampleSet.concat("train", [train, val])
    rows = split_fold(pool.keys, fold, config.num_folds, f"fold-{config.seed}")
    return pool.select(rows["train"]), pool.select(rows["val"], "val")


def _guard(
    train: ExampleSet, val: ExampleSet, test: ExampleSet, config: DataConfig
) -> tuple[ExampleSet, ExampleSet, dict[str, Any]]:
    """Return the training and validation examples that may be used, and what was found, by the rule `data.leakage`."""
    shared = {examples.name: len(shared_groups(examples, test)) for examples in (train, val)}
    before = len(train), len(val)
    if config.leakage == "error":
        assert_disjoint(train, test)
        assert_disjoint(val, test)
    elif config.leakage == "remove":
        train, val = _without(train, test), _without(val, test)
    removed = before[0] - len(train), before[1] - len(val)
    if any(shared.values()):
        logger.warning(
            "Groups shared with the test set (data.leakage=%s): %s; removed %d training and %d validation examples.",
            config.leakage,
            shared,
            *removed,
        )
    groups = dict(zip(("train", "val"), shared.values(), strict=True))
    found = {
        "rule": config.leakage,
        "groups_shared_with_test": groups,
        "removed": {"train": removed[0], "val": removed[1]},
    }
    return train, val, found


def _without(examples: ExampleSet, test: ExampleSet) -> ExampleSet:
    """Return the examples whose group does not occur in the test set."""
    shared = shared_groups(examples, test)
    kept = [row for row, key in enumerate(examples.keys) if key not in shared]
    if not kept:
        raise InputError(
            f"All {len(examples)} examples of {examples.name} share a group with the test set; give other files."
        )
    return examples.select(kept)


def _describe(examples: ExampleSet) -> dict[str, Any]:
    return {
        "count": len(examples),
        "groups": len(set(examples.keys)),
        "sha256": examples.sha256,
        "keys_sha256": examples.keys_sha256,
    }
