"""What a person reads on the screen: the header of a run, and numbers in readable form."""

from collections.abc import Mapping

from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

_ROUNDS_UP = 0.9995  # of a unit: in three digits that is 1 of the unit, not 1000 of the one below


def print_header(title: str, lines: Mapping[str, str], console: Console | None = None) -> None:
    """Show what is about to happen: `lines` maps a label (model, data, device, ...) to its description.

    On a terminal a framed table; in a file one plain `label: description` line each, never wrapped.
    """
    console = console or Console()
    if not console.is_terminal:
        for label, line in {"run": title, **lines}.items():
            print_plain(console, f"{label}: {line}")
        return
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for label, line in lines.items():
        table.add_row(Text(label), Text(line))
    console.print(Panel(table, title=Text(title, style="bold"), title_align="left", expand=False))


def print_plain(console: Console, line: str) -> None:
    """Print a line as it is: no wrapping, no markup, no colour."""
    console.print(Text(line), soft_wrap=True, highlight=False)


def format_count(value: float) -> str:
    """Return a count in three digits: `812`, `25.1 M`."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit * _ROUNDS_UP:
            return f"{value / limit:.3g} {unit}"
    return f"{value:g}"


def format_bytes(value: float) -> str:
    """Return bytes as `4.2 GiB`."""
    for exponent, unit in ((3, "GiB"), (2, "MiB"), (1, "KiB")):
        if abs(value) >= 1024**exponent:
            return f"{value / 1024**exponent:.1f} {unit}"
    return f"{value:.0f} B"


def format_duration(seconds: float) -> str:
    """Return seconds in two units: `4.2 s`, `3 min 5 s`, `2 h 10 min`, `3 d 4 h`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    minutes = round(seconds / 60)
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24} h"
