"""Configuration of the task `selective_copy`."""

from dataclasses import dataclass
from typing import Literal

from titans_trm.data.config import CountFields, at_least, one_of


@dataclass(frozen=True, kw_only=True)
class SelectiveCopyConfig(CountFields):
    """Selective copying as in MAD (arXiv 2403.17844): tokens among blanks, to be repeated in order at the end."""

    task: Literal["selective_copy"] = "selective_copy"
    source: Literal["generated"] = "generated"  # made on first use
    num_train: int = 50_000  # examples to generate for training
    num_val: int = 1_000  # examples to generate for validation
    num_test: int = 1_000  # examples to generate for the test split
    seq_len: int = 128  # tokens of one example: content among blanks, the copy token, and a slot for each answer
    num_tokens: int = 8  # content tokens to remember; 2 num_tokens + 1 <= seq_len
    vocab_size: int = 16  # V: content tokens 1 to V - 2, blank V - 1, copy V, 0 is padding

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("data.source", self.source, ("generated",))
        at_least("data.num_tokens", self.num_tokens, 1)
        if self.seq_len < 2 * self.num_tokens + 1:
            raise ValueError(
                f"data.seq_len={self.seq_len} does not hold data.num_tokens={self.num_tokens} tokens, the copy token "
                f"and their repetition; choose {2 * self.num_tokens + 1} or more."
            )
        if not 4 <= self.vocab_size <= 255:
            raise ValueError(f"data.vocab_size={self.vocab_size} is out of range; choose 4 to 255.")
