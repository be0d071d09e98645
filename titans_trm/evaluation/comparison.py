"""Runs side by side: mean and spread over seeds, intervals, and whether differences from the first one are real."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from titans_trm.evaluation.resampling import Intervals
from titans_trm.evaluation.results import Estimate
from titans_trm.evaluation.significance import (
    holm,
    mcnemar_test,
    paired_bootstrap,
    paired_t_test,
    seed_interval,
    wilcoxon_test,
)

# Metrics that are means over examples -> their array in <split>_examples.npz; only these can be paired by example.
BY_EXAMPLE = {
    "exact_accuracy": "exact",
    "exact_accuracy_adaptive": "adaptive_exact",
    "valid_optimal": "valid",
    "token_accuracy": "token_accuracy",
    "cross_entropy": "cross_entropy",
    "mean_supervision_steps": "steps",
}
_DPI = 120
_SEED, _ROW, _BASE = "#9a9a9a", "#1f77b4", "#d95f02"  # told apart by colour-blind readers as well


@dataclass(frozen=True, kw_only=True)
class Scored:
    """One evaluated run."""

    path: str
    seed: int
    estimate: Estimate  # of the metric compared
    examples_sha256: str  # what it was evaluated on
    keys: Sequence[str]  # canonical group of each example
    values: NDArray[np.float64] | None  # (n,) the metric by example; None where it has no such form


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A row minus the first row."""

    value: float  # of the means over seeds
    by_example: Estimate | None  # same trained models, other examples: paired bootstrap by group; null if not paired
    p_by_example: float | None  # that it is 0
    p_by_example_holm: float | None  # corrected for all rows of the table
    p_mcnemar: float | None  # exact; one run a side and a metric of right and wrong
    p_by_seed: float | None  # models trained anew: paired t-test over the seeds both have; null below two
    p_by_seed_holm: float | None
    p_wilcoxon: float | None  # over the same seeds; cannot get small with few
    shared_seeds: int


@dataclass(frozen=True, kw_only=True)
class Row:
    """Runs that differ in their seed only."""

    name: str
    runs: list[str]
    seeds: list[int]
    values: list[float]
    mean: float
    std: float | None  # over seeds, n - 1 in the denominator; null for one seed
    interval: Estimate  # several seeds: of the mean over seeds (Student); one seed: over its examples
    difference: Difference | None  # null for the first row


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The table."""

    split: str
    metric: str
    confidence: float
    rows: list[Row]
    notes: list[str]  # what could not be compared, and why


def compare_groups(
    groups: Mapping[str, Sequence[Scored]], *, split: str, metric: str, confidence: float = 0.95, seed: int = 0
) -> Comparison:
    """Return the table of groups of runs; the first group is what the others are compared with.

    Args:
        groups: name -> its runs, one for each seed.
        split: that was evaluated.
        metric: that is compared.
        confidence: level of the intervals.
        seed: of the resamples.
    """
    rows: list[Row] = []
    notes: list[str] = []
    first = next(iter(groups.values()))
    for name, runs in groups.items():
        row = _row(name, runs, confidence)
        if rows:
            row = replace(row, difference=_difference(name, runs, first, confidence, seed, metric, notes))
        rows.append(row)
    return Comparison(split=split, metric=metric, confidence=confidence, rows=_corrected(rows), notes=notes)


def comparison_csv(table: Comparison) -> str:
    """Return one line per run, long form: what other programs read."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["name", "run", "seed", "split", table.metric])
    for row in table.rows:
        for path, seed, value in zip(row.runs, row.seeds, row.values, strict=True):
            writer.writerow([row.name, path, seed, table.split, f"{value:.6g}"])
    return text.getvalue()


def table_cells(table: Comparison) -> tuple[list[str], list[list[str]]]:
    """Return the head and the rows of the table as texts, for the screen and for Markdown."""
    level = f"{100 * table.confidence:g} %"
    head = ["run", "seeds", "mean ± std", level, "difference", level, "p examples", "p seeds"]
    return head, [_cells(row) for row in table.rows]


def comparison_markdown(table: Comparison) -> str:
    """Return the table and its notes as Markdown."""
    head, rows = table_cells(table)
    lines = [f"| {' | '.join(head)} |", "|---|" + "---:|" * (len(head) - 1)]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([*lines, "", *(f"- {note}" for note in table.notes)]).rstrip() + "\n"


