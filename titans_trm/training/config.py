"""Configuration of a whole run: `RunConfig` (train.py), `EvaluateConfig` (evaluate.py), `ProfileConfig` (profile.py).

The dataclasses are the schema of `conf/`: an unknown key, a wrong type or an impossible value is an error. No torch.
"""

import re
from dataclasses import asdict, dataclass, field
from math import log
from typing import Any, Literal

from titans_trm.data.config import DataConfig
from titans_trm.data.sudoku.config import SudokuConfig
from titans_trm.diagnostics.config import DiagnosticsConfig
from titans_trm.evaluation.config import CriteriaConfig
from titans_trm.losses.config import LossConfig
from titans_trm.models.config import BackboneConfig, HaltingConfig, MemoryConfig, RecursionConfig, TitansTRMConfig
from titans_trm.optim.config import OptimizerConfig, SchedulerConfig
from titans_trm.specialist.config import SpecialistConfig
from titans_trm.training.sweep_config import GridConfig, SweepConfig

Precision = Literal["auto", "32-true", "bf16-mixed", "16-mixed"]

_STRICT = {"extra": "forbid"}
_BYTE_UNITS = {"B": 1, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "KB": 10**3, "MB": 10**6, "GB": 10**9}


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """`TitansTRMConfig` without what the task decides (vocabulary, length, causality, puzzle ids, grid)."""

    __pydantic_config__ = _STRICT

    name: str = "custom"  # of the preset; shown in summaries
    width: int = 512  # D
    learned_positions: bool = False  # add a learned vector per cell to the rotary positions (grids only)
    parameter_budget: tuple[int, int] | None = None  # lowest and highest parameter count; outside, the build fails
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    recursion: RecursionConfig = field(default_factory=RecursionConfig)
    halting: HaltingConfig = field(default_factory=HaltingConfig)

    def __post_init__(self) -> None:
        # Placeholders for the task: rules between the model's own fields are checked before any data is read.
        self.build(vocab_size=2, seq_len=1, causal=self.halting.unit == "token")

    def build(
        self,
        *,
        vocab_size: int,
        seq_len: int,
        causal: bool = False,
        num_puzzle_ids: int = 0,
        grid_shape: tuple[int, int] | None = None,
    ) -> TitansTRMConfig:
        """Return the model's full configuration for a task of `seq_len` tokens out of `vocab_size`."""
        return TitansTRMConfig(
            vocab_size=vocab_size,
            seq_len=seq_len,
            causal=causal,
            num_puzzle_ids=num_puzzle_ids,
            grid_shape=grid_shape,
            width=self.width,
            learned_positions=self.learned_positions,
            parameter_budget=self.parameter_budget,
            backbone=self.backbone,
            memory=self.memory,
            recursion=self.recursion,
            halting=self.halting,
        )


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """How long, how large and how often. One step is one supervision step of every slot and one optimiser step."""

    __pydantic_config__ = _STRICT

    max_steps: int = 10_000  # optimiser steps of the whole run, resumed parts included
    max_time: float | None = (
        None  # minutes of this process; then checkpoint, validation and a clean end; null = no limit
    )
    batch_size: int = 64  # B, slots on each device; each slot is at its own supervision step
    accumulate: int = 1  # batches whose gradients are averaged into one optimiser step
    gradient_clip_val: float | None = 1.0  # cap of the gradient's global L2 norm; null = no clipping
    precision: Precision = (
        "auto"  # of the products; norms, losses and decays stay fp32. auto: bf16 if the card has it, else fp16
    )
    compile: bool = False  # torch.compile in place: about a minute at the start, faster steps on a GPU
    ema_decay: float | None = (
        0.999  # per step, of the averaged weights that are validated and exported; null = raw weights
    )
    val_every_steps: int = 500  # steps between validations
    val_examples: int = 512  # size of the fixed, seeded validation subset used during training
    val_time_share: float = 0.1  # share of the run's time the last validation may take; above it, the subset again
    val_batch_size: int | None = None  # examples of one validation batch; null = batch_size
    checkpoint_every_steps: int = 500  # steps between writes of checkpoints/last.ckpt
    log_every_steps: int = 10  # steps between rows of metrics.csv
    early_stopping_patience: int | None = (
        None  # validations without a better exact accuracy before the end; null = never
    )
    num_threads: int | None = None  # CPU threads of one process; null = PyTorch's choice
    deterministic: bool = False  # refuse operations without a deterministic form (slower on a GPU)

    def __post_init__(self) -> None:
        for key in ("max_steps", "batch_size", "accumulate", "val_every_steps", "val_examples"):
            _at_least(key, getattr(self, key), 1)
        for key in ("checkpoint_every_steps", "log_every_steps"):
            _at_least(key, getattr(self, key), 1)
        for key in ("val_batch_size", "early_stopping_patience", "num_threads"):
            _at_least(key, getattr(self, key), 1)
        _positive("max_time", self.max_time, "minutes")
        _positive("gradient_clip_val", self.gradient_clip_val, "L2 norm")
        if self.ema_decay is not None and not 0.0 < self.ema_decay < 1.0:
            raise ValueError(
                f"ema_decay={self.ema_decay} is outside (0, 1); choose e.g. 0.999, or null for no average."
            )
        if not 0.0 < self.val_time_share <= 1.0:
            raise ValueError(f"val_time_share={self.val_time_share} is outside (0, 1]; choose e.g. 0.1.")


