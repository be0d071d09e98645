import dataclasses

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from titans_trm.models.config import BackboneConfig, MemoryConfig, RecursionConfig, TitansTRMConfig
from titans_trm.models.titans_trm import TitansTRM
from titans_trm.optim.config import OptimizerConfig
from titans_trm.profiling.allocations import AllocationTracker
from titans_trm.profiling.measured_memory import measure_training_peak
from titans_trm.profiling.memory import (
    CUDA_OVERHEAD_BYTES,
    KINDS,
    TrainingSetup,
    largest_batch,
    predict_training_peak,
    prime_optimizer,
    track_training_peak,
)
from titans_trm.profiling.training_step import make_carry, make_examples


def _config(*, checkpointing=False, carry="reset", num_recursions=2, width=32, num_puzzle_ids=0, gate="product"):
    return TitansTRMConfig(
        vocab_size=7,
        seq_len=16,
        width=width,
        num_puzzle_ids=num_puzzle_ids,
        backbone=BackboneConfig(num_blocks=1, num_heads=2, mlp_hidden=2 * width, gate=gate),
        memory=MemoryConfig(num_heads=2, expansion=2, carry=carry),
        recursion=RecursionConfig(num_latent_steps=2, num_recursions=num_recursions, checkpointing=checkpointing),
    )


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_prediction_is_within_ten_percent_of_the_allocators_peak(checkpointing, precision):
    config = _config(checkpointing=checkpointing)
    setup = TrainingSetup(batch_size=16, precision=precision)
    predicted = predict_training_peak(config, setup).total_bytes
    measured = measure_training_peak(TitansTRM(config), setup)
    assert predicted == pytest.approx(measured, rel=0.1)


@pytest.mark.parametrize("carry", ["reset", "cycles", "steps"])
def test_skipping_recursions_without_gradient_changes_nothing(carry):
    config, setup = _config(carry=carry, num_recursions=4), TrainingSetup(batch_size=4)
    predicted = predict_training_peak(config, setup)
    tracked = track_training_peak(TitansTRM(config), setup)
    assert predicted.total_bytes == pytest.approx(tracked.total_bytes, rel=0.02)


def test_peak_agrees_with_pytorchs_own_tracker():
    tools = pytest.importorskip("torch.distributed._tools.mem_tracker")
    config, setup = _config(num_recursions=1), TrainingSetup(batch_size=8)

    def peak_of(tracker, claim):
        with FakeTensorMode():
            model = TitansTRM(config)
            optimizer = prime_optimizer(model, setup)
            claim(tracker, model, optimizer)
            with tracker:
                examples, carry = make_examples(config, 8), make_carry(model, 8)
                model(examples.inputs, carry).logits.square().mean().backward()
                optimizer.step()
                optimizer.zero_grad()
        return tracker

    def claim(tracker, model, optimizer):
        values = [value for state in optimizer.state.values() for value in state.values()]
        state = [value for value in values if isinstance(value, torch.Tensor)]
        tracker.claim([*model.parameters(), *model.buffers(), *state], "all")

    ours = peak_of(AllocationTracker(lambda tensor: "all"), claim)
    theirs = peak_of(tools.MemTracker(), lambda tracker, *external: tracker.track_external(*external))
    total = theirs.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"]
    assert ours.peak_bytes == pytest.approx(total, rel=0.01)


def test_kinds_add_up_and_name_weights_optimizer_and_ema_exactly():
    config = _config(num_puzzle_ids=5)
    estimate = predict_training_peak(config, TrainingSetup(batch_size=2, optimizer=OptimizerConfig(name="adamw")))
    model = TitansTRM(config)
    weights = sum(t.nbytes for t in [*model.parameters(), *model.buffers()])
    assert tuple(estimate.by_kind) == KINDS
    assert sum(estimate.by_kind.values()) == estimate.total_bytes
    assert estimate.by_kind["weights"] == estimate.by_kind["ema"] == weights
    moments = 2 * sum(p.nbytes for p in model.parameters())
    counters = 4 * len(list(model.parameters()))
    assert estimate.by_kind["optimizer"] == moments + counters
    assert "batch 2" in str(estimate)


def test_checkpointing_saves_activations_and_a_larger_batch_takes_more():
    plain = predict_training_peak(_config(gate="attention_only"), TrainingSetup(batch_size=16))
    saved = predict_training_peak(_config(checkpointing=True, gate="attention_only"), TrainingSetup(batch_size=16))
    double = predict_training_peak(_config(gate="attention_only"), TrainingSetup(batch_size=32))
    assert saved.by_kind["activations"] < 0.25 * plain.by_kind["activations"]
    assert double.by_kind["activations"] == pytest.approx(2 * plain.by_kind["activations"], rel=0.02)


def test_ema_overhead_and_held_gradients_are_counted():
    setup = TrainingSetup(batch_size=4)
    base = predict_training_peak(_config(gate="attention_only"), setup)
    bare = predict_training_peak(_config(gate="attention_only"), dataclasses.replace(setup, ema=False))
    assert base.total_bytes - bare.total_bytes == base.by_kind["weights"]
    card = predict_training_peak(_config(gate="attention_only"), dataclasses.replace(setup, on_cuda=True))
    assert card.total_bytes - base.total_bytes == CUDA_OVERHEAD_BYTES
    held = predict_training_peak(_config(gate="attention_only"), dataclasses.replace(setup, accumulate=3))
    assert held.by_kind["gradients"] > base.by_kind["gradients"]
    assert held.total_bytes > base.total_bytes


@pytest.mark.parametrize(("name", "precision"), [("adam_atan2", "bf16-mixed"), ("muon", "16-mixed")])
def test_every_optimizer_and_half_precision_can_be_predicted(name, precision):
    setup = TrainingSetup(batch_size=2, optimizer=OptimizerConfig(name=name), precision=precision)
    estimate = predict_training_peak(_config(), setup)
    assert estimate.by_kind["optimizer"] >= estimate.by_kind["weights"]


def test_largest_batch_fits_and_one_more_does_not():
    config, setup = _config(gate="attention_only"), TrainingSetup(batch_size=1)
    limit = predict_training_peak(config, dataclasses.replace(setup, batch_size=21)).total_bytes
    assert largest_batch(config, limit, setup) == 21
    assert largest_batch(config, limit, setup, most=5) == 5


def test_largest_batch_is_zero_when_not_even_one_example_fits():
    assert largest_batch(_config(gate="attention_only"), 1000, TrainingSetup(batch_size=1)) == 0


def test_impossible_sizes_are_refused_with_the_cure():
    with pytest.raises(ValueError, match="batch_size=0 .*choose 1 or more"):
        TrainingSetup(batch_size=0)
    with pytest.raises(ValueError, match="limit_bytes=0 .*such as"):
        largest_batch(_config(), 0, TrainingSetup(batch_size=1))


def test_devices_without_a_record_measure_nothing():
    model = TitansTRM(_config()).to("meta")
    assert measure_training_peak(model, TrainingSetup(batch_size=1)) is None
