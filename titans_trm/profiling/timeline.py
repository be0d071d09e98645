"""Draw a recording so that a person sees where the time goes: all net calls, one of them closely, and the sums."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from titans_trm.profiling.recording import PARTS, Recording, Span, part_times

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = {
    "attention": "#1f77b4",
    "memory": "#d95f02",
    "gate": "#1b9e77",
    "mlp": "#7570b3",
    "other": "#b0b0b0",
    "z": "#9ecae1",
    "y": "#3182bd",
    "forward": "#d9d9d9",
    "backward": "#969696",
    "optimizer": "#636363",
}
_NAMES = {"mlp": "SwiGLU", "other": "norms, residuals, rest"}
_DPI = 110
_CHARACTER = 0.0065  # width of a letter, in widths of the picture


def draw_timeline(path: Path, recording: Recording, title: str, *, calls_per_recursion: int) -> None:
    """Draw `recording` into `path` (PNG), whole or not at all.

    Args:
        path: the picture; an existing one is replaced.
        recording: of a training step or of supervision steps.
        title: what was recorded, on which device.
        calls_per_recursion: n + 1, of which the last call refines y.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # a second to import, for pictures only
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 7.5), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=11)
    whole, close, sums = figure.subplots(3, 1, height_ratios=[3, 2.4, 2.2])
    calls = [span for span in recording.spans if span.name == "net call"]
    _draw_whole(whole, recording, calls, calls_per_recursion)
    _draw_call(close, recording.spans, calls, calls_per_recursion)
    _draw_sums(sums, recording)
    partial = path.with_name(f".{path.name}.partial")
    try:
        figure.savefig(partial, dpi=_DPI, format="png")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _draw_whole(axis: "Axes", recording: Recording, calls: Sequence[Span], per_recursion: int) -> None:
    axis.set_xlim(0, recording.total_ms)
    phases = [span for span in recording.spans if span.name in ("forward", "backward", "optimizer")]
    for span in phases:
        _bar(axis, 2, span, _COLOURS[span.name], span.name)
    for index, span in enumerate(calls):
        which = "y" if (index + 1) % per_recursion == 0 else "z"
        _bar(axis, 1, span, _COLOURS[which], f"{which}{index + 1}")
    for part in (*PARTS, "other"):
        bars = [(span.start, span.duration) for span in recording.spans if span.name == part]
        axis.broken_barh(bars, (-0.4, 0.8), facecolors=_COLOURS[part], linewidth=0)
    lanes = ["parts of blocks", "net calls", *(["phase"] if phases else [])]
    axis.set_yticks(range(len(lanes)), lanes)
    axis.set_ylim(-0.6, len(lanes) - 0.4)
    axis.set_xlabel("milliseconds; net calls z refine the latent state, y the answer; gradients in their part's colour")


def _draw_call(axis: "Axes", spans: Sequence[Span], calls: Sequence[Span], per_recursion: int) -> None:
    """Show the last net call of the forward pass: one like all others, and never the first, which is cold."""
    ends = [span.end for span in spans if span.name == "forward"]
    forward = [span for span in calls if not ends or span.end <= max(ends)]
    if not forward:
        axis.set_visible(False)
        return
    call = forward[-1]
    axis.set_xlim(call.start, call.end)
    for span in spans:
        inside = call.start <= span.start and span.end <= call.end and not span.backward
        if inside and span.name.startswith("block "):
            _bar(axis, 1, span, "#e5e5e5", span.name)
        elif inside and span.name in PARTS:
            _bar(axis, 0, span, _COLOURS[span.name], _NAMES.get(span.name, span.name))
    axis.set_yticks((0, 1), ("parts", "blocks"))
    axis.set_ylim(-0.6, 1.6)
    which = "y" if len(forward) % per_recursion == 0 else "z"
    axis.set_title(f"Net call {which}{len(forward)} alone, {call.duration:,.1f} ms", fontsize=10)
    axis.set_xlabel("milliseconds")


def _draw_sums(axis: "Axes", recording: Recording) -> None:
    times = part_times(recording.spans)
    shown = [part for part in times if sum(times[part].values()) > 0]
    for row, part in enumerate(reversed(shown)):
        ahead, back = times[part]["forward"], times[part]["backward"]
        axis.barh(row, ahead, color=_COLOURS[part])
        axis.barh(row, back, left=ahead, color=_COLOURS[part], alpha=0.5, hatch="//", edgecolor="white")
        share = 100 * (ahead + back) / recording.total_ms
        gradients = f", gradients {back:,.1f} ms" if back else ""
        axis.text(ahead + back, row, f"  {ahead:,.1f} ms{gradients}: {share:.0f} %", va="center", fontsize=8)
    axis.set_yticks(range(len(shown)), [_NAMES.get(part, part) for part in reversed(shown)])
    axis.set_xlim(0, 1.35 * max((sum(times[part].values()) for part in shown), default=1.0))  # room for the numbers
    axis.set_xlabel("milliseconds over all net calls (hatched: gradients) and share of the whole")


def _bar(axis: "Axes", lane: int, span: Span, colour: str, label: str) -> None:
    """Draw a bar with its label, where that is no wider than the bar."""
    box = (lane - 0.4, 0.8)
    axis.broken_barh([(span.start, span.duration)], box, facecolors=colour, edgecolor="white", linewidth=0.4)
    low, high = axis.get_xlim()
    if span.duration / (high - low) > _CHARACTER * len(label):
        axis.text(span.start + span.duration / 2, lane, label, ha="center", va="center", fontsize=7)
