"""Slots for training, a fixed affordable subset for validation."""

from itertools import islice

import pytest
import torch
from training_cases import tiny_config

from titans_trm.data.load import TaskData, load_data
from titans_trm.models.config import HaltingConfig, RecursionConfig
from titans_trm.tasks.build import build_datamodule
from titans_trm.training.config import TrainerConfig
from titans_trm.training.datamodule import affordable_val_examples, seeded_subset, shared_batches, solve_loader


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TaskData:
    return load_data(tiny_config(tmp_path_factory.mktemp("datamodule") / "runs" / "one").data)


def test_the_validation_subset_is_fixed_by_its_seed(data: TaskData) -> None:
    one, same, other = (seeded_subset(data.train, 20, seed) for seed in (1, 1, 2))
    assert one.sha256 == same.sha256 != other.sha256
    # Puzzles, not groups: two puzzles may share a canonical group, none may be drawn twice.
    drawn, whole = (set(map(tuple, examples.inputs.tolist())) for examples in (one, data.train))
    assert len(one) == len(drawn) == 20 and drawn <= whole
    assert seeded_subset(data.val, 100, 1) is data.val


def test_the_loader_gives_each_example_once_in_order(data: TaskData) -> None:
    batches = list(solve_loader(data.val, 5))
    assert [len(batch) for batch in batches] == [5, 5, 2]
    assert torch.cat([batch.indices for batch in batches]).tolist() == list(range(12))


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_the_train_loader_is_an_endless_tick(data: TaskData, tmp_path_factory: pytest.TempPathFactory) -> None:
    config = tiny_config(tmp_path_factory.getbasetemp() / "a" / "b", cache=tmp_path_factory.getbasetemp() / "cache")
    loader = build_datamodule(config, data).train_dataloader()
    assert [int(tick) for tick in islice(loader, 5)] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("size", "batch", "ranks"), [(12, 5, 2), (7, 2, 3), (5, 1, 2), (4, 8, 4), (9, 4, 2)])
def test_ranks_share_the_validation_in_as_many_batches_each(data: TaskData, size: int, batch: int, ranks: int) -> None:
    examples = data.val.select(torch.arange(size))
    shares = [shared_batches(examples, batch, rank, ranks) for rank in range(ranks)]
    assert len({len(share) for share in shares}) == 1
    assert torch.cat([one.indices for share in shares for one in share]).tolist() == list(range(size))
    assert max(len(one) for share in shares for one in share) <= batch + 1


def test_validation_takes_its_share_of_the_net_calls() -> None:
    """T = 2, n = 1: 4 calls forward, 2 of them with gradient at twice that: 8 per slot; an example costs 3 x 4."""
    recursion = RecursionConfig(num_recursions=2, num_latent_steps=1, checkpointing=False)
    halting = HaltingConfig(max_supervision_steps=3)
    trainer = TrainerConfig(batch_size=6, accumulate=2, val_every_steps=100, max_steps=1000, val_time_share=0.1)
    assert affordable_val_examples(trainer, recursion, halting) == 100 * 12 * 8 // (10 * 12)
    short = TrainerConfig(batch_size=6, accumulate=2, val_every_steps=100, max_steps=1, val_time_share=0.1)
    assert affordable_val_examples(short, recursion, halting) == 4
    recomputed = RecursionConfig(num_recursions=2, num_latent_steps=1, checkpointing=True)
    assert affordable_val_examples(trainer, recomputed, halting) == 100 * 12 * 10 // (10 * 12)
