"""Configuration of the task `babi_style`."""

from dataclasses import dataclass
from typing import Literal

from titans_trm.data.config import CountFields, one_of

FACT_RANGE = {"qa1": (2, 10), "qa2": (3, 12), "qa3": (4, 13)}  # fewest and most facts of a story
BYTES_OF_A_FACT, BYTES_OF_THE_QUESTION = 32, 64  # at most


@dataclass(frozen=True, kw_only=True)
class BabiStyleConfig(CountFields):
    """Facts about who is where, in order, at random places of a text of prose; a one-word answer at its end."""

    task: Literal["babi_style"] = "babi_style"
    source: Literal["generated"] = "generated"  # made on first use
    num_train: int = 20_000  # examples to generate for training
    num_val: int = 500  # examples to generate for validation
    num_test: int = 1_000  # examples to generate for the test split
    variant: Literal["qa1", "qa2", "qa3"] = (
        "qa1"  # facts needed: 1 (where is Ada?), 2 (where is the key?), 3 (and before?)
    )
    seq_len: int = 512  # bytes of one example: facts, prose between them, question and answer
    num_facts: int | None = None  # facts of a story; null: drawn from 2-10 (qa1), 3-12 (qa2), 4-13 (qa3)

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("data.source", self.source, ("generated",))
        one_of("data.variant", self.variant, tuple(FACT_RANGE))
        low, high = self.fact_range
        if low < FACT_RANGE[self.variant][0]:
            raise ValueError(
                f"data.num_facts={low} is too few for data.variant={self.variant}; choose "
                f"{FACT_RANGE[self.variant][0]} or more."
            )
        least = high * BYTES_OF_A_FACT + BYTES_OF_THE_QUESTION
        if self.seq_len < least:
            raise ValueError(f"data.seq_len={self.seq_len} does not hold {high} facts; choose {least} or more.")

    @property
    def fact_range(self) -> tuple[int, int]:
        """Fewest and most facts of a story."""
        return FACT_RANGE[self.variant] if self.num_facts is None else (self.num_facts, self.num_facts)
