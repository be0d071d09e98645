"""Tools of the specialist: a model's skeleton, tests for a model, a benchmark of a model. Nothing is written here."""

import keyword
import re
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from titans_trm.errors import InputError
from titans_trm.specialist.quantities import Measured
from titans_trm.specialist.texts import render


@dataclass(frozen=True)
class File:
    """A file that could be written."""

    path: str
    text: str


def create_model_skeleton(name: str) -> list[File]:
    """Return model, configuration, training loop and tests of a new model; the tests pass as they are.

    Args:
        name: in words or as a class, such as `tiny memory` or `TinyMemory`.

    Raises:
        InputError: the name makes no identifier.
    """
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z0-9]+", name)
    module = "_".join(word.lower() for word in words)
    class_name = "".join(word[:1].upper() + word[1:] for word in words)
    if not module.isidentifier() or keyword.iskeyword(module):
        raise InputError(f"name={name!r} makes no name of a module; use letters, such as tiny_memory.")
    values = {"module": module, "class_name": class_name, "title": " ".join(words).capitalize()}
    return [
        File(f"{module}.py", render("model.py.txt", **values)),
        File(f"train_{module}.py", render("trainer.py.txt", **values)),
        File(f"{module}.yaml", render("config.yaml.txt", **values)),
        add_tests(f"{module}:{class_name}"),
    ]


def add_tests(target: str) -> File:
    """Return a test file for `module:Class`: every check of `titans_trm.specialist.model_checks`.

    Raises:
        InputError: `target` is not of that form.
    """
    module, _, class_name = target.partition(":")
    if not class_name.isidentifier() or not all(part.isidentifier() for part in module.split(".")):
        raise InputError(f"target={target!r} is not module:Class; write e.g. my_package.my_model:MyModel.")
    text = render("test_model.py.txt", module=module, class_name=class_name)
    return File(f"tests/test_{module.rpartition('.')[2]}.py", text)


def benchmark_model(
    model: nn.Module, forward: Callable[[], Any], *, warmup: int = 2, repeats: int = 10, budget_seconds: float = 10.0
) -> Measured:
    """Return parameters, time and memory of `forward()`, a call of `model` in evaluation mode without gradient.

    Args:
        model: whose parameters are counted and whose device is used.
        forward: one pass.
        warmup: unmeasured passes.
        repeats: measured passes; fewer where they would not fit into the budget.
        budget_seconds: most time for the measured passes; one always runs to its end.
    """
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    cuda = device.type == "cuda"
    training = model.training
    model.eval()
    times: list[float] = []
    try:
        with torch.inference_mode():
            for _ in range(warmup):
                forward()
            if cuda:
                torch.cuda.reset_peak_memory_stats(device)
            started = time.perf_counter()
            while len(times) < repeats and (not times or time.perf_counter() - started < budget_seconds):
                times.append(_timed(forward, cuda))
    finally:
        model.train(training)
    ordered = sorted(times)
    return Measured(
        parameters=sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
        latency_ms=statistics.median(times),
        latency_p95_ms=ordered[min(len(ordered) - 1, round(0.95 * (len(ordered) - 1)))],
        peak_bytes=torch.cuda.max_memory_allocated(device) if cuda else None,
        repeats=len(times),
        device=str(device),
    )


def write_files(files: list[File], folder: Path) -> list[Path]:
    """Write files into `folder`; nothing that exists is overwritten.

    Raises:
        InputError: one of them exists already; then none is written.
    """
    targets = [folder / file.path for file in files]
    for target in targets:
        if target.exists():
            raise InputError(f"{target} exists already; choose another name or folder.")
    for file, target in zip(files, targets, strict=True):
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(file.text, encoding="utf-8")
    return targets


def _timed(forward: Callable[[], Any], cuda: bool) -> float:
    if cuda:
        torch.cuda.synchronize()
    started = time.perf_counter()
    forward()
    if cuda:
        torch.cuda.synchronize()
    return 1000.0 * (time.perf_counter() - started)
