"""Multi-query associative recall (MQAR; Arora et al., "Zoology", arXiv 2312.04927).

`k1 v1 k2 v2 ... kK vK`, then every key once more at an even distance from the pairs; at that position the model must
say the value. Keys, values and their order are drawn anew for each example, so that only a memory of the context helps.
An attention window shorter than the distance cannot answer.

Tokens: 0 padding, 1 to V/2 - 1 keys, V/2 to V - 1 values. Noise (`data.noise`) never repeats a key of its example,
which would bind it a second time; the original may.
"""

import numpy as np
from torch import Tensor

from titans_trm.data.mqar.config import MqarConfig
from titans_trm.data.recall import RecallTask
from titans_trm.data.spec import TaskSpec
from titans_trm.data.synthetic import Block, Draws
from titans_trm.errors import InputError


class MqarTask(RecallTask):
    """Say the value that a key was bound to."""

    identity_keys = ("seq_len", "num_pairs", "vocab_size", "power", "noise")
    depth_key = "num_pairs"
    rating_kind = "tokens between the last pair and the last query"

    def __init__(self, config: MqarConfig) -> None:
        spec = TaskSpec(
            name=f"mqar_{config.seq_len}x{config.num_pairs}",
            seq_len=config.seq_len,
            vocab_size=config.vocab_size,
            causal=True,
            headline="token_accuracy",
            exactness="An example is exactly right when every query is answered with its value.",
        )
        super().__init__(config, spec)

    def draw(self, draws: Draws, rows: int) -> Block:
        """Return random examples."""
        config = self.config
        pairs, context = config.num_pairs, 2 * config.num_pairs
        half = config.vocab_size // 2
        keys = 1 + draws.distinct(rows, half - 1, pairs)
        values = half + draws.distinct(rows, half, pairs)
        inputs = np.zeros((rows, config.seq_len), dtype=np.int64)
        inputs[:, 0:context:2], inputs[:, 1:context:2] = keys, values
        slots = (config.seq_len - context) // 2
        weights = np.arange(1, slots + 1, dtype=np.float64) ** (config.power - 1.0)
        places = context + 2 * draws.weighted_distinct(rows, weights, pairs)
        if config.noise:
            inputs[:, context:] = _without(
                keys, 1 + draws.integers(config.vocab_size - 1 - pairs, rows, config.seq_len - context)
            )
        targets = np.zeros_like(inputs)
        np.put_along_axis(inputs, places, keys, axis=1)
        np.put_along_axis(targets, places, values, axis=1)
        return Block(inputs, targets, places.max(axis=1) - context)

    def validate(self, inputs: Tensor, targets: Tensor) -> None:
        """Raise `InputError` naming the first `(B, N)` example in which a query is not bound to its target."""
        for row, (tokens, wanted) in enumerate(zip(inputs.tolist(), targets.tolist(), strict=True)):
            context = 2 * self.config.num_pairs
            bound = dict(zip(tokens[0:context:2], tokens[1:context:2], strict=True))
            asked = {token: value for token, value in zip(tokens, wanted, strict=True) if value}
            if len(bound) != self.config.num_pairs or asked != bound:
                raise InputError(f"example {row}: the queries {asked} are not the pairs {bound}; generate it again.")


def _without(keys: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """Return the numbers from 1 that are no key of their row, given by their rank (from 1) among those."""
    tokens = ranks
    for key in np.sort(keys, axis=1).T:
        tokens = tokens + (tokens >= key[:, None])
    return tokens
