"""What the data say before the first step: shared examples, duplicates, lopsided labels."""

import math

import torch

from titans_trm.data.examples import ExampleSet
from titans_trm.data.spec import PAD
from titans_trm.diagnostics.signals import Signals


def preflight(train: ExampleSet, val: ExampleSet) -> Signals:
    """Return the `data/...` signals of two splits.

    Two examples are the same if their group keys or their input tokens are: keys know the symmetries of a task, tokens
    need no trust in keys.
    """
    keys, rows = set(train.keys), set(_rows(train))
    shared = sum(key in keys or row in rows for key, row in zip(val.keys, _rows(val), strict=True))
    counts = torch.bincount(train.targets.flatten().long()).float()
    counts[PAD] = 0.0
    present = counts[counts > 0]
    shares = (present / present.sum()).tolist()
    values = {
        "data/leak": shared / len(val),
        "data/leaked": float(shared),
        "data/duplicates": 1.0 - len(rows) / len(train),
        "data/majority": max(shares),
        "data/imbalance": max(shares) / min(shares),
        "data/label_entropy": -sum(share * math.log(share) for share in shares),
        "data/train_examples": float(len(train)),
    }
    return Signals(0, {name: float(f"{value:.5g}") for name, value in values.items()})


def _rows(examples: ExampleSet) -> list[bytes]:
    return [row.tobytes() for row in examples.inputs.numpy()]
