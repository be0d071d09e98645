"""Two processes train like one with the same slots: same examples, same numbers, one checkpoint of all of them."""

import dataclasses
import json
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from ranks_cases import on_ranks
from training_cases import WARNINGS, differences, last, run_differences, tiny_config, with_callback

from titans_trm.errors import InputError
from titans_trm.tasks.train import train
from titans_trm.training.callbacks.curves import LearningCurves
from titans_trm.training.callbacks.metrics_csv import read_metrics
from titans_trm.training.datamodule import shared_batches

pytestmark = [pytest.mark.filterwarnings(warning) for warning in WARNINGS]

SHARED = ("trainer.log_every_steps=1", "trainer.max_steps=50", "trainer.val_every_steps=20", "optimizer.lr=5e-4")
ALONE = (*SHARED, "trainer.batch_size=6")
TWO = (*SHARED, "trainer.batch_size=3", "hardware.devices=2", "hardware.strategy=ddp")
COMPARED = ("loss", "cross_entropy", "halting_loss", "diversity_loss", "halting_std", "grad_norm")


@pytest.fixture(scope="module", autouse=True)
def _no_pictures() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LearningCurves, "_draw", lambda *_: None)
        patch.setattr("titans_trm.tasks.train.predict_training_peak", lambda *_: Mock(total_bytes=0))
        yield


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ddp")


def train_on_two(folder: Path, *overrides: str, prepare: Callable[[Any], Any] = lambda config: config) -> list[Any]:
    def task(rank: int) -> Any:
        own = folder if rank == 0 else folder.with_name(f"{folder.name}-a-second-later")  # as its own clock says
        return train(prepare(tiny_config(own, *TWO, *overrides)))

    return on_ranks(2, task, folder.parent / f"{folder.name}-results")


@pytest.fixture(scope="module")
def pair(root: Path) -> tuple[Path, Path]:
    """One process with 6 slots, two with 3 each."""
    one, two = root / "runs" / "one", root / "runs" / "two"
    train(tiny_config(one, *ALONE))
    results = train_on_two(two)
    assert [result["exit_status"] for result in results] == [0, 0]
    assert [result["run_dir"] for result in results] == [str(two)] * 2
    assert not two.with_name("two-a-second-later").exists()
    return one, two


