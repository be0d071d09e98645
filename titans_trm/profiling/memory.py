"""Predict the peak memory of training for any configuration, on any machine and in seconds.

One optimiser step runs on fake tensors: shapes, dtypes and lifetimes are real, data is not. Fake *CPU* tensors stand in
for a GPU's: CPU autocast and the CPU's flash attention keep the same tensors for the backward pass as their CUDA forms,
whereas fake CUDA tensors cannot run a backward pass without a card.

Not seen: what kernels take inside, and what the allocator holds in reserve; a compiled graph usually needs less. On a
CPU the prediction is within 1 % of the allocator's records; expect 10 % on a card, the bound of PyTorch's own test of
such tracking (test/distributed/_tools/test_mem_tracker.py).
"""

import dataclasses
import gc
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from titans_trm.losses.config import LossConfig
from titans_trm.models.config import TitansTRMConfig
from titans_trm.models.titans_trm import TitansTRM
from titans_trm.optim.build import build_optimizer
from titans_trm.optim.config import OptimizerConfig
from titans_trm.profiling.allocations import AllocationTracker
from titans_trm.profiling.training_step import Precision, forward, make_carry, make_examples

try:
    from torch._subclasses.fake_tensor import FakeTensorMode
except ImportError as error:  # pragma: no cover - depends on the installed torch
    raise ImportError(
        f"torch {torch.__version__} has no torch._subclasses.fake_tensor.FakeTensorMode, which memory "
        "prediction runs on; install torch>=2.8,<3."
    ) from error

# What a process holds on an NVIDIA card besides its tensors: the CUDA context with the loaded kernels, 0.4 to 0.6 GiB
# on the cards of this class, and the cuBLAS workspace, 8 MiB (CUBLAS_WORKSPACE_CONFIG=:4096:2:16:8, PyTorch's default).
CUDA_OVERHEAD_BYTES = 608 * 2**20

_FIRST_GUESS = 16  # batch that `largest_batch` tries first
_FIXED_KINDS = ("weights", "optimizer", "ema", "fixed_overhead")  # do not grow with the batch

KINDS = ("weights", "gradients", "optimizer", "activations", "workspace", "ema", "fixed_overhead")


@dataclass(frozen=True, kw_only=True)
class TrainingSetup:
    """What decides the memory of a training step, besides the model's configuration."""

    batch_size: int  # B, slots on one device
    precision: Precision = "32-true"
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    ema: bool = True  # a second copy of weights and buffers, kept on the same device
    gradient_clip_val: float | None = 1.0  # L2 norm; clipping holds no memory to speak of
    accumulate: int = 1  # batches per optimiser step; from 2 on gradients are alive during the forward pass
    on_cuda: bool = False  # add `CUDA_OVERHEAD_BYTES`

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size={self.batch_size} is too small; choose 1 or more.")


@dataclass(frozen=True)
class MemoryEstimate:
    """Predicted or measured peak of one training step, in bytes, and what it consists of at that moment."""

    total_bytes: int
    by_kind: dict[str, int]  # every kind of `KINDS`; sums to total_bytes
    setup: TrainingSetup

    def __str__(self) -> str:
        parts = ", ".join(f"{kind} {size / 2**20:,.0f}" for kind, size in self.by_kind.items() if size)
        return f"{self.total_bytes / 2**30:.2f} GiB at batch {self.setup.batch_size} (MiB: {parts})"


def predict_training_peak(config: TitansTRMConfig, setup: TrainingSetup) -> MemoryEstimate:
    """Predict the peak of live tensors during training, without computing anything.

    The T - 1 recursions without gradient leave nothing behind and are left out, unless a carried memory makes the last
    one depend on them: peaks lie in the recursion with gradient, in the backward pass or in the optimiser step.

    Args:
        config: the model. Gradient checkpointing is `config.recursion.checkpointing`.
        setup: batch, precision, optimiser and what else lives on the device.
    """
    most = 2 if config.has_memory and config.memory.carry != "reset" else 1
    recursion = dataclasses.replace(config.recursion, num_recursions=min(config.recursion.num_recursions, most))
    config = dataclasses.replace(config, recursion=recursion)
    with FakeTensorMode():
        return track_training_peak(TitansTRM(config), setup)


def track_training_peak(model: TitansTRM, setup: TrainingSetup) -> MemoryEstimate:
    """Run training steps of `model` and return the peak of its live tensors; real tensors give a measurement.

    Gradients, optimiser state and weights change: hand over a model that is not needed any more.
    """
    optimizer = prime_optimizer(model, setup)
    parameters = list(model.parameters())
    phases = _Phases(parameters)
    tracker = AllocationTracker(phases.kind_of)
    trained = [p for p in parameters if p.requires_grad]
    handles = [p.register_post_accumulate_grad_hook(lambda p: tracker.claim([p.grad], "gradients")) for p in trained]
    gc.collect()
    with tracker:
        tracker.claim([*parameters, *model.buffers()], "weights")
        tracker.claim(_state_tensors(optimizer), "optimizer")
        train_step(model, optimizer, setup, phases)
    for handle in handles:
        handle.remove()
    return _estimate(model, setup, tracker.peak)


