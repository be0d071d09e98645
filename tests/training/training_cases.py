"""A run small enough to train in about a second, and what tests do to it."""

import dataclasses
import importlib.util
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback

from titans_trm.config import compose
from titans_trm.data.load import TaskData, load_data
from titans_trm.tasks.build import build_datamodule, build_model, build_module, build_trainer
from titans_trm.training.checkpoint_io import load_checkpoint
from titans_trm.training.config import RunConfig
from titans_trm.training.datamodule import SlotDataModule
from titans_trm.training.module import TRMModule

ROOT = Path(__file__).resolve().parents[2]

TINY = (
    "experiment=quickstart",
    "hardware=cpu",
    "optimizer=adamw",
    "optimizer.lr=2e-3",
    "scheduler=cosine",
    "scheduler.final_lr_fraction=0.1",
    "loss.cross_entropy=softmax",
    "data.num_train=64",
    "data.num_val=12",
    "data.num_test=12",
    "model.parameter_budget=null",
    "model.width=16",
    "model.backbone.num_blocks=1",
    "model.backbone.num_heads=2",
    "model.backbone.mlp_hidden=24",
    "model.backbone.num_persistent_tokens=1",
    "model.memory.expansion=2",
    "model.recursion.num_latent_steps=1",
    "model.recursion.num_recursions=2",
    "model.halting.max_supervision_steps=3",
    "model.halting.exploration=0.5",
    "model.halting.bias_init=-0.5",
    "scheduler.warmup_steps=4",
    "trainer.max_steps=12",
    "trainer.batch_size=6",
    "trainer.ema_decay=0.9",
    "trainer.val_every_steps=5",
    "trainer.val_examples=4",
    "trainer.checkpoint_every_steps=4",
    "trainer.log_every_steps=3",
    "trainer.num_threads=1",
)
# Raised by torch and Lightning themselves.
WARNINGS = (
    "ignore:.*does not have many workers",
    "ignore:.*LeafSpec.*:FutureWarning",
)


def _benchmark() -> Any:
    spec = importlib.util.spec_from_file_location("resume_benchmark", ROOT / "benchmarks" / "resume.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


benchmark = _benchmark()
differences = benchmark.differences


def tiny_config(run_dir: Path, *overrides: str, cache: Path | None = None) -> RunConfig:
    """The smallest run; data are generated once per test session."""
    cache = cache or run_dir.parent.parent / "cache"
    return compose("train", [*TINY, f"run_dir={run_dir}", f"data.cache_dir={cache}", *overrides])


def with_trainer(config: RunConfig, **changes: Any) -> RunConfig:
    return dataclasses.replace(config, trainer=dataclasses.replace(config.trainer, **changes))


def with_callback(config: RunConfig, name: str, **arguments: Any) -> RunConfig:
    """Add one of the callbacks below to a run."""
    node = {"_target_": f"{__name__}.{name}", **arguments}
    return dataclasses.replace(config, callbacks={**config.callbacks, name: node})


class SignalAt(Callback):
    """Send this process, or only the one of a rank, a signal after a step."""

    def __init__(self, step: int, number: int = signal.SIGTERM, rank: int | None = None) -> None:
        self.step, self.number, self.rank = step, number, rank

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step and self.rank in (None, trainer.global_rank):
            os.kill(os.getpid(), self.number)


class CrashAt(Callback):
    """Fail after a step, before anything of it is saved."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            raise Crash(f"crashed at step {self.step}")


class Crash(Exception):
    """What `CrashAt` raises."""


@dataclasses.dataclass
class Fitted:
    """What a training in this process left."""

    module: TRMModule
    trainer: lightning.Trainer
    datamodule: SlotDataModule
    data: TaskData
    folder: Path
    config: RunConfig


def fit(config: RunConfig, *callbacks: Callback, before: Callable[[TRMModule], None] | None = None) -> Fitted:
    """Train `config` without the task around it."""
    torch.set_num_threads(1)
    lightning.seed_everything(config.seed, verbose=False)
    folder = Path(config.run_dir)
    folder.mkdir(parents=True, exist_ok=True)
    config = dataclasses.replace(config, logger={}, callbacks={})
    data = load_data(config.data)
    module = build_module(config, build_model(config.model, data.spec), data.spec)
    datamodule = build_datamodule(config, data)
    trainer = build_trainer(config, folder, len(data.train))
    trainer.callbacks[:0] = callbacks  # type: ignore[attr-defined]
    if before is not None:
        before(module)
    trainer.fit(module, datamodule=datamodule)
    return Fitted(module, trainer, datamodule, data, folder, config)


def last(folder: Path) -> dict[str, Any]:
    return load_checkpoint(folder / "checkpoints" / "last.ckpt")


def run_differences(first: Path, second: Path) -> list[str]:
    """Every difference of two runs' last checkpoints and metrics."""
    return [text for _, _, found in benchmark.compare_runs(first, second) for text in found]
