"""The LightningDataModule: slots for training, batches for validation.

Lightning's train loader is a bare tick, because what the next batch holds depends on which slots halted: the slots pull
their examples from the stream themselves. An epoch is therefore a count of examples finished, not of batches.
"""

import itertools
from collections.abc import Iterator
from typing import Any

import lightning
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from titans_trm.data.batch import Batch
from titans_trm.data.examples import ExampleSet
from titans_trm.data.load import TaskData
from titans_trm.data.stream import ExampleStream
from titans_trm.errors import InputError
from titans_trm.models.config import HaltingConfig, RecursionConfig
from titans_trm.models.titans_trm import TitansTRM
from titans_trm.training.config import TrainerConfig
from titans_trm.training.ranks import Ranks
from titans_trm.training.slots import SlotGroups

_FEWEST_EXAMPLES = 4  # of a validation subset, whatever it costs


class SlotDataModule(lightning.LightningDataModule):
    """Serve a task's training stream as slots and its validation subset as batches.

    Args:
        data: the task with its splits.
        batch_size: slots of one batch on each rank.
        accumulate: batches of one optimiser step.
        val_examples: size of the fixed, seeded validation subset.
        val_batch_size: examples solved at once.
        seed: of the order of examples, augmentation and exploration.
        weights: (n,) how often each training example is served, over the mean; None = once an epoch.
    """

    def __init__(
        self,
        data: TaskData,
        *,
        batch_size: int,
        accumulate: int,
        val_examples: int,
        val_batch_size: int,
        seed: int,
        weights: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.data = data
        self.batch_size = batch_size
        self.accumulate = accumulate
        self.val_batch_size = val_batch_size
        self.seed = seed
        self.weights = weights
        self.val_subset = seeded_subset(data.val, val_examples, seed)

    def make_slots(self, model: TitansTRM, ranks: Ranks) -> SlotGroups:
        """Return the empty slots of one rank; ranks share the stream without overlap."""
        stream = ExampleStream(self.data.train, seed=self.seed, augment=self.data.augment, weights=self.weights)
        return SlotGroups(model, stream, self.batch_size, accumulate=self.accumulate, seed=self.seed, ranks=ranks)

    def train_dataloader(self) -> DataLoader[int]:
        """Return the endless tick that drives Lightning's loop."""
        return _TickLoader(_Ticks(), batch_size=None)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Return this rank's batches of the fixed validation subset: each example on one rank, as many batches on all.

        Raises:
            InputError: there are fewer examples than ranks.
        """
        trainer = self.trainer
        if trainer is None or trainer.world_size == 1:
            return solve_loader(self.val_subset, self.val_batch_size)
        return _loader(shared_batches(self.val_subset, self.val_batch_size, trainer.global_rank, trainer.world_size))


def solve_loader(examples: ExampleSet, batch_size: int) -> DataLoader[Batch]:
    """Return a loader over `examples` in order, each once, in batches of at most `batch_size`."""
    starts = range(0, len(examples), batch_size)
    return _loader([examples.batch(torch.arange(start, min(start + batch_size, len(examples)))) for start in starts])


def shared_batches(examples: ExampleSet, batch_size: int, rank: int, world_size: int) -> list[Batch]:
    """Return the batches of one rank: together each example once, as many batches on every rank, of about this size.

    Sharded weights are gathered by all ranks in each batch: a rank with one more would wait for ever.

    Raises:
        InputError: there are fewer examples than ranks.
    """
    fewest, most = len(examples) // world_size, -(-len(examples) // world_size)
    if not fewest:
        raise InputError(
            f"{len(examples)} validation examples are too few for {world_size} processes; "
            f"set trainer.val_examples to {world_size} or more, or use fewer devices."
        )
    mine = torch.arange(len(examples)).tensor_split(world_size)[rank]
    return [examples.batch(rows) for rows in mine.tensor_split(min(-(-most // batch_size), fewest))]


def affordable_val_examples(trainer: TrainerConfig, recursion: RecursionConfig, halting: HaltingConfig) -> int:
    """Return how many examples a validation may solve so that validations take `val_time_share` of the training time.

    Counted in net calls: a backward pass costs two forward passes, checkpointing one more. A run shorter than
    `val_every_steps` validates once, at its end. Never fewer than `_FEWEST_EXAMPLES`, which say little but cost little.
    """
    calls = recursion.num_recursions * (recursion.num_latent_steps + 1)
    with_gradient = recursion.num_latent_steps + 1 if recursion.gradient == "full" else 2
    per_step = trainer.batch_size * trainer.accumulate * (calls + (3 if recursion.checkpointing else 2) * with_gradient)
    per_example = halting.max_supervision_steps * calls
    steps = min(trainer.val_every_steps, trainer.max_steps)
    return max(_FEWEST_EXAMPLES, int(trainer.val_time_share * steps * per_step / per_example))


def seeded_subset(examples: ExampleSet, size: int, seed: int) -> ExampleSet:
    """Return `size` examples drawn without replacement, the same for the same seed; all if there are fewer."""
    if size >= len(examples):
        return examples
    order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(seed))
    return examples.select(order[:size].sort().values)


def _loader(batches: list[Batch]) -> DataLoader[Batch]:
    return DataLoader(batches, batch_size=None)  # type: ignore[arg-type]


class _Ticks(IterableDataset[int]):
    def __iter__(self) -> Iterator[int]:
        return itertools.count()


class _TickLoader(DataLoader[int]):
    """A loader that can be resumed anywhere, since it holds nothing: Lightning warns about any other."""

    def state_dict(self) -> dict[str, Any]:
        """Return nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take nothing."""
