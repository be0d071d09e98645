"""Whether examples come from the distribution that a model was trained on.

Each feature of an example is compared by the two-sample Kolmogorov-Smirnov test; p values are corrected by Holm, so
that with equal distributions a shift is flagged at most at the nominal rate, whatever the number of features.
Examples that are the same up to symmetry are not independent: one of each group is taken.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import ks_2samp

from titans_trm.data.examples import ExampleSet
from titans_trm.data.spec import PAD
from titans_trm.evaluation.significance import holm

_MOST_TOKENS = 32  # of a vocabulary whose counts are features one by one; a larger one is summed up by its variety
_EXACT_UP_TO = 200  # examples on each side for which the exact distribution of the statistic is used

Features = Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True, kw_only=True)
class FeatureShift:
    """One feature in the training and in the other examples."""

    feature: str
    train_mean: float
    other_mean: float
    statistic: float  # largest distance of the distribution functions, 0 to 1
    p: float
    p_holm: float


@dataclass(frozen=True, kw_only=True)
class Shift:
    """All features, the least likely first."""

    flagged: bool  # some corrected p is below alpha
    alpha: float
    train_groups: int
    other_groups: int
    features: list[FeatureShift]


def detect_shift(train: ExampleSet, other: ExampleSet, *, alpha: float = 0.05) -> Shift:
    """Compare `other` with the training examples, before any augmentation.

    Args:
        train: what the model was trained on.
        other: what it is to work on.
        alpha: chance of a flag when nothing has shifted.
    """
    first, second = _one_of_each_group(train), _one_of_each_group(other)
    vocabulary = first.inputs.unique().tolist() + second.inputs.unique().tolist()
    ours, theirs = features_of(first, vocabulary), features_of(second, vocabulary)
    found = []
    for name in ours:
        if np.ptp(np.concatenate((ours[name], theirs[name]))) == 0:
            continue  # the same everywhere
        method = "exact" if max(len(first), len(second)) <= _EXACT_UP_TO else "asymp"
        test = ks_2samp(ours[name], theirs[name], method=method)
        found.append(
            (name, float(ours[name].mean()), float(theirs[name].mean()), float(test.statistic), float(test.pvalue))
        )
    corrected = holm({name: p for name, *_, p in found})
    features = [
        FeatureShift(feature=name, train_mean=a, other_mean=b, statistic=d, p=p, p_holm=corrected[name])
        for name, a, b, d, p in found
    ]
    return Shift(
        flagged=any(one.p_holm < alpha for one in features),
        alpha=alpha,
        train_groups=len(first),
        other_groups=len(second),
        features=sorted(features, key=lambda one: (one.p, one.feature)),
    )


def features_of(examples: ExampleSet, vocabulary: Sequence[int]) -> Features:
    """Return what is measured of each example: rating, length, cells given, and how often each token comes."""
    inputs, targets = examples.inputs.numpy(), examples.targets.numpy()
    present = inputs != PAD
    scored = targets != PAD
    found = {
        "rating": examples.ratings.numpy().astype(np.float64),
        "length": present.sum(axis=1).astype(np.float64),
        "scored": scored.sum(axis=1).astype(np.float64),
        "given": ((inputs == targets) & scored).sum(axis=1).astype(np.float64),
        "different_tokens": np.array([len(np.unique(row)) for row in inputs], dtype=np.float64),
    }
    tokens = sorted(set(vocabulary) - {PAD})
    if len(tokens) <= _MOST_TOKENS:
        found |= {f"input_token_{token}": (inputs == token).sum(axis=1).astype(np.float64) for token in tokens}
    return found


def _one_of_each_group(examples: ExampleSet) -> ExampleSet:
    _, rows = np.unique(np.asarray(examples.keys), return_index=True)
    return examples if len(rows) == len(examples) else examples.select(np.sort(rows).tolist())
