"""Configuration of the data: the part that all tasks share. Each task adds its own keys in `data/<task>/config.py`.

`data.task` selects the schema: the keys of another task are errors. No torch here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Leakage = Literal["error", "remove", "allow"]
Balance = Literal["off", "source", "rating", "length"]
SplitBy = Literal["group", "stratified", "temporal"]
SplitPreset = Literal["80/10/10", "70/15/15"]


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What is learned from, common to all tasks; `registry.config_class(task)` is the whole of one task."""

    __pydantic_config__ = {"extra": "forbid"}

    task: str  # what the examples are
    source: str = "generated"  # where they come from; each task names its own
    max_train: int | None = None  # train on a fixed subset of this many examples, e.g. 1000; null: all
    augment: bool = True  # random symmetries of each training example, where the task has any
    seed: int = 0  # of generation, split, subset and verification sample; not of the training order
    leakage: Leakage = "error"  # groups shared with test: stop, drop from train and val, or warn
    fold: int | None = None  # validate on this fold (from 0) of train and val; null: on the validation split
    num_folds: int = 5  # K of the group k-fold; every group is validated in exactly one fold (data.fold)
    balance: Balance = "off"  # serve examples so that every source, or tenth of rating or length, comes equally often
    balance_power: float = 1.0  # weight of an example ~ (share of its bucket)^-power: 1 = equal buckets, 0.5 = half way
    cache_dir: str | None = None  # folder of generated and parsed data; null: $TITANS_TRM_DATA or ~/.cache/titans_trm

    def __post_init__(self) -> None:
        one_of("data.task", self.task, (getattr(type(self), "task", self.task),))
        one_of("data.leakage", self.leakage, ("error", "remove", "allow"))
        at_least("data.seed", self.seed, 0)
        at_least("data.max_train", self.max_train, 1)
        one_of("data.balance", self.balance, ("off", "source", "rating", "length"))
        at_least("data.num_folds", self.num_folds, 2)
        if self.fold is not None and not 0 <= self.fold < self.num_folds:
            raise ValueError(
                f"data.fold={self.fold} is not a fold of data.num_folds={self.num_folds}; choose 0 to "
                f"{self.num_folds - 1}."
            )
        if not self.balance_power > 0.0:
            raise ValueError(f"data.balance_power={self.balance_power} is too small; choose above 0, or balance=off.")

    @classmethod
    def variants(cls) -> tuple[str, Mapping[str, type["DataConfig"]]]:
        """Return the key that selects the schema, and the schema of each of its values, for `titans_trm.schema`."""
        from titans_trm.data.registry import config_classes  # which imports the schemas that build on this one

        return "task", config_classes()

    @property
    def resolved_source(self) -> str:
        """Where examples come from once a given file has had its say."""
        return self.source


@dataclass(frozen=True, kw_only=True)
class CountFields(DataConfig):
    """How many examples are generated."""

    num_train: int = 20_000  # examples to generate for training (source=generated)
    num_val: int = 1_000  # examples to generate for validation (source=generated)
    num_test: int = 1_000  # examples to generate for the test split (source=generated)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("num_train", "num_val", "num_test"):
            at_least(f"data.{name}", getattr(self, name), 1)

    @property
    def counts(self) -> dict[str, int]:
        """Number of examples of each split."""
        return {"train": self.num_train, "val": self.num_val, "test": self.num_test}


@dataclass(frozen=True, kw_only=True)
class FileFields(DataConfig):
    """The user's own files. A training file makes the source `file`, whatever `source` says."""

    train_file: str | None = None  # the format is the task's; given => source is file
    test_file: str | None = None  # same format, never trained on; null: a test split is cut from train_file
    val_fraction: float = 0.1  # share of the training examples cut off for validation, by group (packaged, file)
    test_fraction: float = 0.1  # share cut off for test where there is no test file (file)
    split: SplitPreset | None = None  # 80/10/10 or 70/15/15: both fractions at once; null: as given above
    split_by: SplitBy = (
        "group"  # at random by group; stratified: equal shares of every source; temporal: rows are in order of time
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fold is not None and self.split_by != "group":
            raise ValueError(f"data.fold={self.fold} cuts by group, not data.split_by={self.split_by}; choose one.")
        one_of("data.split", self.split, (None, "80/10/10", "70/15/15"))
        one_of("data.split_by", self.split_by, ("group", "stratified", "temporal"))
        self._check_files()
        self._check_fractions()

    @property
    def resolved_source(self) -> str:
        """Where examples come from once a given file has had its say."""
        return "file" if self.train_file is not None else self.source

    @property
    def fractions(self) -> dict[str, float]:
        """Shares of `val` and `test`, those of the preset if one is given."""
        if self.split is None:
            return {"val": self.val_fraction, "test": self.test_fraction}
        return dict(zip(("val", "test"), (int(part) / 100 for part in self.split.split("/")[1:]), strict=True))

    def _check_files(self) -> None:
        if self.train_file is None and self.test_file is not None:
            raise ValueError(
                f"data.test_file={self.test_file} is given without data.train_file; give both, or use evaluate.py with "
                "file=... to test a trained model on a file."
            )
        if self.resolved_source == "file" and self.train_file is None:
            raise ValueError("data.source=file needs data.train_file=PATH.")

    def _check_fractions(self) -> None:
        for name in ("val_fraction", "test_fraction"):
            value = getattr(self, name)
            if not 0.0 < value < 1.0:
                raise ValueError(f"data.{name}={value} is not a share between 0 and 1; choose for example 0.1.")
        if self.val_fraction + self.test_fraction >= 1.0:
            raise ValueError(
                f"data.val_fraction={self.val_fraction} and data.test_fraction={self.test_fraction} leave nothing to "
                "train on; choose a sum below 1."
            )


def at_least(key: str, value: int | None, low: int) -> None:
    """Raise `ValueError` naming `key` when `value` is below `low`; None passes."""
    if value is not None and value < low:
        raise ValueError(f"{key}={value} is too small; choose {low} or more.")


def one_of(key: str, value: object, allowed: tuple[object, ...]) -> None:
    """Raise `ValueError` naming `key` when `value` is not among `allowed`."""
    if value not in allowed:
        raise ValueError(f"{key}={value!r} is not one of {', '.join(map(str, allowed))}.")
