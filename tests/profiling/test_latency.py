import time

import pytest
import torch

from titans_trm.models.config import BackboneConfig, HaltingConfig, MemoryConfig, RecursionConfig, TitansTRMConfig
from titans_trm.models.titans_trm import TitansTRM
from titans_trm.profiling.latency import TimingConfig, time_decode, time_solve, time_training_step, time_work
from titans_trm.profiling.memory import TrainingSetup


@pytest.fixture
def model():
    torch.manual_seed(0)
    return TitansTRM(
        TitansTRMConfig(
            vocab_size=5,
            seq_len=9,
            width=16,
            backbone=BackboneConfig(num_blocks=1, num_heads=2, mlp_hidden=16),
            memory=MemoryConfig(num_heads=2, expansion=1),
            recursion=RecursionConfig(num_latent_steps=1, num_recursions=1),
            halting=HaltingConfig(max_supervision_steps=4),
        )
    )


def test_warmup_and_repeats_are_run_as_asked():
    calls = []
    timing = time_work(lambda: calls.append(1), TimingConfig(warmup=2, repeats=7), examples=3)
    assert len(calls) == 9
    assert (timing.warmup, timing.repeats, timing.examples) == (2, 7, 3)
    assert timing.p50 <= timing.p95 <= timing.p99
    assert timing.examples_per_second == pytest.approx(3000 / timing.mean)


def test_times_are_milliseconds():
    timing = time_work(lambda: time.sleep(0.02), TimingConfig(warmup=1, repeats=3))
    assert 20 <= timing.p50 < 200


def test_the_budget_of_seconds_cuts_repeats():
    start = time.perf_counter()
    timing = time_work(lambda: time.sleep(0.05), TimingConfig(warmup=3, repeats=100, budget_seconds=0.3))
    assert time.perf_counter() - start < 0.6
    assert 1 <= timing.repeats <= 5


def test_work_longer_than_the_budget_runs_once_and_says_it_was_cold():
    calls = []
    timing = time_work(lambda: calls.append(time.sleep(0.02)), TimingConfig(budget_seconds=0.01))
    assert len(calls) == timing.repeats == 1
    assert timing.warmup == 0
    assert timing.p50 == timing.p95 == timing.p99


@pytest.mark.parametrize("wrong", [{"warmup": -1}, {"repeats": 0}, {"budget_seconds": 0.0}])
def test_impossible_timing_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        TimingConfig(**wrong)


def test_training_step_is_timed_and_trains(model):
    before = model.head.weight.detach().clone()
    timing = time_training_step(model, TrainingSetup(batch_size=3), TimingConfig(warmup=1, repeats=2))
    assert timing.examples == 3
    assert not torch.equal(before, model.head.weight)


def test_a_repetition_that_was_run_already_counts_as_the_first():
    calls = []
    timing = time_work(lambda: calls.append(1), TimingConfig(budget_seconds=1.0), first=2.0)
    assert (timing.p50, timing.repeats, timing.warmup, calls) == (2000.0, 1, 0, [])


def test_untrained_head_never_halts_so_adaptive_is_the_full_solve(model):
    solves = time_solve(model, TrainingSetup(batch_size=1), TimingConfig(warmup=1, repeats=2))
    assert solves.adaptive is solves.full
    assert solves.adaptive_steps == 4


def test_solve_longer_than_the_budget_is_told_from_single_steps(model):
    timing = TimingConfig(warmup=1, repeats=3)
    full = time_solve(model, TrainingSetup(batch_size=1), timing).full
    solves = time_solve(model, TrainingSetup(batch_size=1), TimingConfig(warmup=1, repeats=3, budget_seconds=1e-6))
    assert (solves.full.extrapolated, full.extrapolated) == (True, False)
    assert solves.full.p50 == pytest.approx(full.p50, rel=2.0)
    assert solves.adaptive is None
    assert solves.adaptive_steps is None


def test_head_that_halts_makes_the_adaptive_solve_shorter(model):
    torch.nn.init.constant_(model.act_head.bias, 5.0)
    solves = time_solve(model, TrainingSetup(batch_size=1), TimingConfig(warmup=1, repeats=5))
    assert solves.adaptive_steps == 1
    assert solves.adaptive.p50 < solves.full.p50


def test_decoding_is_timed_on_causal_models_over_a_whole_chunk_and_not_on_grids(model):
    config = TitansTRMConfig(
        vocab_size=7,
        seq_len=24,
        width=16,
        causal=True,
        backbone=BackboneConfig(num_blocks=1, num_heads=2, mlp_hidden=16, window=8),
        memory=MemoryConfig(num_heads=2, expansion=2, chunk_size=12),
        recursion=RecursionConfig(num_latent_steps=1, num_recursions=1),
        halting=HaltingConfig(max_supervision_steps=1),
    )
    setup, timing = TrainingSetup(batch_size=1), TimingConfig(warmup=1, repeats=2)
    decode = time_decode(TitansTRM(config), setup, timing)
    assert decode.repeats == 12 and 0 < decode.p50 <= decode.p95
    assert time_decode(model, setup, timing) is None
