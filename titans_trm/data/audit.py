"""Look at data before they are trained on: imbalance, duplicates, and how far validation and test are from train.

Divergence is the Jensen-Shannon divergence of two distributions in bits: 0 for equal ones, 1 for disjoint ones. How
much of it chance alone would give is found by dealing the same examples out at random again and again.
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from titans_trm.data.examples import ExampleSet
from titans_trm.data.fitted import QuantileBuckets, attribute, token_counts
from titans_trm.data.load import TaskData
from titans_trm.data.spec import PAD

IMBALANCE = 10.0  # most over least frequent label above which a warning is given
DIVERGENCE = 0.01  # bits below which a difference from train does not matter, however certain it is
_DEALS = 100  # random deals for the chance level
_MOST_EXAMPLES = 4096  # of a set, for divergences: a seeded subset says as much
_MOST_COUNTS = 2**22  # examples times vocabulary: bounds memory to some 100 MB
_TOP = 20  # sources named; the others are one
_CHANCE = 0.95  # quantile of the random deals

Report = dict[str, Any]


def audit(data: TaskData) -> Report:
    """Return a report as plain values: per split counts, shares and duplicates; per pair divergences; warnings."""
    splits = {"train": data.train, "val": data.val, "test": data.test()}
    buckets = {by: QuantileBuckets.fit(data.train, by=by) for by in ("rating", "length")}
    sources = [name for name, _ in Counter(data.train.sources).most_common(_TOP)]
    report: Report = {
        "task": data.spec.name,
        "vocab_size": data.spec.vocab_size,
        "bucket_labels": {by: [one.label(b) for b in range(len(one.edges) + 1)] for by, one in buckets.items()},
        "sources": sources,
        "splits": {name: _describe(one, data.spec.vocab_size, buckets, sources) for name, one in splits.items()},
        "divergence": {
            f"train-{name}": _divergences(data.train, splits[name], data.spec.vocab_size, buckets, sources)
            for name in ("val", "test")
        },
    }
    report["warnings"] = _warnings(report)
    return report


def js_divergence(first: np.ndarray, second: np.ndarray) -> float:
    """Return the Jensen-Shannon divergence of two histograms `(K,)` in bits."""
    p, q = first / first.sum(), second / second.sum()
    mean = (p + q) / 2

    def entropy(values: np.ndarray) -> float:
        values = values[values > 0]
        return float(-(values * np.log2(values)).sum())

    return max(0.0, entropy(mean) - (entropy(p) + entropy(q)) / 2)


def _describe(
    examples: ExampleSet, vocab_size: int, buckets: dict[str, QuantileBuckets], sources: Sequence[str]
) -> Report:
    labels = token_counts(examples.targets, vocab_size).numpy()
    labels[PAD] = 0
    present = labels[labels > 0]
    shares = present / present.sum()
    lengths, ratings = attribute(examples, "length"), attribute(examples, "rating")
    contents = Counter(row.tobytes() for row in examples.inputs.numpy())
    return {
        "count": len(examples),
        "groups": len(set(examples.keys)),
        "scored_tokens_per_example": float((examples.targets != PAD).sum(dim=1).double().mean()),
        "label_shares": (labels / labels.sum()).tolist(),
        "label_imbalance": float(present.max() / present.min()),
        "label_entropy_share": float(-(shares * np.log(shares)).sum() / math.log(len(shares)))
        if len(shares) > 1
        else 1.0,
        "length": _quantiles(lengths),
        "rating": _quantiles(ratings),
        "rating_buckets": _bucket_shares(buckets["rating"], examples),
        "length_buckets": _bucket_shares(buckets["length"], examples),
        "source_shares": (_source_counts(examples, sources).sum(0) / len(examples)).tolist(),
        "duplicate_inputs": sum(count - 1 for count in contents.values()),
        "largest_group": max(Counter(examples.keys).values()),
    }


def _divergences(
    train: ExampleSet, other: ExampleSet, vocab_size: int, buckets: dict[str, QuantileBuckets], sources: Sequence[str]
) -> Report:
    """Return for each property the divergence of two sets and what chance alone would give."""
    most = min(_MOST_EXAMPLES, _MOST_COUNTS // vocab_size)
    train, other = _sampled(train, most), _sampled(other, most)
    features = {
        "labels": [_token_rows(one.targets.numpy(), vocab_size) for one in (train, other)],
        "inputs": [_token_rows(one.inputs.numpy(), vocab_size) for one in (train, other)],
        "rating": [_one_hot(buckets["rating"].of(one), len(buckets["rating"].edges) + 1) for one in (train, other)],
        "length": [_one_hot(buckets["length"].of(one), len(buckets["length"].edges) + 1) for one in (train, other)],
        "source": [_source_counts(one, sources) for one in (train, other)],
    }
    return {name: _with_chance(*pair) for name, pair in features.items()}


def _with_chance(first: np.ndarray, second: np.ndarray) -> Report:
    """Return the divergence of rows `(n, K)` and `(m, K)` of counts, and the level that random deals seldom pass."""
    rows = np.concatenate([first, second]).astype(np.float64)
    total = rows.sum(axis=0)
    keep = total > 0
    rows, total = rows[:, keep], total[keep]
    value = js_divergence(first[:, keep].sum(axis=0), second[:, keep].sum(axis=0))
    rng = np.random.default_rng(0)
    dealt = []
    for _ in range(_DEALS):
        part = rows[rng.permutation(len(rows))[: len(second)]].sum(axis=0)
        if part.sum() and (total - part).sum():
            dealt.append(js_divergence(total - part, part))
    chance = float(np.quantile(dealt, _CHANCE)) if dealt else 0.0
    return {"bits": value, "chance": chance, "differs": value > chance and value > DIVERGENCE}


def _warnings(report: Report) -> list[str]:
    found = []
    train = report["splits"]["train"]
    if train["label_imbalance"] > IMBALANCE:
        found.append(
            f"labels of train are uneven: the commonest is {train['label_imbalance']:.0f} times as frequent as the "
            "rarest; consider loss.class_weight_power=0.5 or loss.focal_gamma=2"
        )
    for name, split in report["splits"].items():
        if split["duplicate_inputs"]:
            found.append(f"{name} holds {split['duplicate_inputs']} inputs that occur before in it")
    for pair, properties in report["divergence"].items():
        for name, result in properties.items():
            if result["differs"]:
                found.append(
                    f"{pair.partition('-')[2]} differs from train in {name}: {result['bits']:.3f} bits, by chance "
                    f"{result['chance']:.3f}; scores on it say less about the training distribution"
                )
    return found


def _quantiles(values: np.ndarray) -> dict[str, float]:
    points = {"min": 0.0, "p25": 0.25, "median": 0.5, "p75": 0.75, "max": 1.0}
    return {"mean": float(values.mean())} | {name: float(np.quantile(values, q)) for name, q in points.items()}


def _bucket_shares(buckets: QuantileBuckets, examples: ExampleSet) -> list[float]:
    counts = np.bincount(buckets.of(examples), minlength=len(buckets.edges) + 1)
    return (counts / len(examples)).tolist()


def _source_counts(examples: ExampleSet, sources: Sequence[str]) -> np.ndarray:
    number = {source: column for column, source in enumerate(sources)}
    return _one_hot(np.array([number.get(source, len(sources)) for source in examples.sources]), len(sources) + 1)


def _one_hot(buckets: np.ndarray, count: int) -> np.ndarray:
    return np.eye(count, dtype=np.int64)[buckets]


def _token_rows(tokens: np.ndarray, vocab_size: int) -> np.ndarray:
    """Return how often each token but PAD occurs in each row, `(n, V)`."""
    flat = tokens.astype(np.int64) + vocab_size * np.arange(len(tokens))[:, None]
    counts = np.bincount(flat.ravel(), minlength=vocab_size * len(tokens)).reshape(len(tokens), vocab_size)
    counts[:, PAD] = 0
    return counts


def _sampled(examples: ExampleSet, most: int) -> ExampleSet:
    if len(examples) <= most:
        return examples
    return examples.select(np.sort(np.random.default_rng(0).permutation(len(examples))[:most]).tolist())
