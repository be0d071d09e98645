"""A needle in a haystack of bytes (after the single-needle tasks of RULER, Hsieh et al., arXiv 2404.06654).

Somewhere in the text a sentence binds a code to a name; the text ends with that name and the code, whose bytes are
scored given those before: all of them right is what greedy decoding would have to say.

Variants: `pk` (pass key) hides a number of seven digits in one noise line repeated, `n` hides it in prose, `w` hides a
uuid in prose. Our words, our prose, lengths in bytes: results compare with each other, not with RULER's.

Tokens are bytes; 0 pads. `inputs[t]` is the byte before `targets[t]`.
"""

import numpy as np
from torch import Tensor

from titans_trm.data.niah.config import VALUE_BYTES, NiahConfig
from titans_trm.data.prose import ADJECTIVES, NOISE, NOUNS, sentences
from titans_trm.data.recall import RecallTask
from titans_trm.data.spec import TaskSpec
from titans_trm.data.synthetic import Block, Draws
from titans_trm.errors import InputError

_VOCABULARY = 256
_SHORTEST_SENTENCE = 30  # bytes, for how many sentences fill a haystack
_UUID_GROUPS = (8, 4, 4, 4, 12)  # hexadecimal digits between the dashes


class NiahTask(RecallTask):
    """Say the code of a name."""

    identity_keys = ("variant", "seq_len", "depth")
    depth_key = "depth"
    rating_kind = "bytes from the needle to the answer"

    def __init__(self, config: NiahConfig) -> None:
        place = "" if config.depth is None else f"_{config.depth:g}"
        spec = TaskSpec(
            name=f"niah_{config.variant}_{config.seq_len}{place}",
            seq_len=config.seq_len,
            vocab_size=_VOCABULARY,
            causal=True,
            headline="token_accuracy",
            exactness="An example is exactly right when every byte of the code is.",
        )
        super().__init__(config, spec)

    def draw(self, draws: Draws, rows: int) -> Block:
        """Return random examples."""
        length, size = self.config.seq_len, VALUE_BYTES[self.config.variant]
        names = zip(draws.integers(len(ADJECTIVES), rows), draws.integers(len(NOUNS), rows), strict=True)
        places = draws.uniform(rows) if self.config.depth is None else np.full(rows, self.config.depth)
        values = self._values(draws, rows)
        hay = self._hay(draws, rows)
        texts = np.zeros((rows, length + 1), dtype=np.int64)
        ratings = np.zeros(rows, dtype=np.int64)
        for row, ((a, n), place, value, parts) in enumerate(zip(names, places, values, hay, strict=True)):
            needle = f"The code of the {ADJECTIVES[a]} {NOUNS[n]} is {value}. "
            question = f"\nThe code of the {ADJECTIVES[a]} {NOUNS[n]} is {value}"
            room = length + 1 - len(needle) - len(question)
            before = _cut(parts, round(place * room))
            text = before + needle + "".join(parts)[len(before) : room] + question
            texts[row] = np.frombuffer(text.encode("ascii"), dtype=np.uint8)
            ratings[row] = length + 1 - size - len(before)
        targets = np.zeros((rows, length), dtype=np.int64)
        targets[:, length - size :] = texts[:, length + 1 - size :]
        return Block(texts[:, :length], targets, ratings)

    def validate(self, inputs: Tensor, targets: Tensor) -> None:
        """Raise `InputError` naming the first `(B, N)` example whose text does not say its answer exactly once."""
        for row, (tokens, wanted) in enumerate(zip(inputs.tolist(), targets.tolist(), strict=True)):
            value = bytes(token for token in wanted if token)
            text = bytes(tokens) + value[-1:]
            needle = text[text.rindex(b"The code of the ") :] + b". "
            if not text.endswith(value) or text.count(needle) != 1:
                raise InputError(f"example {row}: the text does not say {needle!r} exactly once; generate it again.")

    def _values(self, draws: Draws, rows: int) -> list[str]:
        if self.config.variant != "w":
            return [str(number) for number in 10**6 + draws.integers(9 * 10**6, rows)]
        digits = draws.integers(16, rows, sum(_UUID_GROUPS))
        cuts = np.cumsum(_UUID_GROUPS)[:-1].tolist()
        return ["-".join("".join(f"{d:x}" for d in part) for part in np.split(row, cuts)) for row in digits]

    def _hay(self, draws: Draws, rows: int) -> list[list[str]]:
        if self.config.variant == "pk":
            return [[NOISE] * (self.config.seq_len // len(NOISE) + 1)] * rows
        return sentences(draws, rows, self.config.seq_len // _SHORTEST_SENTENCE + 1)


def _cut(parts: list[str], room: int) -> str:
    """Return whole sentences of at most `room` bytes."""
    text = ""
    for part in parts:
        if len(text) + len(part) > room:
            break
        text += part
    return text
