"""`diagnostics/signals.png`: the signals of a run over its steps, with the alerts at their places."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from titans_trm.diagnostics.alert import at_least
from titans_trm.diagnostics.events import read_events
from titans_trm.diagnostics.record import read_signals
from titans_trm.diagnostics.signals import Signals

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SIZE, _DPI = (13.0, 9.0), 100  # inches, dots per inch
# Title of a panel, label of its axis, whether it is logarithmic, and its curves: signal -> label.
_PANELS: tuple[tuple[str, str, bool, dict[str, str]], ...] = (
    ("Loss", "nats", True, {
        "loss/cross_entropy": "cross-entropy", "loss/halting": "halting", "val/cross_entropy": "validation"}),
    ("Solved", "share of examples", False, {
        "solve/exact": "exactly right now (p)", "halting/probability": "head's belief",
        "val/exact_accuracy": "validation"}),
    ("Halting logits", "logits", False, {"halting/logit_std": "standard deviation over examples"}),
    ("Gain of a further step", "relative fall of the loss", False, {"solve/gain": "unsolved examples"}),
    ("Gradient", "norm before clipping", True, {"grad/norm": "mean", "grad/norm_max": "largest"}),
    ("Updates", "|dw| / |w|", True, {"update/*": ""}),
    ("Gates", "standard deviation", False, {"gate/*/std": ""}),
    ("Memory writes", "times the initial memory", True, {"memory/*/write": ""}),
    ("Time", "share", False, {"time/wait": "waiting for data"}),
)  # fmt: skip
_COLOURS = {"info": "#7a7a7a", "warn": "#d95f02", "error": "#b2182b", "fatal": "#000000"}


def draw_panel(folder: str | Path) -> Path | None:
    """Draw `signals.jsonl` and `events.jsonl` of a run's `diagnostics/`; return the picture, None without signals."""
    folder = Path(folder)
    signals = list(read_signals(folder / "signals.jsonl")) if (folder / "signals.jsonl").is_file() else []
    if not any(one.step for one in signals):
        return None
    # Takes a second, and only this function needs it. No pyplot: its global state is not for libraries.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(3, 3, sharex=True)
    for axis, (title, label, logarithmic, curves) in zip(axes.flat, _PANELS, strict=True):
        _draw(axis, signals, curves, logarithmic)
        axis.set_title(title, fontsize=10)
        axis.set_ylabel(label, fontsize=8)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.25)
    for axis in axes[-1]:
        axis.set_xlabel("optimiser step", fontsize=8)
    figure.suptitle(_mark_alerts(folder, list(axes.flat)), fontsize=10)
    target, partial = folder / "signals.png", folder / ".signals.png.partial"
    try:
        figure.savefig(partial, dpi=_DPI, format="png")
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
    return target


def _draw(axis: "Axes", signals: Sequence[Signals], curves: dict[str, str], logarithmic: bool) -> None:
    drawn = []
    for pattern, label in curves.items():
        for name in _matching(pattern, signals):
            points = [(one.step, one.values[name]) for one in signals if name in one.values]
            marker = "o" if name.startswith("val/") else ""
            axis.plot(*zip(*points, strict=True), marker=marker, markersize=3, lw=1.2, label=label or _scope(name))
            drawn += [value for _, value in points]
    if not drawn:
        axis.text(0.5, 0.5, "not measured", transform=axis.transAxes, ha="center", color="#7a7a7a")
        return
    if logarithmic and any(value > 0.0 for value in drawn):
        axis.set_yscale("log")
    axis.legend(fontsize=7, loc="best")


def _matching(pattern: str, signals: Sequence[Signals]) -> list[str]:
    first, star, last = pattern.partition("*")
    if not star:
        return [pattern] if any(pattern in one.values for one in signals) else []
    names = dict.fromkeys(name for one in signals for name in one.values)
    skipped = ("update/total", "update/median")
    return [n for n in names if n.startswith(first) and n.endswith(last) and n not in skipped][:12]


def _scope(name: str) -> str:
    return name.split("/")[1]


def _mark_alerts(folder: Path, axes: Sequence["Axes"]) -> str:
    """Draw a line where each root cause was raised; return the title that names them."""
    events = read_events(folder / "events.jsonl", lost=False) if (folder / "events.jsonl").is_file() else []
    raised = [event for event in events if event["event"] == "alert" and at_least(event["severity"], "warn")]
    for event in raised:
        for axis in axes:
            axis.axvline(event["step"], color=_COLOURS[event["severity"]], lw=1.0, ls="--")
    if not raised:
        return "no alarms"
    return "alarms: " + ", ".join(f"{event['rule']} at step {event['step']}" for event in raised[:5])