@dataclass(frozen=True, kw_only=True)
class HardwareConfig:
    """What the run stands on. `name: auto` is replaced by what is found when the run starts."""

    __pydantic_config__ = _STRICT

    name: Literal["auto", "cpu", "gpu_6gb", "gpu", "mps"] = "auto"
    accelerator: Literal["auto", "cpu", "gpu", "mps"] = "auto"  # Lightning's word
    devices: int | Literal["auto"] = 1  # devices of one machine; more than one needs a strategy such as ddp
    num_nodes: int = 1  # machines
    # auto: one process; ddp: one a device, gradients averaged; fsdp: gradients and optimiser state also sharded
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    precision: Precision = "auto"  # default of trainer.precision here
    compile: bool = False  # default of trainer.compile here
    tf32: bool = True  # let fp32 products on NVIDIA cards use TF32: faster, about 1e-3 relative error
    vram: str | None = None  # memory a run must fit into, such as 6GiB; null = all of the card that is found

    def __post_init__(self) -> None:
        if self.vram is not None and parse_bytes(self.vram, key="vram") == 0:
            raise ValueError(f"vram={self.vram} holds nothing; give the memory of the card, such as 6GiB.")
        if isinstance(self.devices, int):
            _at_least("devices", self.devices, 1)
        _at_least("num_nodes", self.num_nodes, 1)
        if self.strategy == "auto" and (self.num_nodes > 1 or (isinstance(self.devices, int) and self.devices > 1)):
            raise ValueError(
                f"devices={self.devices} on num_nodes={self.num_nodes} needs hardware.strategy=ddp; "
                "strategy=auto is for one device."
            )
        if self.strategy == "fsdp" and self.accelerator in ("cpu", "mps"):
            raise ValueError(f"strategy=fsdp needs GPUs, not accelerator={self.accelerator}; choose strategy=ddp.")

    @property
    def world_size(self) -> int | None:
        """Processes that train together; None where `devices=auto` leaves it to the machine."""
        return None if self.devices == "auto" else self.devices * self.num_nodes

    @property
    def vram_bytes(self) -> int | None:
        """`vram` in bytes."""
        return None if self.vram is None else parse_bytes(self.vram, key="vram")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything `train.py` needs. `overrides` holds what the user typed, `run_dir` the folder of this run."""

    __pydantic_config__ = _STRICT

    experiment: str = "custom"  # names the folder runs/<experiment>/
    seed: int = 0  # of initialisation, order of examples, augmentation and exploration
    resume: str | None = (
        None  # auto: last checkpoint of run_dir, if any; latest: newest run of the experiment; or a path
    )
    run_dir: str = "runs/custom"  # folder of the run; an unused one is made next to it if it is taken
    tags: list[str] = field(default_factory=list)  # free words, written into summary.json
    debug: bool = False  # full traceback on errors; set by debug=...
    overrides: list[str] = field(default_factory=list)  # command-line overrides; set by the entry point
    data: DataConfig = field(default_factory=SudokuConfig)  # of the task that data.task names
    model: ModelSettings = field(default_factory=ModelSettings)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    hardware: HardwareConfig = field(default_factory=HardwareConfig)
    diagnostics: DiagnosticsConfig | Literal["off"] = field(default_factory=DiagnosticsConfig)
    callbacks: dict[str, Any] = field(default_factory=dict)  # extra Lightning callbacks: name -> `_target_` node
    logger: dict[str, Any] = field(default_factory=dict)  # Lightning loggers: name -> `_target_` node
    specialist: SpecialistConfig = field(default_factory=SpecialistConfig)  # who is called when an alarm is raised
    sweep: SweepConfig = field(default_factory=GridConfig)  # the multirun that this run is a job of, if it is one

    def __post_init__(self) -> None:
        _at_least("seed", self.seed, 0)
        if not self.experiment.strip():
            raise ValueError("experiment='' names no folder; choose a word such as custom.")
        if self.experiment.startswith(("/", "~")) or ".." in re.split(r"[/\\]", self.experiment):
            raise ValueError(
                f"experiment={self.experiment!r} would lead out of runs/; choose a name such as custom or mine/first, "
                "and run_dir=... for another place."
            )
        if not self.run_dir.strip():
            raise ValueError("run_dir='' names no folder; choose one such as runs/custom/1.")
        if self.hardware.strategy == "fsdp" and self.trainer.ema_decay is not None:
            raise ValueError(
                f"trainer.ema_decay={self.trainer.ema_decay} needs whole weights on every device, which "
                "hardware.strategy=fsdp does not keep; set trainer.ema_decay=null or choose hardware.strategy=ddp."
            )
        if self.hardware.strategy == "fsdp" and self.optimizer.name == "muon":
            raise ValueError(
                "optimizer=muon needs whole matrices, hardware.strategy=fsdp has shards; choose adamw or ddp."
            )
        _targets("callbacks", self.callbacks)
        _targets("logger", self.logger)

    def to_dict(self) -> dict[str, Any]:
        """Return plain dicts, lists, texts and numbers: for YAML, JSON and `weights_only=True` checkpoints."""
        return {name: _plain(value) for name, value in asdict(self).items()}


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Everything `evaluate.py` needs: which weights, on which examples, how."""

    __pydantic_config__ = _STRICT

    run: str = "latest"  # a run folder, or latest: the newest run that has a checkpoint
    ckpt: str | None = None  # a checkpoint file of that run; with `latest` of any
    split: Literal["val", "test", "train_probe"] = "val"  # train_probe: a clean sample of what was trained on
    file: str | None = None  # score this puzzle file instead of a split
    overlap: Literal["refuse", "drop"] = "refuse"  # what to do with training examples among those to be scored
    final: bool = False  # unlocks the test split: every look at it is written down in the run folder
    reason: str | None = None  # why a test split is used again; asked for from the second time on
    strict: bool = False  # exit with status 3 when a criterion is not met
    latency_examples: int = 50  # single examples timed one by one; 0 = none
    latency_seconds: float = 5.0  # most seconds of that in each halting mode
    views: int = 1  # views of each question that vote on two attempts (ARC), the original included; 1 = no vote
    plots: bool = True  # draw confusion, calibration and halting as PNG
    report: bool = True  # write the run's report.html anew
    batch_size: int = 64  # examples solved at once
    max_examples: int | None = None  # score a fixed, seeded subset of this size; null = all
    halting: Literal["both", "full", "adaptive"] = (
        "both"  # full: N_sup steps for all; adaptive: as many as the head asks
    )
    halting_probability: float = 0.5  # sigmoid of the halting logit above which an adaptive example stops
    confidence: float = 0.95  # level of the intervals
    seed: int = 0  # of the subset and of resampling
    debug: bool = False  # full traceback on errors; set by debug=default
    overrides: list[str] = field(default_factory=list)  # command-line overrides; set by the entry point
    criteria: CriteriaConfig = field(default_factory=CriteriaConfig)  # when the run counts as a success
    hardware: HardwareConfig = field(default_factory=HardwareConfig)

    def __post_init__(self) -> None:
        _at_least("batch_size", self.batch_size, 1)
        _at_least("max_examples", self.max_examples, 1)
        _at_least("latency_examples", self.latency_examples, 0)
        _at_least("views", self.views, 1)
        _positive("latency_seconds", self.latency_seconds, "seconds")
        _at_least("seed", self.seed, 0)
        if not 0.0 < self.confidence < 1.0:
            raise ValueError(f"confidence={self.confidence} is outside (0, 1); choose e.g. 0.95.")
        if not 0.0 < self.halting_probability < 1.0:
            raise ValueError(f"halting_probability={self.halting_probability} is outside (0, 1); choose e.g. 0.9.")

    @property
    def halt_above(self) -> float:
        """Halting logit of `halting_probability`."""
        return log(self.halting_probability / (1.0 - self.halting_probability))


