"""Nothing that was trained on is scored: examples are compared with the training set by canonical key."""

from typing import Literal

from titans_trm.data.examples import ExampleSet
from titans_trm.errors import InputError

Overlap = Literal["refuse", "drop"]

_SHOWN = 3  # shared examples named in one message


def without_training_examples(
    examples: ExampleSet, train: ExampleSet, *, overlap: Overlap, run: str
) -> tuple[ExampleSet, int]:
    """Return the examples that may be scored, and how many were dropped because their group was trained on.

    Copies that are mirrored, relabelled or moved by any symmetry of the task have the same key, so they are found too.

    Args:
        examples: what is to be scored.
        train: what the run learned from.
        overlap: refuse the whole set, or drop those examples.
        run: name of the run, for the message.

    Raises:
        InputError: training examples are among them and `overlap` is refuse, or nothing else is left.
    """
    trained = {key: row for row, key in reversed(list(enumerate(train.keys)))}
    known = [row for row, key in enumerate(examples.keys) if key in trained]
    if not known:
        return examples, 0
    groups = len({examples.keys[row] for row in known})
    found = (
        f"{examples.name}: {len(known)} of {len(examples)} examples, {groups} groups, are training examples of {run} "
        "or the same up to symmetry"
    )
    if len(known) == len(examples):
        raise InputError(f"{found}; a score would measure what was memorised. Give examples of their own.")
    if overlap == "refuse":
        shown = [f"example {row} = training example {trained[examples.keys[row]]}" for row in known[:_SHOWN]]
        more = ", ..." if len(known) > _SHOWN else ""
        raise InputError(
            f"{found} ({', '.join(shown)}{more}, counted from 0); a score would measure what was memorised. Remove "
            "them, or leave them out with overlap=drop."
        )
    left_out = set(known)
    return examples.select([row for row in range(len(examples)) if row not in left_out]), len(known)


def count_shared(examples: ExampleSet, others: ExampleSet) -> int:
    """Return how many of `examples` share a group with `others`."""
    keys = set(others.keys)
    return sum(key in keys for key in examples.keys)
