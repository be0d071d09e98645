"""What is learned from data before training: always from the training split, never from validation or test."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor

from titans_trm.data.examples import ExampleSet
from titans_trm.data.spec import PAD
from titans_trm.errors import InputError

BalanceBy = Literal["source", "rating", "length"]

_TRAIN = "train"  # name of the split that may be learned from
_BUCKETS = 10  # quantile buckets of a rating or length
_CAP_ROUNDS = 20  # of capping weights and scaling them to mean 1


class Fitted(ABC):
    """Statistics of the training split. `fit` refuses every other set by its name."""

    @classmethod
    def fit(cls, train: ExampleSet, **options: Any) -> Self:
        """Return the statistics of `train`; `InputError` for a set that is not the training split."""
        if train.name != _TRAIN:
            raise InputError(
                f"{cls.__name__} would be fitted on {train.name!r}; fit it on the split named 'train', because what is "
                "learned from validation or test makes their scores too high."
            )
        return cls._fit(train, **options)

    @classmethod
    @abstractmethod
    def _fit(cls, train: ExampleSet, **options: Any) -> Self: ...


@dataclass(frozen=True)
class ClassWeights(Fitted):
    """Factor of each target token in the loss: its share of the scored training targets to the power -`power`.

    Scaled so that the mean over scored training tokens is 1, which leaves the size of the loss as it was. A token that
    is never a target has weight 1.
    """

    values: Tensor  # (V,) float32

    @classmethod
    def _fit(cls, train: ExampleSet, *, vocab_size: int, power: float, largest: float) -> Self:  # type: ignore[override]
        counts = token_counts(train.targets, vocab_size)
        counts[PAD] = 0.0
        seen = counts > 0
        weights = torch.ones(vocab_size, dtype=torch.float64)
        weights[seen] = (counts[seen] / counts.sum()) ** -power
        scored = counts[seen] / counts.sum()
        # Capping lowers the mean, which raises what the cap allows: a few rounds settle it.
        for _ in range(_CAP_ROUNDS):
            weights[seen] /= (weights[seen] * scored).sum()
            weights[seen] = weights[seen].clamp(max=largest)
        return cls(weights.float())


@dataclass(frozen=True)
class QuantileBuckets(Fitted):
    """Cuts of a rating or length into buckets of equal size on the training split; equal values share a bucket."""

    by: BalanceBy
    edges: np.ndarray  # (K - 1,) ascending

    @classmethod
    def _fit(cls, train: ExampleSet, *, by: BalanceBy, buckets: int = _BUCKETS) -> Self:  # type: ignore[override]
        values = attribute(train, by)
        quantiles = np.unique(np.quantile(values, np.linspace(0, 1, buckets + 1)[1:-1], method="lower"))
        return cls(by, quantiles[quantiles < values.max()])  # no bucket above the largest

    def of(self, examples: ExampleSet) -> np.ndarray:
        """Return the bucket of each example, `(n,)` int64 from 0."""
        return np.searchsorted(self.edges, attribute(examples, self.by), side="left")

    def label(self, bucket: int) -> str:
        """Return the values of a bucket in words."""
        if not len(self.edges):
            return "all"
        if bucket == 0:
            return f"up to {self.edges[0]:g}"
        low = self.edges[bucket - 1]
        return f"over {low:g}" if bucket == len(self.edges) else f"over {low:g} to {self.edges[bucket]:g}"


@dataclass(frozen=True)
class SampleWeights(Fitted):
    """How often each training example is served: in proportion to (share of its bucket)^-`power`, mean 1."""

    values: Tensor  # (n,) float64

    @classmethod
    def _fit(cls, train: ExampleSet, *, by: BalanceBy, power: float) -> Self:  # type: ignore[override]
        if by == "source":
            _, bucket = np.unique(np.array(train.sources), return_inverse=True)
        else:
            bucket = QuantileBuckets.fit(train, by=by).of(train)
        shares = np.bincount(bucket) / len(train)
        weights = shares[bucket] ** -power
        return cls(torch.from_numpy(weights / weights.mean()))


def attribute(examples: ExampleSet, by: BalanceBy) -> np.ndarray:
    """Return the rating or the length (input tokens that are not PAD) of each example, `(n,)` float64."""
    if by == "rating":
        return examples.ratings.double().numpy()
    if by == "length":
        return (examples.inputs != PAD).sum(dim=1).double().numpy()
    raise ValueError(f"by={by!r} is no number of an example; choose rating or length.")


def token_counts(tokens: Tensor, vocab_size: int) -> Tensor:
    """Return how often each token occurs, `(V,)` float64."""
    return torch.bincount(tokens.flatten().long(), minlength=vocab_size).double()