def test_losses_agree_over_fifty_steps(pair: tuple[Path, Path]) -> None:
    one, two = (read_metrics(folder / "metrics.csv") for folder in pair)
    assert one["step"] == two["step"] and one["split"] == two["split"]
    assert one["examples_finished"] == two["examples_finished"]
    for name in COMPARED:
        for step, a, b in zip(one["step"], one[name], two[name], strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                assert abs(a - b) <= 1e-5, f"{name} at step {step}: {a} and {b}"


def test_weights_and_their_average_agree_and_the_checkpoint_has_every_slot(pair: tuple[Path, Path]) -> None:
    one, two = (last(folder) for folder in pair)
    torch.testing.assert_close(two["state_dict"], one["state_dict"], rtol=0, atol=1e-5)
    torch.testing.assert_close(two["current_model_state"], one["current_model_state"], rtol=0, atol=1e-5)
    slots = [saved["titans_trm"]["slots"] for saved in (one, two)]
    assert [len(group["halted"]) for saved in slots for group in saved["groups"]] == [6, 6]
    for name in ("batch", "min_steps", "halted"):
        assert list(differences(slots[0]["groups"][0][name], slots[1]["groups"][0][name])) == []
    assert list(differences(slots[0]["generator"], slots[1]["generator"])) == []
    assert slots[0]["stream"] == slots[1]["stream"] and slots[0]["examples_finished"] == slots[1]["examples_finished"]


def test_validation_is_over_the_examples_of_all_ranks(pair: tuple[Path, Path]) -> None:
    one, two = (read_metrics(folder / "metrics.csv") for folder in pair)
    rows = [row for row, split in enumerate(one["split"]) if split == "val"]
    assert [one["num_examples"][row] for row in rows] == [two["num_examples"][row] for row in rows] == [4, 4]
    for name in ("cross_entropy", "token_accuracy", "exact_accuracy_step_1"):
        assert [two[name][row] for row in rows] == pytest.approx([one[name][row] for row in rows], abs=1e-5)


def test_both_ranks_say_what_they_trained(pair: tuple[Path, Path]) -> None:
    ranks = json.loads((pair[1] / "ranks.json").read_text())
    assert [one["rank"] for one in ranks] == [0, 1]
    assert len({one["process"] for one in ranks}) == 2
    assert len({one["config_sha256"] for one in ranks}) == len({one["training_data"] for one in ranks}) == 1
    assert not (pair[0] / "ranks.json").exists()


STOPPED = 7


@pytest.fixture(scope="module")
def stopped(root: Path) -> Path:
    """Two processes of which the second alone gets SIGTERM, while the specialist is on call."""
    folder = root / "runs" / "stopped"
    results = train_on_two(folder, *ON_CALL, prepare=lambda c: with_callback(c, "SignalAt", step=STOPPED, rank=1))
    assert [result["exit_status"] for result in results] == [130, 0]
    return folder


ON_CALL = ("trainer.max_steps=14", "specialist.sync_every_steps=2")


def test_a_signal_to_one_process_stops_both_at_the_same_step(stopped: Path) -> None:
    assert last(stopped)["global_step"] == STOPPED
    summary = json.loads((stopped / "summary.json").read_text())
    assert (summary["status"], summary["global_step"]) == ("stopped", STOPPED)


def test_two_processes_resume_to_the_same_bits_with_a_specialist_on_call(root: Path, stopped: Path) -> None:
    folder = root / "runs" / "resumed"
    shutil.copytree(stopped, folder)
    undisturbed = root / "runs" / "undisturbed"
    train_on_two(undisturbed, *ON_CALL)
    train_on_two(folder, *ON_CALL, f"resume={folder}")
    assert last(folder)["global_step"] == 14
    assert run_differences(undisturbed, folder) == []


def test_one_process_goes_on_with_the_slots_of_two(root: Path, stopped: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = root / "runs" / "fewer"
    shutil.copytree(stopped, folder)
    alone = (*SHARED, *ON_CALL, "trainer.batch_size=2", "trainer.accumulate=3", f"resume={folder}")
    with caplog.at_level(logging.INFO):
        assert train(tiny_config(folder, *alone))["global_step"] == 14
    assert "6 slots, of 2 processes x 1 batches, go on in 1 x 3" in caplog.text
    straight = read_metrics(root / "runs" / "undisturbed" / "metrics.csv")
    spread = read_metrics(folder / "metrics.csv")
    assert spread["examples_finished"] == straight["examples_finished"]
    for one, other in zip(spread["cross_entropy"], straight["cross_entropy"], strict=True):
        assert one == pytest.approx(other, abs=1e-3)  # the diversity term is a statistic of one batch


def test_another_number_of_slots_is_refused_with_the_cure(stopped: Path) -> None:
    with pytest.raises(InputError, match=r"hardware.devices: 2 -> 1"):
        train(tiny_config(stopped, *SHARED, *ON_CALL, "trainer.batch_size=3", f"resume={stopped}"))


def test_ranks_of_different_configurations_do_not_start(root: Path) -> None:
    """As in a sweep whose processes each drew values of their own."""

    def drawn(config: Any, rank: int) -> Any:
        optimizer = dataclasses.replace(config.optimizer, lr=1e-3 * (1 + rank))
        return dataclasses.replace(config, optimizer=optimizer)

    def task(rank: int) -> str:
        with pytest.raises(InputError) as raised:
            train(drawn(tiny_config(root / "runs" / "mixed", *TWO), rank))
        return str(raised.value)

    told = on_ranks(2, task, root / "mixed-results")
    assert all("processes 0 and 1 of this run differ (optimizer.lr: 0.001 and 0.002)" in text for text in told)


def test_ranks_without_an_own_example_to_validate_are_refused() -> None:
    examples = Mock(__len__=lambda _: 3)
    with pytest.raises(InputError, match="3 validation examples are too few for 4 processes"):
        shared_batches(examples, 2, rank=0, world_size=4)