@dataclass(frozen=True, kw_only=True)
class BudgetConfig:
    """Limits a profile is held against; null = not checked."""

    __pydantic_config__ = _STRICT

    parameters: tuple[int, int] | None = None  # lowest and highest parameter count
    peak_memory: str | None = None  # of a training step, e.g. 6GiB or 500MB
    latency_p95_ms: float | None = 100.0  # milliseconds to solve one example with all steps, 95th percentile
    latency_device: Literal["cpu", "gpu", "any"] = "gpu"  # where that limit holds; on other devices it is not judged

    def __post_init__(self) -> None:
        if self.parameters is not None and self.parameters[0] > self.parameters[1]:
            raise ValueError(f"parameters={list(self.parameters)} has its ends swapped; give [low, high].")
        _positive("latency_p95_ms", self.latency_p95_ms, "milliseconds")
        if self.peak_memory is not None:
            parse_bytes(self.peak_memory, key="peak_memory")

    @property
    def peak_memory_bytes(self) -> int | None:
        """`peak_memory` in bytes."""
        return None if self.peak_memory is None else parse_bytes(self.peak_memory, key="peak_memory")


@dataclass(frozen=True, kw_only=True)
class ProfileSettings:
    """How `profile.py` measures."""

    __pydantic_config__ = _STRICT

    warmup: int = 3  # unmeasured repetitions before the measured ones
    repeats: int = 10  # measured repetitions of each timing
    seconds: float = 5.0  # most time for the repetitions of one timing; a single repetition always runs to its end
    measure: bool = True  # False: only predict parameters, FLOPs and memory; nothing is timed
    trace: bool = True  # record a training step and a solve: operators, timeline (PNG), trace for Perfetto, TensorBoard
    operators: int = 10  # rows of the operator table
    data: bool = True  # load the data and measure how much of a training step waits for it
    memory_for: Literal["preset", "here"] = "preset"  # batch of the predicted peak: of preset_hardware, or of this run
    preset_hardware: Literal["gpu_6gb", "gpu"] = "gpu_6gb"  # whose batch and precision the predicted peak takes
    budgets: BudgetConfig = field(default_factory=BudgetConfig)
    strict: bool = False  # exit with status 3 when a budget is not met

    def __post_init__(self) -> None:
        _at_least("warmup", self.warmup, 0)
        _at_least("repeats", self.repeats, 1)
        _at_least("operators", self.operators, 1)
        _positive("seconds", self.seconds, "seconds")


