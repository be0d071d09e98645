"""Reasoning over facts in a long text: bAbI (Weston et al., arXiv 1502.05698) hidden in prose as in BABILong.

BABILong is Kuratov et al., arXiv 2406.10149. Our own simulator, words and prose: scores compare with each other only.

Facts stand in order at random sentence ends of the prose; the text ends with a question and its one-word answer, whose
bytes and full stop are scored given those before. Tokens are bytes; 0 pads. `inputs[t]` is the byte before
`targets[t]`.
"""

import numpy as np
from torch import Tensor

from titans_trm.data.babi_style.config import BabiStyleConfig
from titans_trm.data.babi_style.story import derive, tell
from titans_trm.data.prose import sentences
from titans_trm.data.recall import RecallTask
from titans_trm.data.spec import TaskSpec
from titans_trm.data.synthetic import Block, Draws
from titans_trm.errors import InputError

_VOCABULARY = 256
_SHORTEST_SENTENCE = 30  # bytes, for how many sentences fill a text
_CHOICES_OF_A_FACT = 4  # random numbers that one fact takes at most


class BabiStyleTask(RecallTask):
    """Answer a question about facts that are scattered over a text."""

    identity_keys = ("variant", "seq_len", "num_facts")
    depth_key = "num_facts"
    rating_kind = "facts of the story"

    def __init__(self, config: BabiStyleConfig) -> None:
        facts = "" if config.num_facts is None else f"_{config.num_facts}"
        spec = TaskSpec(
            name=f"babi_style_{config.variant}_{config.seq_len}{facts}",
            seq_len=config.seq_len,
            vocab_size=_VOCABULARY,
            causal=True,
            headline="exact_accuracy",
            exactness="An example is exactly right when every byte of the answer and its full stop are.",
        )
        super().__init__(config, spec)

    def draw(self, draws: Draws, rows: int) -> Block:
        """Return random examples."""
        length, (low, high) = self.config.seq_len, self.config.fact_range
        counts = low + draws.integers(high - low + 1, rows)
        chances = draws.uniform(rows, _CHOICES_OF_A_FACT * high + 1)
        gaps = draws.uniform(rows, high)
        hay = sentences(draws, rows, length // _SHORTEST_SENTENCE + 1)
        texts, targets = np.zeros((2, rows, length), dtype=np.int64)
        for row, (count, numbers, places, parts) in enumerate(zip(counts, chances, gaps, hay, strict=True)):
            stream = iter(numbers.tolist())
            facts, question, answer = tell(self.config.variant, count, lambda n, s=stream: int(next(s) * n))  # type: ignore[misc]
            asked = f"{question}{answer}."
            room = length + 1 - sum(map(len, facts)) - len(asked)
            story = _scattered(facts, np.sort(places[:count]), parts, room)
            text = np.frombuffer((story + asked).encode("ascii"), dtype=np.uint8)
            texts[row] = text[:-1]
            scored = len(answer) + 1
            targets[row, -scored:] = text[-scored:]
        return Block(texts, targets, counts)

    def validate(self, inputs: Tensor, targets: Tensor) -> None:
        """Raise `InputError` naming the first `(B, N)` example whose facts do not lead to its answer."""
        for row, (tokens, wanted) in enumerate(zip(inputs.tolist(), targets.tolist(), strict=True)):
            answer = bytes(token for token in wanted if token).decode("ascii", "replace")
            found = derive(bytes(token for token in tokens if token).decode("ascii", "replace"))
            if f"{found}." != answer:
                raise InputError(f"example {row}: its facts say {found!r}, its answer {answer!r}; generate it again.")


def _scattered(facts: list[str], places: np.ndarray, hay: list[str], room: int) -> str:
    """Return facts in order between sentences of `room` bytes of prose, the last sentence cut short."""
    prose = "".join(hay)[:room]
    ends = [end for end in np.cumsum([0, *map(len, hay)]).tolist() if end <= room]
    cuts = [ends[int(place * len(ends))] for place in places]
    text, start = "", 0
    for fact, cut in zip(facts, cuts, strict=True):
        text, start = text + prose[start:cut] + fact, cut
    return text + prose[start:]
