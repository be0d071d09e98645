"""Put a profile on the screen."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from torch import nn


def parameters_by_part(model: nn.Module) -> dict[str, int]:
    """Count parameters by what they do: the parts of a block summed over all blocks, then everything else."""
    counts: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        before, inside, rest = name.partition(".blocks.")
        part = f"blocks.{rest.split('.')[1]}" if inside else before.split(".")[0]
        counts[part] = counts.get(part, 0) + parameter.numel()
    return counts


def print_profile(result: Mapping[str, Any], console: Console | None = None) -> None:
    """Show the result of `titans_trm.tasks.profile`, one table after the other, the verdicts last."""
    console = console or Console()
    tables = [_parameters(result), _flops(result), _memory(result), _timings(result)]
    tables += [_operators(name, rows) for name, rows in result["operators"].items()]
    for table in (*tables, _budgets(result)):
        if table.row_count:
            console.print(table)
    for line in (*_data(result["data"]), *_files(result["files"])):
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def _parameters(result: Mapping[str, Any]) -> Table:
    table = _table(f"Parameters of {result['model']}", "part", "count", "share")
    total = result["parameters"]
    for part, count in sorted(result["parameters_by_part"].items(), key=lambda item: -item[1]):
        table.add_row(part, f"{count:,}", f"{count / total:.1%}")
    table.add_row("total", f"{total:,}", "", style="bold")
    return table


def _flops(result: Mapping[str, Any]) -> Table:
    table = _table("Work per example", "", "GFLOP")
    for name, value in result["flops"].items():
        table.add_row(name.replace("_", " "), f"{value / 1e9:,.2f}")
    return table


def _memory(result: Mapping[str, Any]) -> Table:
    here, preset = result["peak_memory"], result["peak_memory"]["preset"]
    columns = [entry for entry in (here, preset) if entry is not None]
    titles = [_setup_title(entry) for entry in columns]
    table = _table("Peak memory of training, MiB (predicted within 10 %, eager)", "", *titles)
    for kind in here["by_kind"]:
        table.add_row(kind.replace("_", " "), *(_mib(entry["by_kind"][kind]) for entry in columns))
    table.add_row("predicted", *(_mib(entry["predicted_bytes"]) for entry in columns), style="bold")
    table.add_row("measured", *(_mib(entry.get("measured_bytes")) for entry in columns))
    if any(entry["vram_bytes"] for entry in columns):
        table.add_row("the card has", *(_mib(entry["vram_bytes"]) for entry in columns), end_section=True)
        table.add_row("largest batch that fits", *(_number(entry["largest_batch"]) for entry in columns), style="bold")
    return table


def _setup_title(entry: Mapping[str, Any]) -> str:
    recompute = ", checkpointing" if entry["checkpointing"] else ""
    where = "this machine" if "preset" in entry else "preset"
    return f"{where} ({entry['hardware']})\nbatch {entry['batch_size']}, {entry['precision']}{recompute}"


def _timings(result: Mapping[str, Any]) -> Table:
    table = _table(f"Time on {result['device']}, ms", "", "p50", "p95", "p99", "examples/s", "repeats")
    for name, t in result["timings"].items():
        times = (f"{t[point]:,.1f}" for point in ("p50", "p95", "p99"))
        how = f"{t['repeats']}{'' if t['warmup'] else ', cold'}{', of one step each' if t['extrapolated'] else ''}"
        batch = f" of {t['examples']}" if t["examples"] > 1 else ""
        table.add_row(name.replace("_", " ") + batch, *times, f"{t['examples_per_second']:.3g}", how)
    return table


def _operators(name: str, rows: list[dict[str, Any]]) -> Table:
    table = _table(f"Operators of one recorded {name.replace('_', ' ')}", "operator", "calls", "self ms", "share")
    for row in rows:
        table.add_row(row["name"], f"{row['calls']:,}", f"{row['self_ms']:,.1f}", f"{row['share']:.1%}")
    return table


def _data(data: Mapping[str, Any] | None) -> list[str]:
    if data is None:
        return []
    if "not_measured" in data:
        return [f"data: not measured: {data['not_measured']}"]
    return [
        f"data: {data['ms_per_example']:.3f} ms to serve an example; a training step waits {data['at_first']:.1%} of "
        f"its time while examples run all their steps, {data['at_most']:.1%} at most"
    ]


def _files(files: Mapping[str, Mapping[str, str]]) -> list[str]:
    lines = [f"{name.replace('_', ' ')}: {one['timeline']}, {one['trace']}" for name, one in files.items()]
    return [*lines, "a trace opens at https://ui.perfetto.dev"] if lines else []


def _budgets(result: Mapping[str, Any]) -> Table:
    table = _table("Budgets", "", "limit", "value", "verdict")
    for name, budget in result["budgets"].items():
        unjudged = budget.get("note", "not measured")
        verdict = unjudged if budget["ok"] is None else "[green]ok[/]" if budget["ok"] else "[red]broken[/]"
        table.add_row(name.replace("_", " "), _number(budget["limit"]), _number(budget["value"]), verdict)
    return table


def _table(title: str, first: str, *others: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column(first)
    for other in others:
        table.add_column(other, justify="right")
    return table


def _mib(size: int | None) -> str:
    return "-" if size is None else f"{size / 2**20:,.0f}"


def _number(value: Any) -> str:
    if isinstance(value, list):
        return " to ".join(f"{v:,}" for v in value)
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"
