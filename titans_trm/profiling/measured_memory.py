"""Measure the peak memory of one real training step on the device at hand."""

import gc
import os
from typing import Any

import torch

from titans_trm.models.titans_trm import TitansTRM
from titans_trm.profiling.memory import TrainingSetup, prime_optimizer, state_bytes, train_step


def measure_training_peak(model: TitansTRM, setup: TrainingSetup) -> int | None:
    """Return the peak in bytes of one training step of `model`, or None where the device keeps no record (MPS).

    On CUDA the allocator's own peak, on a CPU the sum of its records, scratch memory of kernels included: both are
    independent of how the peak is predicted. The EMA copy is added where `setup.ema` asks for one; the CUDA context is
    not seen by the allocator and stays out. The step changes weights: hand over a model that is not needed any more.
    """
    device = model.head.weight.device.type
    if device not in ("cpu", "cuda"):
        return None
    optimizer = prime_optimizer(model, setup)
    gc.collect()
    extra = state_bytes(model) if setup.ema else 0
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        train_step(model, optimizer, setup)
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() + extra
    resident = state_bytes(model, optimizer)
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's own remarks on missing cards
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as record:
        train_step(model, optimizer, setup)
    return resident + _peak_of(record) + extra


def _peak_of(record: Any) -> int:
    """Return the largest sum of the bytes that the CPU allocator handed out while it was recorded."""
    events = record.profiler.kineto_results.events()
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    live = peak = 0
    for _, size in changes:
        live += size
        peak = max(peak, live)
    return peak
