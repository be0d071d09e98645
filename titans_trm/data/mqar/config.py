"""Configuration of the task `mqar`."""

from dataclasses import dataclass
from typing import Literal

from titans_trm.data.config import CountFields, at_least, one_of

_MAX_VOCABULARY = 32_768  # tokens are held in two bytes


@dataclass(frozen=True, kw_only=True)
class MqarConfig(CountFields):
    """Multi-query associative recall as in zoology (arXiv 2312.04927): `k v k v ...`, then each key once as a query."""

    task: Literal["mqar"] = "mqar"
    source: Literal["generated"] = "generated"  # made on first use
    num_train: int = 100_000  # examples to generate for training
    num_val: int = 1_000  # examples to generate for validation
    num_test: int = 3_000  # examples to generate for the test split
    seq_len: int = 128  # tokens of one example, pairs and queries included; even
    num_pairs: int = 8  # keys, each bound to one value and asked for once; at most seq_len / 4
    vocab_size: int = 512  # V: keys are tokens 1 to V/2 - 1, values V/2 to V - 1, 0 is padding
    power: float = 0.01  # a of the law a i^(a-1) of the gap i between pairs and query; small: most queries come soon
    noise: bool = False  # fill the positions between queries with random tokens that are no key of the example

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("data.source", self.source, ("generated",))
        at_least("data.num_pairs", self.num_pairs, 1)
        if self.seq_len % 2 or 4 * self.num_pairs > self.seq_len:
            raise ValueError(
                f"data.seq_len={self.seq_len} does not hold data.num_pairs={self.num_pairs} pairs and their queries; "
                f"choose an even length of {4 * self.num_pairs} or more."
            )
        if self.vocab_size % 2 or not 2 * self.num_pairs + 2 <= self.vocab_size <= _MAX_VOCABULARY:
            raise ValueError(
                f"data.vocab_size={self.vocab_size} does not suit data.num_pairs={self.num_pairs}; choose an even "
                f"number from {2 * self.num_pairs + 2} to {_MAX_VOCABULARY}."
            )
        if not self.power > 0.0:
            raise ValueError(f"data.power={self.power} must be greater than 0; 0.01 is usual, 1 draws gaps evenly.")
