"""The checklist of a run: what another person needs to repeat it, with this run's own facts filled in.

In the spirit of the Machine Learning Reproducibility Checklist (Pineau et al. 2021, JMLR 22(164)).
"""

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from titans_trm.evaluation.statistics import wilson_interval
from titans_trm.training.console import format_bytes, format_count, format_duration

Values = Mapping[str, Any]
_LATER = "known when the run ends"
_SAID = ("exact_accuracy", "num_examples", "of", "weights", "ci_low", "ci_high")  # by the first sentence on validation
_CLASHING = ("resume=", "run_dir=")  # of the first command; the commands below name their own


def reproducibility_checklist(
    run_dir: Path, config: Values, overrides: list[str], environment: Values, manifest: Values, summary: Values
) -> str:
    """Return the checklist as Markdown; what `summary` does not hold yet is marked as still open."""
    sections = {
        "Model": _model(config, summary),
        "Data": _data(manifest),
        "Randomness": _randomness(config, manifest, environment),
        "Software and hardware": _environment(environment),
        "Results": _results(summary),
        "How to repeat": _commands(run_dir, overrides),
    }
    lines = [f"# Reproducibility of {config.get('experiment', 'this run')}", ""]
    lines += ["`[x]` is answered here; `[ ]` is not known (yet)."]
    for title, items in sections.items():
        lines += ["", f"## {title}", *items]
    return "\n".join(lines) + "\n"


def _item(label: str, value: Any) -> str:
    known = value is not None and value != _LATER
    return f"- [{'x' if known else ' '}] {label}: {value if value is not None else 'not known'}"


def _model(config: Values, summary: Values) -> list[str]:
    parameters = summary.get("parameters")
    model = config.get("model") or {}
    backbone = model.get("backbone") or {}
    shape = f"{backbone.get('num_blocks')} blocks of width {model.get('width')}, gate {backbone.get('gate')}"
    count = f"{parameters:,} ({format_count(parameters)})" if parameters is not None else _LATER
    return [
        _item("Model", f"{model['name']}, {shape}" if "name" in model else None),
        _item("Parameters", count),
        _item(
            "Hyper-parameters", "all of them, resolved, in `config.yaml`; what was changed by hand in `overrides.yaml`"
        ),
    ]


def _data(manifest: Values) -> list[str]:
    seed = f", seed {manifest['seed']}" if manifest.get("seed") is not None else ""
    source = f"{manifest.get('task')}, {manifest.get('source', 'source not recorded')}{seed}"
    items = [
        _item("Data", source if "task" in manifest else None),
        _item("Split rule", manifest.get("split_rule")),
        _item("Leakage between splits", _facts(manifest.get("leakage"))),
    ]
    splits = manifest.get("splits") or {}
    items += [_item(f"Split `{name}`", _facts(about)) for name, about in splits.items()]
    return [*items, _item("Checksums of every file and split", "`data_manifest.json`" if manifest else None)]


def _facts(about: Any) -> str | None:
    """Return nested names and values in one line."""
    if not isinstance(about, Mapping):
        return None if about is None else str(about)
    parts = [(key.replace("_", " "), value) for key, value in about.items() if value is not None]
    return ", ".join(f"{key} ({_facts(v)})" if isinstance(v, Mapping) else f"{key} {_facts(v)}" for key, v in parts)


def _randomness(config: Values, manifest: Values, environment: Values) -> list[str]:
    trainer = config.get("trainer") or {}
    on_cpu = not environment.get("devices") and not environment.get("mps")
    strict = "requested (`trainer.deterministic`)" if trainer.get("deterministic") else "not requested"
    scope = "same code, data, seed, versions and thread count give the same bits on a CPU"
    doubt = "" if on_cpu else "; an accelerator may sum in another order unless deterministic operations are requested"
    return [
        _item("Seed of initialisation, order, augmentation and exploration", config.get("seed")),
        _item("Seed of data and splits", manifest.get("seed")),
        _item("Deterministic operations", strict),
        _item("Expected agreement of a repetition", scope + doubt),
    ]


def _environment(environment: Values) -> list[str]:
    versions = environment.get("versions") or {}
    listed = ", ".join(f"{name} {number}" for name, number in versions.items() if number)
    git = environment.get("git") or {}
    state = {True: ", with uncommitted changes", False: ", clean", None: ""}[git.get("dirty")]
    memory = environment.get("memory_bytes")
    machine = (
        f"{environment.get('cpu')}, {environment.get('cpus_usable')} usable CPUs, {environment.get('threads')} threads"
    )
    machine += f", {format_bytes(memory)} of memory" if memory else ""
    cuda = f" (CUDA {environment['cuda']})" if environment.get("cuda") else ""
    devices = (", ".join(environment.get("devices") or []) + cuda) if environment.get("devices") else "none"
    return [
        _item("Code", f"commit `{git['commit']}`{state}" if git.get("commit") else None),
        _item("Python", environment.get("python")),
        _item("Packages", listed or None),
        _item("Platform", environment.get("platform")),
        _item("Machine", machine if environment.get("cpu") else None),
        _item("GPUs", devices),
        _item("Started", environment.get("date")),
    ]


def _results(summary: Values) -> list[str]:
    if "status" not in summary:
        return [_item(label, _LATER) for label in ("Wall time", "Steps", "Validation", "Peak memory")]
    wall, memory = summary.get("wall_seconds"), summary.get("peak_memory_bytes")
    steps = f"{summary.get('global_step')} optimiser steps, {summary.get('examples_finished')} examples finished"
    return [
        _item("End", summary["status"] + (f" ({summary['error']})" if summary.get("error") else "")),
        _item("Wall time", format_duration(wall) if wall is not None else None),
        _item("Steps", steps),
        _item("Validation", _validation(summary.get("val") or {})),
        _item("Number of runs behind these figures", "1 (no spread over seeds; repeat with other seeds for one)"),
        _item("Best checkpoint", summary.get("best_checkpoint")),
        _item("Peak memory", format_bytes(memory) if memory is not None else None),
    ]


def _validation(val: Values) -> str | None:
    accuracy, n = val.get("exact_accuracy"), val.get("num_examples")
    if accuracy is None:
        return None
    if not n:
        return f"exact accuracy {accuracy:.4f} (number of examples not recorded)"
    low, high = wilson_interval(min(accuracy * n, n), round(n))
    whole = f" of {val['of']}" if val.get("of") is not None else ""
    weights = f", {val['weights']} weights" if val.get("weights") else ""
    text = f"exact accuracy {accuracy:.4f}, 95 % interval (Wilson) {low:.4f} to {high:.4f}, {round(n)}{whole} examples"
    others = {name: value for name, value in val.items() if name not in _SAID and isinstance(value, int | float)}
    return "; ".join([text + weights, *(f"{name.replace('_', ' ')} {value:.4g}" for name, value in others.items())])


def _commands(run_dir: Path, overrides: list[str]) -> list[str]:
    kept = [word for word in overrides if not word.startswith(_CLASHING)]
    folder = _short(run_dir)
    repeat = ["python", "train.py", *kept]
    return [
        "",
        "```bash",
        f"{shlex.join(repeat)}  # repeat, in a new run folder",
        f"{shlex.join([*repeat, f'resume={folder}'])}  # go on where the last checkpoint stands",
        f"{shlex.join(['python', 'evaluate.py', f'run={folder}'])}  # validation metrics of the averaged weights",
        "```",
    ]


def _short(path: Path) -> str:
    """Return `path` relative to the working folder where it lies inside."""
    relative = os.path.relpath(path)
    return str(path.absolute()) if relative.startswith(os.pardir) else Path(relative).as_posix()
