"""What this process runs on: facts for `hardware: auto`, precision, threads."""

import dataclasses
import logging
import resource
import sys
import warnings
from typing import TypeVar

import lightning
import torch

from titans_trm.config import HardwareFacts, resolve_auto_hardware, resolve_hardware, resolve_precision
from titans_trm.profiling.memory import TrainingSetup
from titans_trm.training.config import EvaluateConfig, Precision, RunConfig

DEVICES = {"cpu": "cpu", "gpu": "cuda", "gpu_6gb": "cuda", "mps": "mps"}  # torch's word for each kind of hardware

AnyConfig = TypeVar("AnyConfig", bound=RunConfig | EvaluateConfig)


def hardware_facts() -> HardwareFacts:
    """Look at the machine: CUDA cards and their memory, Apple's MPS, bf16."""
    cuda = torch.cuda.is_available()
    vram = min((torch.cuda.get_device_properties(i).total_memory for i in range(torch.cuda.device_count())), default=0)
    return HardwareFacts(
        cuda=cuda,
        vram_bytes=vram,
        mps=torch.backends.mps.is_available(),
        bf16=cuda and torch.cuda.is_bf16_supported(including_emulation=False),
    )


def on_this_machine(config: AnyConfig) -> AnyConfig:
    """Replace `hardware: auto` by what is found here; the user's own overrides stay on top."""
    found = resolve_auto_hardware(config, resolve_hardware("auto", hardware_facts()))  # type: ignore[type-var]
    if isinstance(found, RunConfig) and found.trainer.precision == "auto":
        trainer = dataclasses.replace(found.trainer, precision=run_precision(found))
        found = dataclasses.replace(found, trainer=trainer)
    return found  # type: ignore[return-value]


def run_precision(config: RunConfig) -> Precision:
    """Return the precision of a run: the trainer's, else the hardware's, else what the card has."""
    named = config.trainer.precision if config.trainer.precision != "auto" else config.hardware.precision
    return resolve_precision(named, config.hardware.name, hardware_facts())


def device_of(config: EvaluateConfig) -> torch.device:
    """Return the one device that inference runs on."""
    names = {"gpu": "cuda", "mps": "mps", "cpu": "cpu"}
    if config.hardware.accelerator == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(names[config.hardware.accelerator])


def card_bytes(config: RunConfig) -> int | None:
    """Return the memory that a run must fit into: as configured, else that of the card here; None off the GPU."""
    if DEVICES.get(config.hardware.name) != "cuda":
        return None
    return config.hardware.vram_bytes or hardware_facts().vram_bytes or None


def training_setup(config: RunConfig) -> TrainingSetup:
    """Return what decides the memory of a training step; hardware and precision are settled."""
    return TrainingSetup(
        batch_size=config.trainer.batch_size,
        precision=config.trainer.precision,  # type: ignore[arg-type]
        optimizer=config.optimizer,
        loss=config.loss,
        ema=config.trainer.ema_decay is not None,
        gradient_clip_val=config.trainer.gradient_clip_val,
        accumulate=config.trainer.accumulate,
        on_cuda=DEVICES[config.hardware.name] == "cuda",
    )


def prepare(config: RunConfig) -> None:
    """Set what holds for the whole process: threads, seeds, TF32, and a quiet Lightning."""
    # Its notices (no TPU, a tip of the day) say nothing about this run; its warnings stay.
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*LeafSpec.*", module="lightning.*")  # torch deprecates, Lightning lags
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")  # batches are in memory already
    if config.trainer.num_threads is not None:
        torch.set_num_threads(config.trainer.num_threads)
    lightning.seed_everything(config.seed, workers=True, verbose=False)
    if config.hardware.tf32:
        torch.backends.cuda.matmul.fp32_precision = "tf32"


def peak_memory_bytes() -> int:
    """Return the most memory this process has held: of the card where there is one, else of the process itself."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak  # kibibytes on Linux
