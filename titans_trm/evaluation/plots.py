"""Pictures of an evaluation: confusion matrix, reliability diagram, halting. No pyplot: its state is global."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from titans_trm.evaluation.results import Calibration, Difficulty, Estimate, StepResult
from titans_trm.evaluation.scaling import METHODS, ScalingPoint

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_FIRST, _SECOND, _QUIET = "#1f77b4", "#d95f02", "#7a7a7a"  # told apart by colour-blind readers as well
_COLOURS = (_FIRST, _SECOND, "#1b9e77", "#7570b3", "#e7298a")  # of several lines in one picture
_DPI = 110
_MOST_NUMBERED = 20  # classes whose cells carry their numbers


def draw_confusion(path: Path, matrix: NDArray[np.int64], labels: list[str], title: str) -> None:
    """Draw the matrix (V, V) by target, each row as shares of its target, tokens that never occur left out."""
    kept = np.nonzero(matrix.sum(axis=0) + matrix.sum(axis=1))[0]
    counts = matrix[np.ix_(kept, kept)]
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    names = [labels[token] for token in kept]
    side = min(12.0, 3.0 + 0.45 * len(kept))

    def draw(figure: "Figure") -> None:
        axis = figure.subplots()
        image = axis.imshow(shares, vmin=0, vmax=1, cmap="Blues")
        figure.colorbar(image, ax=axis, label="share of the target", shrink=0.8)
        axis.set_xlabel("answered")
        axis.set_ylabel("target")
        axis.set_title(f"{title}; in % of the target", fontsize=10)
        if len(kept) > _MOST_NUMBERED:
            return
        axis.set_xticks(range(len(kept)), names)
        axis.set_yticks(range(len(kept)), names)
        for row, column in np.ndindex(*counts.shape):
            colour = "white" if shares[row, column] > 0.6 else "black"
            axis.text(column, row, _share(shares[row, column]), ha="center", va="center", color=colour, fontsize=7)

    _save(path, (side + 1.2, side), draw)


def draw_calibration(path: Path, calibration: dict[str, Calibration], title: str) -> None:
    """Draw the reliability diagrams side by side, with the number of answers in each bin below."""

    def draw(figure: "Figure") -> None:
        figure.suptitle(title, fontsize=11)
        axes = figure.subplots(2, len(calibration), sharex=True, height_ratios=[3, 1], squeeze=False)
        for column, (scope, found) in enumerate(calibration.items()):
            _reliability(axes[0, column], found, {"every_step": "after every step", "last_step": "last step"}[scope])
            centres = [0.5 * (one.low + one.high) for one in found.bins]
            axes[1, column].bar(centres, [one.n for one in found.bins], width=0.09, color=_QUIET)
            axes[1, column].set_xlabel("halting probability")
            axes[1, column].set_ylabel("answers")

    _save(path, (9.5, 5.8), draw)


def draw_halting(path: Path, steps: list[StepResult], difficulty: Difficulty, title: str) -> None:
    """Draw accuracy and halting by supervision step, and thinking time against difficulty."""

    def draw(figure: "Figure") -> None:
        figure.suptitle(title, fontsize=11)
        left, right = figure.subplots(1, 2)
        numbers = [one.step for one in steps]
        _band(left, numbers, [one.exact_accuracy for one in steps], "exact accuracy", _FIRST)
        _band(left, numbers, [one.token_accuracy for one in steps], "token accuracy", _SECOND)
        left.plot(numbers, [one.share_halted for one in steps], color=_QUIET, ls="--", label="share halted")
        left.set_ylim(-0.02, 1.02)
        left.set_xticks(numbers if len(numbers) <= 16 else numbers[:: len(numbers) // 8])
        left.set_xlabel("supervision step")
        left.set_title("The answer after each step", fontsize=10)
        left.legend(fontsize=8)
        _depth(right, difficulty)

    _save(path, (10.5, 4.4), draw)


def draw_scaling(path: Path, points: list[ScalingPoint], title: str) -> None:
    """Draw accuracy against net calls and against CPU-seconds, a line for each way to spend them."""

    def draw(figure: "Figure") -> None:
        from matplotlib.ticker import LogLocator, NullFormatter

        figure.suptitle(title, fontsize=11)
        left, right = figure.subplots(1, 2, sharey=True)
        for axis, cost, scale in ((left, "net_calls", 1.0), (right, "cpu_seconds", 1e3)):
            for method, colour in zip(METHODS, _COLOURS, strict=True):
                mine = sorted((one for one in points if one.method == method), key=lambda one: getattr(one, cost))
                if mine:
                    x = [scale * getattr(one, cost) for one in mine]
                    _points(axis, x, [one.accuracy for one in mine], colour)
                    axis.plot([], [], color=colour, marker="o", markersize=4, label=METHODS[method].label)
            best = [one for one in points if one.frontier]
            values = [one.accuracy.value for one in best]
            axis.scatter([scale * getattr(one, cost) for one in best], values, s=90, facecolors="none", edgecolors="k")
            axis.set_xscale("log")
            axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.xaxis.set_major_formatter("{x:g}")
            axis.xaxis.set_minor_formatter(NullFormatter())
        left.set_xlabel("net calls of an example")
        right.set_xlabel("CPU-milliseconds of an example")
        left.set_ylabel("share right")
        left.set_title("Ringed: nothing is better for as few net calls", fontsize=10)
        right.legend(fontsize=8, loc="lower right")

    _save(path, (11.0, 4.8), draw)


def _reliability(axis: "Axes", found: Calibration, name: str) -> None:
    axis.plot([0, 1], [0, 1], color=_QUIET, ls="--", lw=1)
    bins = [one for one in found.bins if one.exact_accuracy.value is not None]
    x = [one.mean_probability for one in bins]
    _points(axis, x, [one.exact_accuracy for one in bins], _FIRST)
    axis.set_ylim(-0.02, 1.02)
    axis.set_xlim(-0.02, 1.02)
    axis.set_ylabel("share exactly right")
    axis.set_title(f"{name}: ECE {_number(found.ece)}, AUROC {_number(found.auroc)}", fontsize=10)


def _depth(axis: "Axes", difficulty: Difficulty) -> None:
    places = list(range(len(difficulty.bins)))
    _points(axis, places, [one.mean_supervision_steps for one in difficulty.bins], _FIRST)
    axis.set_xticks(places, [_range(one.low, one.high) for one in difficulty.bins], fontsize=8)
    axis.set_xlabel(f"difficulty: {difficulty.rating_kind}", fontsize=8)
    axis.set_ylabel("mean supervision steps, adaptive")
    axis.set_title(f"Thinking time against difficulty: Spearman {_number(difficulty.spearman)}", fontsize=10)
    axis.margins(x=0.15)


def _band(axis: "Axes", x: list[int], estimates: list[Estimate], label: str, colour: str) -> None:
    values, low, high = _columns(estimates)
    axis.plot(x, values, color=colour, marker="o", markersize=4, label=label)
    axis.fill_between(x, low, high, color=colour, alpha=0.2, lw=0)


def _points(axis: "Axes", x: list[Any], estimates: list[Estimate], colour: str) -> None:
    values, low, high = _columns(estimates)
    # Wilson's interval may end at the value itself, and rounding may put it beyond.
    spread = np.maximum(np.stack([values - low, high - values]), 0)
    axis.errorbar(x, values, yerr=spread, color=colour, marker="o", markersize=4, capsize=3, lw=1.2)
    axis.grid(alpha=0.25)


def _columns(estimates: list[Estimate]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return values and ends of intervals; what is not defined is NaN and leaves a gap."""
    rows = [(one.value, one.ci_low, one.ci_high) for one in estimates]
    values, low, high = np.array(rows, dtype=float).reshape(-1, 3).T
    return values, low, high


def _share(share: float) -> str:
    return "" if share == 0 else f"{100 * share:.0f}" if share >= 0.01 else "<1"


def _number(estimate: Estimate) -> str:
    return "not defined" if estimate.value is None else f"{estimate.value:.3f}"


def _range(low: float, high: float) -> str:
    return f"{low:g}" if low == high else f"{low:g}\u2013{high:g}"


def _save(path: Path, size: tuple[float, float], draw: Callable[["Figure"], None]) -> None:
    """Write the picture that `draw` makes, whole or not at all."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # a second to import, for pictures only
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    draw(figure)
    partial = path.with_name(f".{path.name}.partial")
    try:
        figure.savefig(partial, dpi=_DPI, format="png")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
