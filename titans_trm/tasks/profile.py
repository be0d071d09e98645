"""Profile a configuration: what it costs in parameters, FLOPs, memory and time, held against its budgets."""

import dataclasses
import itertools
import json
import platform
import tempfile
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from titans_trm.config import HardwareFacts, compose, resolve_hardware, resolve_precision
from titans_trm.data.registry import make_task
from titans_trm.errors import InputError
from titans_trm.models.titans_trm import TitansTRM
from titans_trm.profiling.flops import FlopCount, count_flops
from titans_trm.profiling.memory import MemoryEstimate, largest_batch, predict_training_peak
from titans_trm.profiling.report import parameters_by_part, print_profile
from titans_trm.tasks.build import build_model
from titans_trm.tasks.hardware import DEVICES, card_bytes, hardware_facts, on_this_machine, training_setup
from titans_trm.tasks.profile_measured import measure_here
from titans_trm.training.config import BudgetConfig, ProfileConfig
from titans_trm.training.console import print_plain

BUDGET_BROKEN = 3  # exit status under profile.strict=true

_BF16_CARD = HardwareFacts(cuda=True, bf16=True)  # what a preset's `precision: auto` is resolved for


def profile(config: ProfileConfig, console: Console | None = None) -> dict[str, Any]:
    """Write `profile.json`, timelines and traces into the run folder, show the profile, and return it.

    Memory is predicted twice: for this machine, where it is also measured, and for the preset of
    `profile.preset_hardware`, whose card need not be present. Under `profile.strict` a broken budget adds
    `exit_status: 3`.
    """
    console = console or Console()
    path = _new_file(Path(config.run_dir))
    here, preset = _for_this_machine(config), _for_preset(config)
    device = torch.device(DEVICES[here.hardware.name])
    if here.trainer.num_threads:
        torch.set_num_threads(here.trainer.num_threads)
    spec = make_task(here.data).spec
    model = build_model(here.model, spec)
    result: dict[str, Any] = {
        "model": here.model.name,
        "experiment": here.experiment,
        "device": _device_name(device),
        "parameters": model.num_params(),
        "parameters_by_part": parameters_by_part(model),
    }
    with console.status("counting FLOPs and predicting memory"):
        result |= _work(count_flops(model.config))
        result["peak_memory"] = _memory(here, model) | {"preset": _memory(preset, build_model(preset.model, spec))}
    with console.status("measuring"):
        measured = measure_here(here, model.to(device), path.parent)
    result["peak_memory"]["measured_bytes"] = measured.pop("measured_bytes")
    result |= measured
    result["budgets"] = _budgets(config.profile.budgets, result, config.profile.memory_for, device)
    if config.profile.strict and any(budget["ok"] is False for budget in result["budgets"].values()):
        result["exit_status"] = BUDGET_BROKEN
    saved = result | {"overrides": config.overrides, "config": config.to_dict()}
    path.write_text(json.dumps(saved, indent=2) + "\n", encoding="utf-8")
    print_profile(result, console)
    print_plain(console, str(path))
    return result


def _for_this_machine(config: ProfileConfig) -> ProfileConfig:
    """Return the configuration as it would run here, even if it names a card that is not present."""
    picked = resolve_hardware("auto", hardware_facts())
    if config.hardware.name != "auto" and DEVICES[config.hardware.name] not in ("cpu", DEVICES[picked]):
        config = _composed_for(config, picked)
    return on_this_machine(config)  # type: ignore[type-var]


def _for_preset(config: ProfileConfig) -> ProfileConfig:
    """Return the configuration as it would run on the preset's card, in the precision of a card with bf16."""
    named = config.hardware.name
    preset = _composed_for(config, named if named in ("gpu", "gpu_6gb") else config.profile.preset_hardware)
    precision = preset.trainer.precision if preset.trainer.precision != "auto" else preset.hardware.precision
    precision = resolve_precision(precision, preset.hardware.name, _BF16_CARD)
    return dataclasses.replace(preset, trainer=dataclasses.replace(preset.trainer, precision=precision))


def _composed_for(config: ProfileConfig, hardware: str) -> ProfileConfig:
    kept = [override for override in config.overrides if override.partition("=")[0] != "hardware"]
    composed = compose("profile", [*kept, f"hardware={hardware}"])
    return dataclasses.replace(composed, overrides=config.overrides)


def _work(flops: FlopCount) -> dict[str, Any]:
    """Return the FLOPs of one example; the step is forward, backward and what checkpointing repeats."""
    return {"flops_per_step": flops.step, "flops": dataclasses.asdict(flops) | {"step": flops.step}}


def _memory(config: ProfileConfig, model: TitansTRM) -> dict[str, Any]:
    """Return the predicted peak, and the largest batch where the memory of the card is known."""
    setup, card = training_setup(config), card_bytes(config)
    estimate: MemoryEstimate = predict_training_peak(model.config, setup)
    return {
        "predicted_bytes": estimate.total_bytes,
        "by_kind": estimate.by_kind,
        "hardware": config.hardware.name,
        "batch_size": config.trainer.batch_size,
        "precision": config.trainer.precision,
        "checkpointing": config.model.recursion.checkpointing,
        "vram_bytes": card,
        "largest_batch": None if card is None else largest_batch(model.config, card, setup, known=estimate),
    }


def _budgets(
    budgets: BudgetConfig, result: dict[str, Any], memory_for: str, device: torch.device
) -> dict[str, dict[str, Any]]:
    """Return the verdict on every budget that is set; `ok` is None where nothing was measured or it does not hold."""
    memory = result["peak_memory"] if memory_for == "here" else result["peak_memory"]["preset"]
    found: dict[str, dict[str, Any]] = {}
    if budgets.parameters is not None:
        low, high = budgets.parameters
        count = result["parameters"]
        found["parameters"] = {"limit": [low, high], "value": count, "ok": low <= count <= high}
    if budgets.peak_memory_bytes is not None:
        found["peak_memory"] = _at_most(budgets.peak_memory_bytes, memory["predicted_bytes"])
    if budgets.latency_p95_ms is not None:
        found["latency_p95_ms"] = _at_most(budgets.latency_p95_ms, result["latency_ms"]["p95"])
        here = "gpu" if device.type == "cuda" else device.type
        if budgets.latency_device not in ("any", here):
            note = f"holds on {budgets.latency_device}, this is {here}"
            found["latency_p95_ms"] |= {"ok": None, "note": note}
    return found


def _at_most(limit: float, value: float | None) -> dict[str, Any]:
    return {"limit": limit, "value": value, "ok": None if value is None else value <= limit}


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} {device.type}, {torch.get_num_threads()} threads"


def _new_file(folder: Path) -> Path:
    """Return the path of a new `profile.json` in `folder`, or in `folder-2`, `folder-3`, ... where one lies already."""
    for number in itertools.count(1):
        path = (folder if number == 1 else folder.with_name(f"{folder.name}-{number}")) / "profile.json"
        if path.exists():
            continue
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=path.parent):
                return path
        except OSError as error:
            raise InputError(
                f"{path} cannot be written ({error.strerror}); set TITANS_TRM_RUN_DIR to a folder that can."
            ) from error
    raise AssertionError("itertools.count ended.")
