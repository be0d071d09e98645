"""The sections on how the run went: learning curves and what the diagnostics said."""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

from titans_trm.evaluation.html.charts import Series, legend, line_chart
from titans_trm.evaluation.html.page import Html, facts, figure, missing, section, table, tag
from titans_trm.evaluation.statistics import wilson_interval

Columns = Mapping[str, Sequence[Any]]

_STEP = "optimiser step"
_MOST_EVENTS = 200  # listed one by one
_SEVERITIES = {"info": "muted", "warn": "warn", "error": "bad", "fatal": "bad"}


def curves(metrics: Columns) -> Html:
    """Return the learning curves of `metrics.csv`."""
    if not metrics.get("step"):
        return section("curves", "How it learned", missing("There are no metrics yet. They come with", "train.py"))
    loss = [
        _series(metrics, "train", "cross_entropy", "train, cross-entropy", 0),
        _series(metrics, "train", "halting_loss", "train, halting", 2),
        _series(metrics, "val", "cross_entropy", "validation, cross-entropy", 1, markers=True),
    ]
    accuracy = [
        _series(metrics, "train", "exact_accuracy", "train, as examples finish", 0),
        _with_interval(metrics),
        _series(
            metrics, "val", "exact_accuracy_adaptive", "validation, halting by itself", 3, markers=True, dashed=True
        ),
    ]
    depth = [
        _series(metrics, "train", "mean_supervision_steps", "train", 0),
        _series(metrics, "val", "mean_supervision_steps_adaptive", "validation", 1, markers=True),
    ]
    spread = [_series(metrics, "train", "halting_std", "train", 2)]
    rate = [_series(metrics, "train", "learning_rate", "learning rate", 0)]
    norm = [_series(metrics, "train", "grad_norm", "gradient norm before clipping", 0)]
    charts = [
        figure(line_chart(loss, x_label=_STEP, y_label="loss", log=True), "Loss, nats per cell", legend(loss)),
        figure(
            line_chart(accuracy, x_label=_STEP, y_label="exact accuracy", y_range=(0, 1), percent=True),
            "Exactly right",
            legend(accuracy),
        ),
        figure(
            line_chart(depth, x_label=_STEP, y_label="steps"),
            "Supervision steps until the example halts",
            legend(depth),
        ),
        figure(
            line_chart(spread, x_label=_STEP, y_label="standard deviation"),
            "Spread of halting logits",
            note="near zero while puzzles are still unsolved: a collapsed halting head",
        ),
        figure(line_chart(rate, x_label=_STEP, y_label="learning rate"), "Learning rate of the first group"),
        figure(line_chart(norm, x_label=_STEP, y_label="norm", log=True), "Gradient norm before clipping"),
    ]
    lead = (
        "Training values are means over the examples that finished since the row before, with raw weights; validation "
        "is of the averaged weights on a fixed subset, with 95 % Wilson intervals."
    )
    return section("curves", "How it learned", tag("div", *charts, class_="charts"), lead=lead)


def diagnostics(events: Sequence[Mapping[str, Any]]) -> Html:
    """Return what the rules said during training, worst first in the summary, in order in the list."""
    if not events:
        text = "No rule raised an event in this run, or diagnostics were off."
        return section("diagnostics", "Diagnostics", tag("p", text, class_="muted"))
    counts = {name: sum(event.get("severity") == name for event in events) for name in reversed(_SEVERITIES)}
    summary = {name: f"{count:,}" for name, count in counts.items() if count}
    rows = [
        [
            event.get("step"),
            tag("span", event.get("severity", ""), class_=_SEVERITIES.get(str(event.get("severity")), "muted")),
            event.get("rule", ""),
            event.get("event", ""),
            event.get("message") or event.get("evidence") or "",
        ]
        for event in events[:_MOST_EVENTS]
    ]
    listed = table(["step", "severity", "rule", "event", "what was seen"], rows)
    more = tag("p", f"… and {len(events) - _MOST_EVENTS:,} more in diagnostics/events.jsonl.", class_="muted")
    return section(
        "diagnostics",
        "Diagnostics",
        facts(summary),
        tag("details", tag("summary", f"{len(events):,} events"), listed, open="" if len(events) <= 20 else None),
        more if len(events) > _MOST_EVENTS else "",
    )


def _series(
    metrics: Columns, split: str, name: str, label: str, colour: int, *, markers: bool = False, dashed: bool = False
) -> Series:
    pairs = [
        (step, value)
        for step, of, value in zip(metrics["step"], metrics["split"], metrics.get(name, []), strict=False)
        if of == split and value is not None and isfinite(value)
    ]
    return Series(label, [x for x, _ in pairs], [y for _, y in pairs], colour, markers=markers, dashed=dashed)


def _with_interval(metrics: Columns) -> Series:
    """Return validation accuracy with the interval that its number of examples gives."""
    if "num_examples" not in metrics:
        return _series(metrics, "val", "exact_accuracy", "validation", 1, markers=True)
    columns = (metrics[name] for name in ("step", "split", "exact_accuracy", "num_examples"))
    points = [(x, y, n) for x, of, y, n in zip(*columns, strict=True) if of == "val" and y is not None and n]
    ends = [wilson_interval(min(max(y * n, 0.0), n), round(n)) for _, y, n in points]
    return Series(
        "validation, 95 % interval",
        [x for x, _, _ in points],
        [y for _, y, _ in points],
        1,
        low=[low for low, _ in ends],
        high=[high for _, high in ends],
        markers=True,
    )
