"""`curves.png`: the learning curves of a run, drawn from its `metrics.csv`."""

import logging
import os
import time
from math import isfinite, log
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning
from lightning.pytorch.callbacks import Callback

from titans_trm.data.spec import Headline
from titans_trm.evaluation.statistics import wilson_interval
from titans_trm.training.callbacks.metrics_csv import read_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes

logger = logging.getLogger(__name__)

Columns = dict[str, list[Any]]
Points = tuple[list[float], list[float]]

_TRAIN, _VAL, _OTHER = "#1f77b4", "#d95f02", "#7a7a7a"  # told apart by colour-blind readers as well
_SMOOTHING_POINTS = 60  # a curve with more points gets a running mean on top
_SIZE = (11.0, 7.5)  # inches
_DPI = 110
_LEGEND_ROOM = 1.25  # height of a panel with two axes, in heights of its curves


class LearningCurves(Callback):
    """Draw the curves at the end of validations and when training ends, for whatever reason.

    Args:
        csv_path: the run's `metrics.csv`.
        png_path: the picture.
        title: above the picture.
        every_seconds: least time between two drawings; one takes about a second.
        headline: the task's metric, drawn beside or in place of exact accuracy.
    """

    def __init__(
        self,
        csv_path: str | Path,
        png_path: str | Path,
        *,
        title: str = "Learning curves",
        every_seconds: float = 60.0,
        headline: Headline = "exact_accuracy",
    ) -> None:
        self.csv_path = Path(csv_path)
        self.png_path = Path(png_path)
        self.title = title
        self.every_seconds = every_seconds
        self.headline = headline
        self._drawn_at = -float("inf")

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Draw, unless that was done a short time ago."""
        if not trainer.sanity_checking and time.monotonic() - self._drawn_at >= self.every_seconds:
            self._draw(trainer)

    def on_fit_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Draw the whole run."""
        self._draw(trainer)

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        """Draw what there is of a run that was stopped or failed."""
        self._draw(trainer)

    def _draw(self, trainer: lightning.Trainer) -> None:
        if not trainer.is_global_zero or not self.csv_path.is_file():
            return
        try:
            draw_curves(self.csv_path, self.png_path, self.title, self.headline)
        except OSError as error:  # a picture is not worth a run
            logger.warning("%s could not be written: %s", self.png_path, error)
        self._drawn_at = time.monotonic()


def draw_curves(
    csv_path: str | Path,
    png_path: str | Path,
    title: str = "Learning curves",
    headline: Headline = "exact_accuracy",
) -> None:
    """Draw losses, accuracy with intervals, depth and halting, rate and speed over the steps of `csv_path`.

    `headline` is the task's metric: bits per byte take the place of accuracy, other ones are drawn beside it.

    Raises:
        InputError: `csv_path` is missing or not a metrics file.
    """
    # Takes a second, and only this function needs it. No pyplot: its global state is not for libraries.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = read_metrics(csv_path)
    figure = Figure(figsize=_SIZE, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 2, sharex=True)
    _draw_loss(axes[0, 0], columns)
    if headline == "bits_per_byte":
        _draw_bits(axes[0, 1], columns)
    else:
        _draw_accuracy(axes[0, 1], columns, headline)
    _draw_halting(axes[1, 0], columns)
    _draw_speed(axes[1, 1], columns)
    for axis in axes.flat:
        axis.grid(alpha=0.25)
    for axis in axes[1]:
        axis.set_xlabel("optimiser step (one supervision step of every slot)")
    figure.suptitle(title)
    target = Path(png_path)
    partial = target.with_name(f".{target.name}.partial")
    try:
        figure.savefig(partial, dpi=_DPI, format="png")
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def _draw_loss(axis: "Axes", columns: Columns) -> None:
    _line(axis, points(columns, "train", "loss"), "train, total", _TRAIN)
    _line(axis, points(columns, "train", "cross_entropy"), "train, cross-entropy", "#17a2a2")
    _line(axis, points(columns, "train", "halting_loss"), "train, halting", _OTHER)
    _line(axis, points(columns, "val", "cross_entropy", of_subset=True), "validation, cross-entropy", _VAL, marker="o")
    if axis.get_lines() and axis.dataLim.ymin > 0:
        axis.set_yscale("log")
    axis.set_title("Loss")
    axis.set_ylabel("loss (nats per cell)")
    _legend(axis)


def _draw_bits(axis: "Axes", columns: Columns) -> None:
    steps, nats = points(columns, "train", "cross_entropy")
    _line(axis, (steps, [value / log(2.0) for value in nats]), "train", _TRAIN)
    _line(axis, points(columns, "val", "bits_per_byte", of_subset=True), "validation", _VAL, marker="o")
    axis.set_title("Bits per byte")
    axis.set_ylabel("bits per byte")
    _legend(axis)


