"""The endless stream of training examples, resumable from its position alone."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from titans_trm.data.batch import Batch
from titans_trm.data.examples import ExampleSet, to_batch
from titans_trm.data.spec import Augment

_ORDER, _AUGMENTATION = 0, 1  # separate random streams of one seed


class ExampleStream:
    """Serve training examples forever, each exactly once per epoch.

    The example at global position g is row `permutation(seed, epoch)[g % n]` of epoch `g // n`, varied by a symmetry
    drawn for the block of `block_size` positions it lies in. Everything is a function of (seed, position), so a stream
    resumes exactly from its position, and rank r of R serves the global positions r, r + R, r + 2R, ...
    """

    def __init__(
        self,
        examples: ExampleSet,
        *,
        seed: int,
        augment: Augment | None,
        rank: int = 0,
        world_size: int = 1,
        block_size: int = 1024,
    ) -> None:
        if not len(examples):
            raise ValueError(f"{examples.name} has no examples; a stream needs at least 1.")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank={rank} is not below world_size={world_size}; choose 0 to {world_size - 1}.")
        if block_size < 1:
            raise ValueError(f"block_size={block_size} is too small; choose 1 or more.")
        self.examples = examples
        self.position = 0  # examples this rank has served
        self._seed, self._augment = seed, augment
        self._rank, self._world_size, self._block_size = rank, world_size, block_size
        self._orders: dict[int, Tensor] = {}  # the last epoch's permutation
        self._blocks: dict[int, Batch] = {}  # the last block

    def take(self, count: int) -> Batch:
        """Return the next `count` examples of this rank and move on."""
        if count < 1:
            raise ValueError(f"count={count} is too small; take 1 example or more.")
        places = self._rank + self._world_size * torch.arange(self.position, self.position + count)
        blocks = places // self._block_size
        parts = [
            self._read_block(int(block)).select(places[blocks == block] - int(block) * self._block_size)
            for block in blocks.unique()
        ]
        self.position += count
        return Batch.concat(parts)

    @property
    def epoch(self) -> float:
        """Epochs served, over all ranks."""
        return self.position * self._world_size / len(self.examples)

    def state_dict(self) -> dict[str, Any]:
        """Return the position, and what it is a position in."""
        return {"position": self.position} | self._identity()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Move to a saved position; `ValueError` when it belongs to another stream."""
        for name, value in self._identity().items():
            if name in state and state[name] != value:
                raise ValueError(
                    f"The saved stream has {name}={state[name]}, this one {name}={value}: the order of examples would "
                    "change; resume with the same data, seed and number of processes."
                )
        self.position = int(state["position"])

    def _identity(self) -> dict[str, Any]:
        return {
            "seed": self._seed,
            "world_size": self._world_size,
            "block_size": self._block_size,
            "augmented": self._augment is not None,
            "examples_sha256": self.examples.sha256,
        }

    def _read_block(self, block: int) -> Batch:
        if block not in self._blocks:
            places = torch.arange(block * self._block_size, (block + 1) * self._block_size)
            epochs = places // len(self.examples)
            rows = torch.cat(
                [self._permutation(int(e))[places[epochs == e] - int(e) * len(self.examples)] for e in epochs.unique()]
            )
            inputs, targets = self.examples.inputs[rows], self.examples.targets[rows]
            if self._augment is not None:
                inputs, targets = self._augment(inputs, targets, _generator(self._seed, _AUGMENTATION, block))
            self._blocks = {block: to_batch(inputs, targets, rows)}
        return self._blocks[block]

    def _permutation(self, epoch: int) -> Tensor:
        if epoch not in self._orders:
            order = torch.randperm(len(self.examples), generator=_generator(self._seed, _ORDER, epoch))
            self._orders = {epoch: order}
        return self._orders[epoch]


def _generator(seed: int, stream: int, number: int) -> torch.Generator:
    """Return the generator of block or epoch `number` of one random stream."""
    state = np.random.SeedSequence([seed, stream, number]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]) >> 1)
