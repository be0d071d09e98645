"""Configuration of the task `niah`."""

from dataclasses import dataclass
from typing import Literal

from titans_trm.data.config import CountFields, one_of

VALUE_BYTES = {"pk": 7, "n": 7, "w": 36}  # digits of a number; characters of a uuid
SHORTEST = 64  # bytes beside the value: needle and question


@dataclass(frozen=True, kw_only=True)
class NiahConfig(CountFields):
    """Single needle in a haystack on bytes, after S-NIAH of RULER (arXiv 2404.06654)."""

    task: Literal["niah"] = "niah"
    source: Literal["generated"] = "generated"  # made on first use
    num_train: int = 20_000  # examples to generate for training
    num_val: int = 500  # examples to generate for validation
    num_test: int = 1_000  # examples to generate for the test split
    variant: Literal["pk", "n", "w"] = "n"  # pk: number in repeated noise; n: number in prose; w: uuid in prose
    seq_len: int = 256  # bytes of one example: haystack, needle, question and answer
    depth: float | None = None  # place of the needle, 0 = start, 1 = end of the haystack; null: random

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("data.source", self.source, ("generated",))
        one_of("data.variant", self.variant, tuple(VALUE_BYTES))
        least = SHORTEST + 2 * VALUE_BYTES[self.variant]
        if self.seq_len < least:
            raise ValueError(
                f"data.seq_len={self.seq_len} does not hold needle, question and answer of "
                f"data.variant={self.variant}; choose {least} or more."
            )
        if self.depth is not None and not 0.0 <= self.depth <= 1.0:
            raise ValueError(f"data.depth={self.depth} is not a place; choose 0 (start) to 1 (end), or null for any.")
