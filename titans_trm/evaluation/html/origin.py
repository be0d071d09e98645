"""The sections on where results come from: what was trained, on what, and how to repeat it."""

import re
from collections.abc import Mapping
from typing import Any

from titans_trm.evaluation.html.page import Html, command, facts, join, section, tag, tile

Values = Mapping[str, Any]


def one_sentence(config: Values, manifest: Values, summary: Values, environment: Values) -> Html:
    """Say in one sentence what this run is."""
    model, trainer = config.get("model") or {}, config.get("trainer") or {}
    steps = summary.get("global_step")
    done = f"{steps:,} of {trainer.get('max_steps', 0):,} steps" if steps is not None else "an unknown number of steps"
    date = str(environment.get("date") or "")[:16].replace("T", " ")
    words = f"{model.get('name', 'model')} on {manifest.get('task', 'unknown data')}, {done}, seed {config.get('seed')}"
    return join((words, f", started {date}" if date else ""))


def size_tiles(summary: Values) -> list[Html]:
    """Return tiles of size, time and memory."""
    tiles = []
    if summary.get("parameters") is not None:
        tiles.append(tile("parameters", _count(summary["parameters"]), f"{summary['parameters']:,}"))
    if summary.get("wall_seconds") is not None:
        finished = summary.get("examples_finished")
        note = f"{finished:,} examples finished" if finished is not None else ""
        tiles.append(tile("training time", _duration(summary["wall_seconds"]), note))
    if summary.get("peak_memory_bytes") is not None:
        tiles.append(tile("peak memory", f"{summary['peak_memory_bytes'] / 2**30:.2f} GiB", "of the process"))
    return tiles


def what_was_trained(config: Values, manifest: Values, summary: Values) -> Html:
    """Return model, data and training as facts."""
    columns = [
        tag("div", tag("h3", "Model"), facts(_model(config))),
        tag("div", tag("h3", "Data"), facts(_data(manifest))),
        tag("div", tag("h3", "Training"), facts(_training(config, summary))),
    ]
    return section("trained", "What was trained", tag("div", *columns, class_="columns"))


def repeat_it(checklist: str, environment: Values, run: str) -> Html:
    """Return the reproducibility checklist and the commands."""
    body, commands = _split_commands(checklist)
    lines = [_command(line) for line in commands]
    more = [
        command(f"python evaluate.py run={run} split=test final=true", "the test split, once, when all is decided"),
        command(f"titans-trm report {run}", "this page again"),
    ]
    return section(
        "repeat",
        "Repeat it",
        tag("h3", "Commands"),
        *lines,
        *more,
        tag("h3", "Reproducibility checklist"),
        *_checklist(body),
        lead="" if checklist else "The run left no reproducibility.md.",
    )


def _model(config: Values) -> dict[str, object]:
    model = config.get("model") or {}
    backbone, memory = model.get("backbone") or {}, model.get("memory") or {}
    recursion, halting = model.get("recursion") or {}, model.get("halting") or {}
    n, t = recursion.get("num_latent_steps"), recursion.get("num_recursions")
    has_memory = backbone.get("gate") != "attention_only"
    return {
        "Preset": model.get("name"),
        "Backbone": f"{backbone.get('num_blocks')} blocks of width {model.get('width')}, "
        f"{backbone.get('num_heads')} attention heads, window {backbone.get('window') or 'all'}",
        "Gate": backbone.get("gate"),
        "Memory": f"{memory.get('num_heads')} heads, depth {memory.get('depth')}, carry {memory.get('carry')}"
        if has_memory
        else "none",
        "Recursion": f"n = {n} latent steps, T = {t} recursions: {_calls(n, t)} net calls a supervision step",
        "Halting": f"at most {halting.get('max_supervision_steps')} supervision steps, exploration "
        f"{halting.get('exploration')}",
    }


def _data(manifest: Values) -> dict[str, object]:
    splits = manifest.get("splits") or {}
    counts = {
        f"Split {name}": f"{about.get('count', 0):,} examples in {about.get('groups', 0):,} groups"
        for name, about in splits.items()
        if isinstance(about, Mapping)
    }
    leakage = manifest.get("leakage") or {}
    shared = (leakage.get("groups_shared_with_test") or {}) if isinstance(leakage, Mapping) else {}
    return {
        "Task": manifest.get("task"),
        "Source": manifest.get("source"),
        **counts,
        "Shared with test": ", ".join(f"{name} {count} groups" for name, count in shared.items()),
        "Split rule": manifest.get("split_rule"),
    }


def _training(config: Values, summary: Values) -> dict[str, object]:
    trainer, optimizer = config.get("trainer") or {}, config.get("optimizer") or {}
    scheduler, loss = config.get("scheduler") or {}, config.get("loss") or {}
    hardware = config.get("hardware") or {}
    return {
        "Optimiser": f"{optimizer.get('name')}, lr {optimizer.get('lr')}"
        + (f" (matrices {optimizer.get('muon_lr')})" if optimizer.get("name") == "muon" else ""),
        "Schedule": f"{scheduler.get('name')}, {scheduler.get('warmup_steps')} steps of warm-up",
        "Batch": f"{trainer.get('batch_size')} slots × {trainer.get('accumulate')}",
        "Steps": f"{summary.get('global_step', '?')} of {trainer.get('max_steps')}",
        "Loss": f"{loss.get('cross_entropy')} cross-entropy, halting × {loss.get('halting_weight')}, diversity "
        f"{loss.get('diversity')}",
        "Weights": "raw" if trainer.get("ema_decay") is None else f"averaged, EMA {trainer.get('ema_decay')}",
        "Hardware": f"{hardware.get('name')}, {trainer.get('precision')}",
        "Tags": ", ".join(map(str, config.get("tags") or [])),
    }


def _split_commands(checklist: str) -> tuple[str, list[str]]:
    """Cut the block of commands out of the checklist's Markdown."""
    block = re.search(r"```bash\n(.*?)```", checklist, re.S)
    lines = [line for line in block[1].splitlines() if line.strip()] if block else []
    return re.sub(r"## How to repeat.*", "", checklist, flags=re.S), lines


def _command(line: str) -> Html:
    words, _, comment = line.partition("  # ")
    return command(words, comment)


def _checklist(body: str) -> list[Html]:
    """Return headings and ticked items of the checklist; other lines are left out."""
    found: list[Html] = []
    items: list[Html] = []
    for line in body.splitlines():
        item = re.match(r"- \[(x| )\] (.*)", line)
        if item:
            items.append(tag("li", _inline(item[2]), class_=None if item[1] == "x" else "open"))
        elif line.startswith("## "):
            found += [tag("ul", *items, class_="check")] if items else []
            items = []
            found.append(tag("h3", line.removeprefix("## ")))
    return [*found, tag("ul", *items, class_="check")] if items else found


def _inline(line: str) -> Html:
    """Return a line with its `code` marked; all else is escaped."""
    parts = re.split(r"`([^`]*)`", line)
    return join(tag("code", part) if index % 2 else part for index, part in enumerate(parts))


def _calls(n: Any, t: Any) -> str:
    return str(t * (n + 1)) if isinstance(n, int) and isinstance(t, int) else "?"


def _count(value: float) -> str:
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.3g} {unit}"
    return f"{value:g}"


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
