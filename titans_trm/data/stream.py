"""The endless stream of training examples, resumable from its position alone."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from titans_trm.data.batch import Batch
from titans_trm.data.examples import ExampleSet, to_batch
from titans_trm.data.files import sha256
from titans_trm.data.spec import Augment, AugmentWithIds

_ORDER, _AUGMENTATION = 0, 1  # separate random streams of one seed


class ExampleStream:
    """Serve training examples forever, each exactly once per epoch, or as often as its weight says.

    The example at global position g is row `permutation(seed, epoch)[g % n]` of epoch `g // n`, varied by a symmetry
    drawn for the block of `block_size` positions it lies in. Everything is a function of (seed, position), so a stream
    resumes exactly from its position, and several processes share one by reading different positions of it.

    With `weights` (n,) an epoch still has n places, of which example i takes n w_i / sum(w) on average: rounded down or
    up, never further off (systematic sampling).
    """

    def __init__(
        self,
        examples: ExampleSet,
        *,
        seed: int,
        augment: Augment | AugmentWithIds | None,
        block_size: int = 1024,
        weights: Tensor | None = None,
    ) -> None:
        if not len(examples):
            raise ValueError(f"{examples.name} has no examples; a stream needs at least 1.")
        if block_size < 1:
            raise ValueError(f"block_size={block_size} is too small; choose 1 or more.")
        if weights is not None and (weights.shape != (len(examples),) or not (weights > 0).all()):
            raise ValueError(
                f"weights of shape {tuple(weights.shape)} do not fit {len(examples)} examples; give one above 0 each."
            )
        self.examples = examples
        self._weights = weights
        self.position = 0  # examples served
        self._seed, self._augment = seed, augment
        self._block_size = block_size
        self._orders: dict[int, Tensor] = {}  # the last epoch's permutation
        self._blocks: dict[int, Batch] = {}  # the last block

    def take(self, count: int) -> Batch:
        """Return the next `count` examples and move on."""
        if count < 1:
            raise ValueError(f"count={count} is too small; take 1 example or more.")
        batch = self.read(self.position, count)
        self.position += count
        return batch

    def read(self, start: int, count: int) -> Batch:
        """Return the `count` examples (1 or more) from global position `start` on, without moving."""
        places = torch.arange(start, start + count)
        blocks = places // self._block_size
        parts = [
            self._read_block(int(block)).select(places[blocks == block] - int(block) * self._block_size)
            for block in blocks.unique()
        ]
        return Batch.concat(parts)

    @property
    def epoch(self) -> float:
        """Epochs served."""
        return self.position / len(self.examples)

    def state_dict(self) -> dict[str, Any]:
        """Return the position, and what it is a position in."""
        return {"position": self.position} | self._identity()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Move to a saved position; `ValueError` when it belongs to another stream."""
        for name, value in self._identity().items():
            if name in state and state[name] != value:
                raise ValueError(
                    f"The saved stream has {name}={state[name]}, this one {name}={value}: the order of examples would "
                    "change; resume with the same data and seed."
                )
        self.position = int(state["position"])

    def _identity(self) -> dict[str, Any]:
        return {
            "seed": self._seed,
            "block_size": self._block_size,
            "augmented": self._augment is not None,
            "examples_sha256": self.examples.sha256,
            "weights_sha256": None if self._weights is None else sha256(self._weights.double().numpy().tobytes()),
        }

    def _read_block(self, block: int) -> Batch:
        if block not in self._blocks:
            places = torch.arange(block * self._block_size, (block + 1) * self._block_size)
            epochs = places // len(self.examples)
            rows = torch.cat(
                [self._permutation(int(e))[places[epochs == e] - int(e) * len(self.examples)] for e in epochs.unique()]
            )
            inputs, targets = self.examples.inputs[rows], self.examples.targets[rows]
            ids = None if self.examples.puzzle_ids is None else self.examples.puzzle_ids[rows]
            if self._augment is not None:
                columns = (inputs, targets) if ids is None else (inputs, targets, ids)
                inputs, targets, *varied = self._augment(*columns, _generator(self._seed, _AUGMENTATION, block))  # type: ignore[call-arg, arg-type]
                ids = varied[0] if varied else None
            self._blocks = {block: to_batch(inputs, targets, rows, ids)}
        return self._blocks[block]

    def _permutation(self, epoch: int) -> Tensor:
        if epoch not in self._orders:
            generator = _generator(self._seed, _ORDER, epoch)
            order = torch.randperm(len(self.examples), generator=generator)
            self._orders = {epoch: order if self._weights is None else _weighted(order, self._weights, generator)}
        return self._orders[epoch]


def _weighted(order: Tensor, weights: Tensor, generator: torch.Generator) -> Tensor:
    """Return as many rows as `order` has, each about as often as its share of `weights`, in random order."""
    count = len(order)
    ends = weights.double()[order].cumsum(0)
    points = (torch.arange(count) + torch.rand(1, generator=generator, dtype=torch.float64)) * (ends[-1] / count)
    rows = order[torch.searchsorted(ends, points, right=True).clamp(max=count - 1)]
    return rows[torch.randperm(count, generator=generator)]


def _generator(seed: int, stream: int, number: int) -> torch.Generator:
    """Return the generator of block or epoch `number` of one random stream."""
    state = np.random.SeedSequence([seed, stream, number]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]) >> 1)