def draw_comparison(table: Comparison, path: Path) -> None:
    """Draw each row's seeds, mean and interval, the first row's mean as a line."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # a second to import, for this picture only
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 1.4 + 0.5 * len(table.rows)), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    for place, row in enumerate(table.rows):
        colour = _BASE if place == 0 else _ROW
        axis.plot(row.values, [place] * len(row.values), "o", color=_SEED, markersize=4, zorder=1)
        low, high = row.interval.ci_low, row.interval.ci_high
        if low is not None and high is not None:
            axis.plot([low, high], [place, place], color=colour, lw=2, zorder=2)
        axis.plot([row.mean], [place], "D", color=colour, markersize=6, zorder=3)
    axis.axvline(table.rows[0].mean, color=_BASE, lw=0.8, ls="--", zorder=0)
    axis.set_yticks(range(len(table.rows)), [row.name for row in table.rows])
    axis.set_ylim(len(table.rows) - 0.4, -0.6)
    axis.set_xlabel(f"{table.metric} on {table.split}: mean, {100 * table.confidence:g} % interval, seeds in grey")
    axis.grid(axis="x", alpha=0.25)
    figure.savefig(path, dpi=_DPI, format="png")


def _row(name: str, runs: Sequence[Scored], confidence: float) -> Row:
    ordered = sorted(runs, key=lambda run: run.seed)
    values = [float(run.estimate.value) for run in ordered if run.estimate.value is not None]
    return Row(
        name=name,
        runs=[run.path for run in ordered],
        seeds=[run.seed for run in ordered],
        values=values,
        mean=float(np.mean(values)),
        std=float(np.std(values, ddof=1)) if len(values) > 1 else None,
        interval=seed_interval(values, confidence) if len(values) > 1 else ordered[0].estimate,
        difference=None,
    )


def _difference(
    name: str,
    runs: Sequence[Scored],
    first: Sequence[Scored],
    confidence: float,
    seed: int,
    metric: str,
    notes: list[str],
) -> Difference:
    """Compare `runs` with `first` by example and by seed; add to `notes` what is not possible."""
    mine, theirs = ({run.seed: run for run in group} for group in (runs, first))
    shared = sorted(set(mine) & set(theirs))
    pairs = [[float(group[one].estimate.value or 0.0) for one in shared] for group in (mine, theirs)]
    by_example, p_by_example, p_mcnemar = None, None, None
    if len({run.examples_sha256 for run in (*runs, *first)}) > 1:
        notes.append(f"{name}: evaluated on other examples than the first row, so examples are not paired.")
    elif any(run.values is None for run in (*runs, *first)):
        notes.append(f"{name}: {metric} is not a mean over examples, so examples are not paired.")
    else:
        intervals = Intervals(first[0].keys, confidence=confidence, seed=seed)
        one, other = (
            np.mean([run.values for run in group if run.values is not None], axis=0) for group in (runs, first)
        )
        by_example, p_by_example = paired_bootstrap(one, other, intervals)
        if len(runs) == len(first) == 1 and set(np.unique([one, other])) <= {0.0, 1.0}:
            p_mcnemar = mcnemar_test(one > 0.5, other > 0.5)
    means = [float(np.mean([run.estimate.value for run in group])) for group in (runs, first)]
    return Difference(
        value=means[0] - means[1],
        by_example=by_example,
        p_by_example=p_by_example,
        p_by_example_holm=None,
        p_mcnemar=p_mcnemar,
        p_by_seed=paired_t_test(*pairs) if len(shared) > 1 else None,
        p_by_seed_holm=None,
        p_wilcoxon=wilcoxon_test(*pairs) if len(shared) > 1 else None,
        shared_seeds=len(shared),
    )


def _corrected(rows: list[Row]) -> list[Row]:
    """Return the rows with p values corrected for their number, by example and by seed."""
    found = {row.name: row.difference for row in rows if row.difference is not None}
    by_example = holm({name: one.p_by_example for name, one in found.items() if one.p_by_example is not None})
    by_seed = holm({name: one.p_by_seed for name, one in found.items() if one.p_by_seed is not None})
    return [
        row
        if row.difference is None
        else replace(
            row,
            difference=replace(
                row.difference,
                p_by_example_holm=by_example.get(row.name),
                p_by_seed_holm=by_seed.get(row.name),
            ),
        )
        for row in rows
    ]


def _cells(row: Row) -> list[str]:
    spread = "" if row.std is None else f" ± {row.std:.3f}"
    cells = [row.name, ",".join(map(str, row.seeds)), f"{row.mean:.3f}{spread}", _range(row.interval)]
    one = row.difference
    if one is None:
        return [*cells, "", "", "", ""]
    paired = _range(one.by_example) if one.by_example else "-"
    return [*cells, f"{one.value:+.3f}", paired, _p(one.p_by_example_holm), _p(one.p_by_seed_holm)]


def _range(estimate: Estimate) -> str:
    if estimate.ci_low is None or estimate.ci_high is None:
        return "-"
    return f"{estimate.ci_low:.3f} to {estimate.ci_high:.3f}"


def _p(value: float | None) -> str:
    return "-" if value is None else "<0.001" if value < 0.001 else f"{value:.3f}"