@dataclass(frozen=True, kw_only=True)
class ProfileConfig(RunConfig):
    """Everything `profile.py` needs: a run, and how to measure it."""

    profile: ProfileSettings = field(default_factory=ProfileSettings)


def parse_bytes(text: str, *, key: str) -> int:
    """Return the bytes that `text` such as `6GiB`, `500 MB` or `1024` stands for; `key` names it in the error."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", text)
    unit = match and _BYTE_UNITS.get(match[2].upper() or "B")
    if not match or not unit:
        raise ValueError(f"{key}={text!r} is not a size; write a number and one of B, KiB, MiB, GiB, KB, MB, GB.")
    return int(float(match[1]) * unit)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _at_least(key: str, value: int | None, low: int) -> None:
    if value is not None and value < low:
        raise ValueError(f"{key}={value} is too small; choose {low} or more.")


def _positive(key: str, value: float | None, unit: str) -> None:
    if value is not None and not value > 0.0:
        raise ValueError(f"{key}={value} must be greater than 0 ({unit}), or null for none.")


def _targets(key: str, nodes: dict[str, Any]) -> None:
    for name, node in nodes.items():
        if node is not None and not (isinstance(node, dict) and "_target_" in node):
            raise ValueError(f"{key}.{name}={node!r} is not a node with _target_; give one, or null to leave it out.")
