"""Slots: every example is thought about until it halts, none is lost, and the state resumes exactly."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from titans_trm.data.examples import ExampleSet
from titans_trm.data.stream import ExampleStream
from titans_trm.errors import InputError
from titans_trm.losses.config import LossConfig
from titans_trm.losses.total import compute_loss
from titans_trm.models.config import BackboneConfig, HaltingConfig, MemoryConfig, RecursionConfig, TitansTRMConfig
from titans_trm.models.titans_trm import ModelOutput, TitansTRM
from titans_trm.training.slots import SlotGroups, Slots

CPU = torch.device("cpu")
NUM_STEPS = 3


def model(*, exploration: float = 0.0, carry: str = "reset", dtype: torch.dtype = torch.float32) -> TitansTRM:
    torch.manual_seed(0)
    config = TitansTRMConfig(
        vocab_size=6,
        seq_len=4,
        width=8,
        backbone=BackboneConfig(num_blocks=1, num_heads=2, mlp_hidden=12, num_persistent_tokens=1),
        memory=MemoryConfig(num_heads=1, expansion=2, chunk_size=4, carry=carry),  # type: ignore[arg-type]
        recursion=RecursionConfig(num_latent_steps=1, num_recursions=1),
        halting=HaltingConfig(max_supervision_steps=NUM_STEPS, exploration=exploration, bias_init=0.0),
    )
    made = TitansTRM(config).to(dtype)
    nn.init.normal_(made.act_head.weight, std=1.0)  # some examples want to halt at once, others later
    return made


def examples(count: int = 10, seed: int = 0) -> ExampleSet:
    tokens = torch.randint(1, 6, (2, count, 4), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)
    names = [str(i) for i in range(count)]
    return ExampleSet("train", tokens[0], tokens[1], names, names, torch.zeros(count, dtype=torch.int64))


def groups(net: TitansTRM, batch_size: int = 4, accumulate: int = 1, *, seed: int = 0, count: int = 10) -> SlotGroups:
    stream = ExampleStream(examples(count), seed=seed, augment=None)
    return SlotGroups(net, stream, batch_size, accumulate=accumulate, seed=seed)


def output(slots: Slots, halting_logits: Tensor) -> ModelOutput:
    """What a model would return: one step more, and states that can be told apart."""
    assert slots.batch is not None and slots.carry is not None
    carry = slots.carry
    moved = replace(carry, y=carry.y + 1.0, z=carry.z + 2.0, steps=carry.steps + 1)
    size = len(slots.batch)
    return ModelOutput(torch.zeros(size, 4, 6), halting_logits, torch.zeros(size, 8), moved)


def drawn(seed: int, number: int, count: int = 10) -> list[int]:
    """The first `number` examples of the stream."""
    return ExampleStream(examples(count), seed=seed, augment=None).take(number).indices.tolist()


@pytest.mark.parametrize("batch_size", [1, 4, 10, 16])
def test_every_example_finishes_exactly_once_an_epoch_and_none_is_dropped(batch_size: int) -> None:
    slots = groups(model(exploration=0.5), batch_size).next()
    finished: list[int] = []
    logits = torch.Generator().manual_seed(batch_size)
    for _ in range(200):
        batch, _ = slots.fill(CPU)
        position = slots.owner.stream.position
        assert Counter(finished) + Counter(batch.indices.tolist()) == Counter(drawn(0, position))
        result = slots.advance(output(slots, torch.randn(batch_size, generator=logits)))
        finished += batch.indices[result.halted].tolist()
        assert slots.owner.examples_finished == len(finished)
    epochs = len(finished) // 10
    assert epochs >= 6
    counts = Counter(finished).values()
    # Those that started first may finish after others of the next epoch, but never twice as often.
    assert max(counts) - min(counts) <= 1 + batch_size // 10


def test_examples_are_drawn_in_order_into_the_slots_that_halted() -> None:
    slots = groups(model()).next()
    assert slots.fill(CPU)[0].indices.tolist() == drawn(0, 4)
    slots.advance(output(slots, torch.tensor([-1.0, 1.0, -1.0, 1.0])))
    order = drawn(0, 6)
    assert slots.fill(CPU)[0].indices.tolist() == [order[0], order[4], order[2], order[5]]


@pytest.mark.parametrize("carry", ["reset", "steps"])
def test_a_refilled_slot_equals_a_fresh_one_and_the_others_are_untouched(carry: str) -> None:
    net = model(carry=carry)
    slots = groups(net).next()
    for _ in range(2):  # the second round has memory states to be reset
        batch, before = slots.fill(CPU)
        result = net(batch.inputs, before)
        slots.advance(replace(result, halting_logits=torch.tensor([1.0, -1.0, -1.0, -1.0])))
    batch, mixed = slots.fill(CPU)
    alone = net(batch.inputs[:1], net.initial_carry(1))
    together = net(batch.inputs, mixed)
    torch.testing.assert_close(together.logits[:1], alone.logits, rtol=1e-5, atol=1e-6)
    assert mixed.steps.tolist() == [0, 2, 2, 2]
    assert torch.equal(mixed.y[1:], result.carry.y[1:]) and torch.equal(mixed.z[1:], result.carry.z[1:])
    assert torch.equal(mixed.y[:1], net.initial_carry(1).y) and torch.equal(mixed.z[:1], net.initial_carry(1).z)


def test_no_slot_runs_longer_than_the_most_supervision_steps() -> None:
    slots = groups(model()).next()
    for step in range(1, NUM_STEPS + 1):
        slots.fill(CPU)
        result = slots.advance(output(slots, torch.full((4,), -9.0)))
        assert result.halted.tolist() == [step == NUM_STEPS] * 4
        assert result.steps.tolist() == [step] * 4


def test_exploration_keeps_an_example_until_its_drawn_minimum() -> None:
    slots = groups(model(exploration=1.0), 64, count=64).next()
    slots.fill(CPU)
    assert slots.min_steps is not None
    minimum = slots.min_steps.clone()
    assert set(minimum.tolist()) == {2, 3}
    for step in range(1, NUM_STEPS + 1):
        batch, carry = slots.fill(CPU)
        first = slots.owner.stream.position == 64
        result = slots.advance(output(slots, torch.full((64,), 9.0)))
        if first:
            assert torch.equal(result.halted, minimum <= step)


def test_without_exploration_the_head_decides() -> None:
    slots = groups(model(exploration=0.0)).next()
    slots.fill(CPU)
    assert slots.advance(output(slots, torch.full((4,), 9.0))).halted.all()


def gradients(accumulate: int, batch_size: int, steps: int) -> list[list[Tensor]]:
    """Gradients of each optimiser step, gradients of groups being averaged, as Lightning does."""
    net = model(dtype=torch.float64)
    slot_groups = groups(net, batch_size, accumulate)
    config = LossConfig(diversity="off")  # a statistic of one batch, which does not add up over batches
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    found = []
    for _ in range(steps):
        optimizer.zero_grad()
        for _ in range(accumulate):
            slots = slot_groups.next()
            batch, carry = slots.fill(CPU)
            result = net(batch.inputs, carry)
            loss = compute_loss(result.logits, result.halting_logits, batch.targets, config).total
            (loss / accumulate).backward()
            slots.advance(result)
        found.append([p.grad.clone() for p in net.parameters() if p.grad is not None])
        optimizer.step()
    return found


def test_accumulated_groups_train_like_one_large_group() -> None:
    large, small = gradients(1, 6, steps=5), gradients(3, 2, steps=5)
    for one, other in zip(large, small, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-9, atol=1e-12)
    assert max(float(g.abs().max()) for g in large[0]) > 1e-3


def run(slot_groups: SlotGroups, net: TitansTRM, steps: int) -> list[Any]:
    """What the slots hold and give over `steps` calls."""
    seen: list[Any] = []
    for _ in range(steps):
        slots = slot_groups.next()
        batch, carry = slots.fill(CPU)
        with torch.no_grad():
            result = net(batch.inputs, carry)
        finished = slots.advance(result)
        seen.append([batch.indices, batch.inputs, result.logits, finished.halted, finished.steps, slots.min_steps])
    return seen


@pytest.mark.parametrize("carry", ["reset", "steps"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_saved_state_goes_on_bit_for_bit(carry: str, accumulate: int) -> None:
    net = model(exploration=0.5, carry=carry)
    original = groups(net, accumulate=accumulate)
    run(original, net, 2 * accumulate + 2 * accumulate)
    saved = original.state_dict()
    copied = groups(net, accumulate=accumulate)
    run(copied, net, accumulate)  # whatever was in it is replaced
    copied.load_state_dict(saved, CPU)
    assert copied.examples_finished == original.examples_finished > 0
    for one, other in zip(run(original, net, 8), run(copied, net, 8), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_saved_state_is_plain_and_does_not_change_afterwards(tmp_path: Any) -> None:
    net = model(exploration=0.5, carry="steps")
    slot_groups = groups(net)
    run(slot_groups, net, 3)
    saved = slot_groups.state_dict()
    torch.save(saved, tmp_path / "state")
    run(slot_groups, net, 3)
    on_disk = torch.load(tmp_path / "state", weights_only=True)
    assert torch.equal(saved["groups"][0]["carry"]["y"], on_disk["groups"][0]["carry"]["y"])
    assert torch.equal(saved["groups"][0]["batch"]["indices"], on_disk["groups"][0]["batch"]["indices"])


def test_a_state_of_other_settings_is_refused() -> None:
    net = model()
    slot_groups = groups(net)
    run(slot_groups, net, 1)
    saved = slot_groups.state_dict()
    for other, message in [
        (groups(net, batch_size=5), "holds 4 slots; trainer.batch_size=5 x trainer.accumulate=1 x 1 processes are 5"),
        (groups(net, accumulate=2), "trainer.accumulate=2 x 1 processes are 8. Resume with .* = 4"),
        (groups(net, seed=1), "seed=0, this one seed=1"),
        (groups(net, count=9), "examples_sha256="),
    ]:
        with pytest.raises(InputError, match=message):
            other.load_state_dict(saved, CPU)


def test_half_an_optimiser_step_cannot_be_saved() -> None:
    net = model()
    slot_groups = groups(net, accumulate=2)
    with pytest.raises(RuntimeError, match="slots are empty"):
        slot_groups.state_dict()
    run(slot_groups, net, 3)
    assert not slot_groups.at_step_boundary
    with pytest.raises(RuntimeError, match="1 of 2 batches are accumulated"):
        slot_groups.state_dict()
    run(slot_groups, net, 1)
    assert slot_groups.at_step_boundary and slot_groups.state_dict()
