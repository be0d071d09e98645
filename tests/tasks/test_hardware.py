"""What a run stands on: automatic hardware, precision, threads, peak memory."""

import dataclasses
from collections.abc import Iterator

import pytest
import torch

from titans_trm.config import HardwareFacts, compose
from titans_trm.tasks import hardware
from titans_trm.tasks.hardware import hardware_facts, on_this_machine, peak_memory_bytes, prepare
from titans_trm.training.config import RunConfig


@pytest.fixture(scope="module")
def config() -> RunConfig:
    return compose("train", ["experiment=quickstart", "trainer.batch_size=5", "run_dir=runs/here"])


@pytest.fixture
def _threads_are_put_back() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("facts", "name", "precision"),
    [
        (HardwareFacts(), "cpu", "32-true"),
        (HardwareFacts(mps=True), "mps", "32-true"),
        (HardwareFacts(cuda=True, vram_bytes=6 * 2**30, bf16=True), "gpu_6gb", "bf16-mixed"),
        (HardwareFacts(cuda=True, vram_bytes=6 * 2**30), "gpu_6gb", "16-mixed"),
        (HardwareFacts(cuda=True, vram_bytes=80 * 2**30, bf16=True), "gpu", "bf16-mixed"),
    ],
)
def test_auto_becomes_what_is_found_and_the_users_values_stay(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch, facts: HardwareFacts, name: str, precision: str
) -> None:
    monkeypatch.setattr(hardware, "hardware_facts", lambda: facts)
    found = on_this_machine(config)
    assert (found.hardware.name, found.trainer.precision) == (name, precision)
    assert (found.trainer.batch_size, found.run_dir) == (5, "runs/here")


def test_a_named_precision_is_kept(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "hardware_facts", lambda: HardwareFacts(cuda=True, vram_bytes=2**33, bf16=True))
    chosen = dataclasses.replace(
        config,
        hardware=dataclasses.replace(config.hardware, name="gpu"),
        trainer=dataclasses.replace(config.trainer, precision="32-true"),
    )
    assert on_this_machine(chosen).trainer.precision == "32-true"


def test_the_facts_are_those_of_this_machine() -> None:
    facts = hardware_facts()
    assert facts.cuda == torch.cuda.is_available()
    assert (facts.vram_bytes > 0) == facts.cuda


@pytest.mark.usefixtures("_threads_are_put_back")
def test_preparation_sets_threads_and_seeds(config: RunConfig) -> None:
    config = dataclasses.replace(config, seed=11, trainer=dataclasses.replace(config.trainer, num_threads=1))
    prepare(config)
    first = torch.rand(3)
    prepare(config)
    assert torch.equal(torch.rand(3), first) and torch.get_num_threads() == 1
    prepare(dataclasses.replace(config, seed=12))
    assert not torch.equal(torch.rand(3), first)


def test_peak_memory_is_in_bytes_and_never_falls() -> None:
    before = peak_memory_bytes()
    block = torch.ones(2**24)  # 64 MiB
    after = peak_memory_bytes()
    assert after >= before > 2**25  # an interpreter with torch has more than 32 MiB
    assert block.sum() == 2**24
