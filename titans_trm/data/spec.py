"""What a model must know about a task, and what a task must be able to do."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:
    from titans_trm.data.examples import ExampleSet

PAD = 0  # token of every task: nothing here; a target of PAD is not scored
IGNORE_INDEX = -100  # target of a position that is not scored

# (inputs (B, N), targets (B, N), generator) -> the same shapes, a random symmetry applied to each example
Augment = Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]]
# The same where examples have puzzle ids (B,), given third and returned last: every view of a puzzle has its own id
AugmentWithIds = Callable[[Tensor, Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor, Tensor]]
# (inputs (B, N), answers (B, N)) -> (B,) bool: is the answer right by the rules, whatever the target says?
Validity = Callable[[Tensor, Tensor], Tensor]
# Answers (B, N) to a view of each question -> the same as answers to the questions themselves
Undo = Callable[[Tensor], Tensor]
# The metric that chooses the best weights and is told first; of bits_per_byte less is better, of the others more.
Headline = Literal["exact_accuracy", "valid_optimal", "token_accuracy", "bits_per_byte"]
LOWER_IS_BETTER = ("bits_per_byte",)


@dataclass(frozen=True)
class TaskSpec:
    """Shape of a task, all a model needs to be built for it."""

    name: str
    seq_len: int  # N, tokens of one example
    vocab_size: int  # V, tokens 0..V-1; 0 is PAD
    causal: bool = False  # whether position t may only see positions up to t
    num_puzzle_ids: int = 0  # > 0: examples carry a puzzle id with a learned embedding
    ignore_index: int = IGNORE_INDEX
    grid_shape: tuple[int, int] | None = None  # rows, columns of a grid task
    byte_offset: int | None = None  # text: token of byte 0, so that passages can be compared; None: no text
    own_folds: bool = False  # the task cuts data.fold itself; else folds are cut from its examples, by group
    exactness: str = "An example is exactly right when every scored token is."
    labels: tuple[str, ...] = ()  # what each token is called in reports; its number where there are none
    headline: Headline = "exact_accuracy"
    valid: Validity | None = None  # reported as `valid_optimal`, where several answers are right

    def __post_init__(self) -> None:
        if self.seq_len < 1:
            raise ValueError(f"seq_len={self.seq_len} is too small; choose 1 or more.")
        if self.vocab_size < 2:
            raise ValueError(f"vocab_size={self.vocab_size} is too small; choose 2 or more.")
        if 0 <= self.ignore_index < self.vocab_size:
            raise ValueError(f"ignore_index={self.ignore_index} is a token (0..{self.vocab_size - 1}); choose -100.")
        if self.labels and len(self.labels) != self.vocab_size:
            raise ValueError(f"labels has {len(self.labels)} names for vocab_size={self.vocab_size}; give one each.")
        if self.grid_shape is not None and self.grid_shape[0] * self.grid_shape[1] != self.seq_len:
            raise ValueError(
                f"grid_shape={self.grid_shape} does not have seq_len={self.seq_len} cells; make them equal."
            )


class Task(Protocol):
    """One task: where its examples come from, which of them are the same up to symmetry, how they are varied.

    `config` is the task's own configuration class (`registry.config_class`).
    """

    spec: TaskSpec
    generator_version: int  # raised whenever the same seed would give other examples
    reader_version: int  # raised whenever the same file would give other examples or keys

    @classmethod
    def from_config(cls, config: Any) -> "Task":
        """Return the task of a configuration."""
        ...

    def splits(self, config: Any) -> tuple[dict[str, "ExampleSet"], dict[str, Any]]:
        """Return `train`, `val` and `test` from the configured source, and manifest entries; `sources.py` helps.

        `InputError` names what is wrong with the source.
        """
        ...

    def read_examples(self, path: str, config: Any) -> tuple["ExampleSet", dict[str, Any]]:
        """Return the checked examples of a file, and manifest entries; `InputError` for a task without a format."""
        ...

    def canonical_keys(self, inputs: Tensor, targets: Tensor) -> list[str]:
        """Return the group key of each `(B, N)` example: equal for examples that must not be split apart."""
        ...

    @property
    def augment(self) -> Augment | AugmentWithIds | None:
        """Apply a random symmetry of the task to each `(B, N)` example; None for a task without any."""
        ...

    def validate(self, inputs: Tensor, targets: Tensor) -> None:
        """Raise `InputError` naming the examples that break the rules of the task."""
        ...