def _draw_accuracy(axis: "Axes", columns: Columns, headline: Headline) -> None:
    """Draw training as a line; validation with its interval, the subset as a line and larger sets as single points."""
    if headline != "exact_accuracy":
        label = {"token_accuracy": "share of scored tokens right", "valid_optimal": "share valid and optimal"}[headline]
        _line(axis, points(columns, "train", headline), f"train, {label}", "#17a2a2")
        data = points(columns, "val", headline, of_subset=True)
        _line(axis, data, f"validation, {label}", "#7b3294", marker="s")
    _line(axis, points(columns, "train", "exact_accuracy"), "train (mean of examples as they finish)", _TRAIN)
    steps, shares = points(columns, "val", "exact_accuracy")
    counts = points(columns, "val", "num_examples")[1]
    if len(counts) == len(steps):
        for index, count in enumerate(sorted(set(counts))):
            chosen = [(s, v) for s, v, n in zip(steps, shares, counts, strict=True) if n == count]
            _with_interval(axis, chosen, round(count), (_VAL, "#7b3294")[index > 0])
    else:
        _line(axis, (steps, shares), "validation", _VAL, marker="o")
    adaptive = points(columns, "val", "exact_accuracy_adaptive", of_subset=True)
    _line(axis, adaptive, "validation, adaptive halting", _OTHER, marker=".", style=":")
    axis.set_ylim(-0.02, 1.02)
    axis.set_title("Exact accuracy" if headline == "exact_accuracy" else "Accuracy")
    axis.set_ylabel("share of examples exactly right")
    _legend(axis)


def _with_interval(axis: "Axes", chosen: list[tuple[float, float]], count: int, colour: str) -> None:
    steps, shares = [s for s, _ in chosen], [v for _, v in chosen]
    bounds = [wilson_interval(share * count, count) for share in shares]
    label = f"validation, {count:,} examples, 95 % interval"
    if len(chosen) > 1:
        axis.plot(steps, shares, color=colour, marker="o", markersize=4, label=label)
        axis.fill_between(
            steps, [low for low, _ in bounds], [high for _, high in bounds], color=colour, alpha=0.2, lw=0
        )
    else:
        low, high = bounds[0]
        spread = [[max(shares[0] - low, 0.0)], [max(high - shares[0], 0.0)]]
        axis.errorbar(steps, shares, yerr=spread, color=colour, marker="D", capsize=4, label=label)


def _draw_halting(axis: "Axes", columns: Columns) -> None:
    _line(axis, points(columns, "train", "mean_supervision_steps"), "train, steps", _TRAIN)
    adaptive = points(columns, "val", "mean_supervision_steps_adaptive", of_subset=True)
    _line(axis, adaptive, "validation (adaptive), steps", _VAL, marker="o")
    axis.set_ylim(bottom=0)
    axis.set_title("Thinking and halting")
    axis.set_ylabel("mean supervision steps per example")
    right = axis.twinx()
    _line(right, points(columns, "train", "halting_std"), "train, std of halting logits (right)", _OTHER)
    right.set_ylim(bottom=0)
    right.set_ylabel("standard deviation of halting logits")
    _legend(axis, right)


def _draw_speed(axis: "Axes", columns: Columns) -> None:
    _line(axis, points(columns, "train", "learning_rate"), "learning rate", _TRAIN, smooth=False)
    axis.set_ylim(bottom=0)
    axis.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))
    axis.set_title("Learning rate and speed")
    axis.set_ylabel("learning rate")
    right = axis.twinx()
    _line(right, points(columns, "train", "examples_per_second"), "speed (right)", _OTHER)
    right.set_ylim(bottom=0)
    right.set_ylabel("examples finished per second")
    _legend(axis, right)


def points(columns: Columns, split: str, name: str, *, of_subset: bool = False) -> Points:
    """Return steps and finite values of metric `name` in the rows of `split`.

    `of_subset` leaves out validations of more examples than the smallest: a curve compares like with like.
    """
    counts = columns.get("num_examples", [])
    smallest = min((count for count in counts if count is not None), default=None)
    steps, values = [], []
    for step, of, value, count in zip(columns["step"], columns["split"], columns.get(name, []), counts, strict=False):
        if of == split and value is not None and isfinite(value) and not (of_subset and count != smallest):
            steps.append(step)
            values.append(value)
    return steps, values


def _line(
    axis: "Axes", data: Points, label: str, colour: str, *, marker: str = "", style: str = "-", smooth: bool = True
) -> None:
    steps, values = data
    if not values:
        return
    if smooth and not marker and len(values) > _SMOOTHING_POINTS:
        axis.plot(steps, values, color=colour, alpha=0.25, lw=0.8)
        values = _running_mean(values, len(values) // _SMOOTHING_POINTS)
    axis.plot(steps, values, style, color=colour, marker=marker, markersize=4, lw=1.4, label=label)


def _running_mean(values: list[float], width: int) -> list[float]:
    """Return the mean of each value and its up to `width` neighbours on either side."""
    windows = [values[max(0, i - width) : i + width + 1] for i in range(len(values))]
    return [sum(window) / len(window) for window in windows]


def _legend(axis: "Axes", *others: "Axes") -> None:
    """Put the curves of `axis` and of `others`, which share its frame, into one legend on top of them."""
    axes = (axis, *others)
    pairs = [pair for one in axes for pair in zip(*one.get_legend_handles_labels(), strict=True)]
    if not pairs:
        axis.text(0.5, 0.5, "no data yet", transform=axis.transAxes, ha="center", color=_OTHER)
        return
    place = "best"
    if others:  # `best` sees the curves of one axis only, so a free strip is made for the legend
        place = "upper center"
        for one in axes:
            one.set_ylim(top=one.get_ylim()[1] * _LEGEND_ROOM)
    handles, labels = zip(*pairs, strict=True)
    axes[-1].legend(handles, labels, fontsize=8, loc=place, ncols=len(axes))  # type: ignore[call-overload]
