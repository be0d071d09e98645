"""Measure the peak memory of one real training step on the device at hand."""

import gc
from contextlib import ExitStack
from pathlib import Path

import torch

from titans_trm.models.titans_trm import TitansTRM
from titans_trm.profiling.memory import TrainingSetup, prime_optimizer, state_bytes, train_step
from titans_trm.profiling.recording import RecordedPhases, Recording, record


def measure_training_peak(model: TitansTRM, setup: TrainingSetup) -> int | None:
    """Return the peak in bytes of one training step of `model`, or None where the device keeps no record (MPS).

    On CUDA the allocator's own peak, on a CPU the sum of its records, scratch memory of kernels included: both are
    independent of how the peak is predicted. The EMA copy is added where `setup.ema` asks for one; the CUDA context is
    not seen by the allocator and stays out. The step changes weights: hand over a model that is not needed any more.
    """
    if model.head.weight.device.type not in ("cpu", "cuda"):
        return None
    return record_training_step(model, setup)[1]


def record_training_step(
    model: TitansTRM, setup: TrainingSetup, trace: Path | None = None
) -> tuple[Recording, int | None]:
    """Record one training step, and return its peak as `measure_training_peak` does."""
    device = model.head.weight.device.type
    optimizer = prime_optimizer(model, setup)
    gc.collect()
    resident = state_bytes(model, optimizer)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()

    def step() -> None:
        with ExitStack() as stack:
            train_step(model, optimizer, setup, RecordedPhases(stack))

    recording = record(step, model, memory=device == "cpu", trace=trace)
    extra = state_bytes(model) if setup.ema else 0
    if device == "cuda":
        return recording, torch.cuda.max_memory_allocated() + extra
    return recording, None if recording.allocated_peak is None else resident + recording.allocated_peak + extra
