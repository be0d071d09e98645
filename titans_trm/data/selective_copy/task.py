"""Selective copying (as in MAD, Poli et al., arXiv 2403.17844).

Content tokens lie at random places among blanks; after the copy token the model fills one slot after the other with
them, in order. The distance differs from token to token, so a fixed offset does not help.

Tokens: 0 padding, 1 to V - 2 content, V - 1 blank, V copy. The places are a sorted sample: any may hold a token.
"""

import numpy as np
from torch import Tensor

from titans_trm.data.recall import RecallTask
from titans_trm.data.selective_copy.config import SelectiveCopyConfig
from titans_trm.data.spec import TaskSpec
from titans_trm.data.synthetic import Block, Draws
from titans_trm.errors import InputError


class SelectiveCopyTask(RecallTask):
    """Repeat the content tokens in order."""

    identity_keys = ("seq_len", "num_tokens", "vocab_size")
    depth_key = "num_tokens"
    rating_kind = "tokens from the first content token to its repetition"

    def __init__(self, config: SelectiveCopyConfig) -> None:
        spec = TaskSpec(
            name=f"selective_copy_{config.seq_len}x{config.num_tokens}",
            seq_len=config.seq_len,
            vocab_size=config.vocab_size + 1,
            causal=True,
            headline="token_accuracy",
            exactness="An example is exactly right when every content token is repeated in its place.",
        )
        super().__init__(config, spec)
        self.blank, self.copy = config.vocab_size - 1, config.vocab_size

    def draw(self, draws: Draws, rows: int) -> Block:
        """Return random examples."""
        count = self.config.num_tokens
        context = self.config.seq_len - count - 1
        content = 1 + draws.integers(self.config.vocab_size - 2, rows, count)
        places = np.sort(draws.distinct(rows, context, count), axis=1)
        inputs = np.full((rows, self.config.seq_len), self.blank)
        inputs[:, context] = self.copy
        np.put_along_axis(inputs, places, content, axis=1)
        targets = np.zeros_like(inputs)
        targets[:, context + 1 :] = content
        return Block(inputs, targets, context + 1 - places[:, 0])

    def validate(self, inputs: Tensor, targets: Tensor) -> None:
        """Raise `InputError` naming the first `(B, N)` example whose targets are not its content in order."""
        for row, (tokens, wanted) in enumerate(zip(inputs.tolist(), targets.tolist(), strict=True)):
            content = [token for token in tokens if 0 < token < self.blank]
            if wanted[-len(content) :] != content or any(wanted[: -len(content)]):
                raise InputError(f"example {row}: the targets are not the content {content}; generate it again.")