def largest_batch(
    config: TitansTRMConfig,
    limit_bytes: int,
    setup: TrainingSetup,
    *,
    most: int = 4096,
    known: MemoryEstimate | None = None,
) -> int:
    """Return the largest batch up to `most` whose predicted peak is at most `limit_bytes`; 0 if not even 1 fits.

    The peak is nearly linear in the batch, so each guess is read off the line through two predictions and checked,
    until one fits of which the line says that it is the last: two or three predictions. `known`, one for the same
    setup with any batch, spares the first.
    """
    if limit_bytes < 1:
        raise ValueError(f"limit_bytes={limit_bytes} holds nothing; give the memory of the card, such as 6 * 2**30.")
    if known is None or known.setup.batch_size > most:
        first = dataclasses.replace(setup, batch_size=min(_FIRST_GUESS, most))
        known = predict_training_peak(config, first)
    # What a batch of 0 would take is known as well: it is the same for all.
    peaks = {0: sum(known.by_kind[kind] for kind in _FIXED_KINDS), known.setup.batch_size: known.total_bytes}
    fits = max((batch for batch, peak in peaks.items() if batch and peak <= limit_bytes), default=0)
    fails = min((batch for batch, peak in peaks.items() if batch and peak > limit_bytes), default=most + 1)
    while fails - fits > 1:
        guess = _read_off_line(peaks, limit_bytes)
        if guess == fits and len(peaks) > 2:
            break
        guess = min(max(guess, fits + 1), fails - 1)
        peaks[guess] = predict_training_peak(config, dataclasses.replace(setup, batch_size=guess)).total_bytes
        fits, fails = (guess, fails) if peaks[guess] <= limit_bytes else (fits, guess)
    return fits


def _read_off_line(peaks: dict[int, int], limit_bytes: int) -> int:
    """Return the batch at which the line through the two predictions nearest to the limit reaches it."""
    low, high = sorted(sorted(peaks, key=lambda batch: abs(peaks[batch] - limit_bytes))[:2])
    slope = (peaks[high] - peaks[low]) / (high - low)
    return low + int((limit_bytes - peaks[low]) / max(slope, 1.0))


class _Phases:
    """Which part of a training step is running, and what new tensors therefore are.

    Autograd sums the gradient of a weight over all its net calls before it becomes `weight.grad`, so in the backward
    pass fp32 tensors of the shape of a weight are gradients. All others are workspace: recomputed activations, and
    under autocast the half-precision sums of gradients.
    """

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self.now = "activations"
        shapes = {tuple(p.shape) for p in parameters if p.dim() > 1}
        self._shapes = shapes | {shape[::-1] for shape in shapes if len(shape) == 2}  # products may come out transposed

    def enter(self, phase: str) -> None:
        self.now = phase

    def kind_of(self, tensor: Tensor) -> str:
        if self.now == "workspace" and tensor.dtype == torch.float32 and tuple(tensor.shape) in self._shapes:
            return "gradients"
        return self.now


class Phases(Protocol):
    """Told which part of a training step is running."""

    def enter(self, phase: str) -> None:
        """Go on to `activations` (the forward pass) or `workspace` (the backward pass and the update)."""


def train_step(
    model: TitansTRM, optimizer: torch.optim.Optimizer, setup: TrainingSetup, phases: Phases | None = None
) -> None:
    """Run one optimiser step and free its gradients; `phases` is told which part is running."""
    phases = phases or _Phases([])
    phases.enter("activations")
    examples = make_examples(model.config, setup.batch_size, model.head.weight.device)
    carry = make_carry(model, setup.batch_size)
    for _ in range(min(setup.accumulate, 2)):
        phases.enter("activations")
        loss, output = forward(model, examples, carry, setup.loss, setup.precision)
        phases.enter("workspace")
        loss.backward()
        carry = output.carry
        del loss, output
    if setup.gradient_clip_val is not None:
        nn.utils.clip_grad_norm_(model.parameters(), setup.gradient_clip_val)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def prime_optimizer(model: TitansTRM, setup: TrainingSetup) -> torch.optim.Optimizer:
    """Build the optimiser and have it make its state by a step on zero gradients."""
    # fp16 scaling and gradient clipping together need the unfused form.
    fused = False if setup.precision == "16-mixed" and setup.gradient_clip_val is not None else None
    optimizer = build_optimizer(model, setup.optimizer, fused=fused)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return optimizer


def _estimate(model: TitansTRM, setup: TrainingSetup, peak: dict[str, int]) -> MemoryEstimate:
    by_kind = {kind: peak.get(kind, 0) for kind in KINDS}
    by_kind["ema"] = _bytes([*model.parameters(), *model.buffers()]) if setup.ema else 0
    by_kind["fixed_overhead"] = CUDA_OVERHEAD_BYTES if setup.on_cuda else 0
    return MemoryEstimate(sum(by_kind.values()), by_kind, setup)


def _state_tensors(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(dict(optimizer.state)) if isinstance(leaf, Tensor)]


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors)


def state_bytes(model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> int:
    """Return the bytes of weights and buffers and, if given, of the optimiser's state."""
    return _bytes([*model.parameters(), *model.buffers(), *([] if optimizer is None else _state_tensors(optimizer))])
