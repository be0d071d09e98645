"""Pictures of a sweep. No pyplot: its state is global."""

import io
from pathlib import Path
from typing import TYPE_CHECKING

from titans_trm.sweeps.folder import Result
from titans_trm.sweeps.space import split_override
from titans_trm.sweeps.summary import Table
from titans_trm.training.run_folder import write_bytes
from titans_trm.training.sweep_config import lower_is_better

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_JOB, _MEAN, _QUIET = "#1f77b4", "#d95f02", "#9a9a9a"  # told apart by colour-blind readers as well
_DPI = 110
_MOST_GROUPS, _MOST_KEYS = 30, 4


def draw_table(table: Table, path: Path) -> None:
    """Draw each configuration's jobs, mean and standard deviation, best on top."""
    groups = [group for group in table.groups if group.values][:_MOST_GROUPS]
    figure = _figure(8.0, 1.5 + 0.36 * len(groups))
    axis = figure.subplots()
    for height, group in enumerate(reversed(groups)):
        axis.plot(group.values, [height] * len(group.values), "o", color=_JOB, ms=5, alpha=0.7, zorder=3)
        assert group.mean is not None
        axis.errorbar(
            [group.mean], [height], xerr=[[group.std or 0.0]] * 2, fmt="D", color=_MEAN, ms=6, capsize=4, zorder=4
        )
    axis.set_yticks(range(len(groups)), [f"{g.name} ({len(g.values)} of {len(g.results)})" for g in reversed(groups)])
    axis.set_ylim(-0.6, len(groups) - 0.4)
    axis.set_xlabel(f"{table.metric}\n(dots: jobs; diamond and bar: mean ± standard deviation)")
    axis.grid(axis="x", alpha=0.25)
    _save(figure, path)


def draw_search(table: Table, path: Path) -> None:
    """Draw the trials in their order with the best so far, and the objective against each key."""
    keys = table.keys[:_MOST_KEYS]
    figure = _figure(5.5 + 2.8 * len(keys), 3.6)
    axes = figure.subplots(1, 1 + len(keys), sharey=True, squeeze=False, width_ratios=[1.6, *[1.0] * len(keys)])[0]
    done = [result for result in table.results if result.value(table.metric) is not None]
    whole = [result for result in done if result.status != "pruned"]
    cut = [result for result in done if result.status == "pruned"]
    for results, colour, mark, label in ((whole, _JOB, "o", "whole trial"), (cut, _QUIET, "x", "pruned")):
        if results:
            axes[0].plot([r.job.number for r in results], _values(results, table), mark, color=colour, label=label)
    _draw_best(axes[0], whole, table)
    axes[0].set_xlabel("trial")
    axes[0].set_ylabel(table.metric)
    axes[0].legend(fontsize=8)
    for axis, key in zip(axes[1:], keys, strict=True):
        _draw_key(axis, key, whole, cut, table)
    for axis in axes:
        axis.grid(alpha=0.25)
    _save(figure, path)


def _draw_best(axis: "Axes", whole: list[Result], table: Table) -> None:
    pick = min if lower_is_better(table.metric) else max
    values = _values(whole, table)
    best = [pick(values[: i + 1]) for i in range(len(values))]
    if best:
        axis.step([r.job.number for r in whole], best, where="post", color=_MEAN, label="best so far")


def _draw_key(axis: "Axes", key: str, whole: list[Result], cut: list[Result], table: Table) -> None:
    """Draw the objective against a key: by number where all values are numbers, else by name."""
    texts = [dict(split_override(word) for word in r.job.overrides)[key] for r in [*whole, *cut]]
    try:
        places = [float(text) for text in texts]
    except ValueError:
        names = sorted(set(texts))
        places = [float(names.index(text)) for text in texts]
        axis.set_xticks(range(len(names)), names)
    else:
        if min(places) > 0 and max(places) / min(places) > 20:
            axis.set_xscale("log")
    axis.plot(places[: len(whole)], _values(whole, table), "o", color=_JOB)
    axis.plot(places[len(whole) :], _values(cut, table), "x", color=_QUIET)
    axis.set_xlabel(key)


def _values(results: list[Result], table: Table) -> list[float]:
    return [value for value in (result.value(table.metric) for result in results) if value is not None]


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: "Figure", path: Path) -> None:
    content = io.BytesIO()
    figure.savefig(content, dpi=_DPI, format="png")
    write_bytes(path, content.getvalue())
