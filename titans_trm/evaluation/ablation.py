"""The table of an ablation: rows trained with several seeds, each compared with one baseline over the same seeds."""

import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from titans_trm.evaluation.resampling import UNDEFINED
from titans_trm.evaluation.significance import holm, paired_t_test, seed_interval
from titans_trm.evaluation.statistics import wilson_interval

_DPI = 130
_SEED, _ROW, _BASE = "#9a9a9a", "#1f77b4", "#d95f02"  # told apart by colour-blind readers as well


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One finished run of a row; all runs are validated on the same examples."""

    row: str
    seed: int
    exact_accuracy: float  # all supervision steps
    exact_accuracy_adaptive: float
    mean_supervision_steps_adaptive: float
    num_examples: int
    parameters: int
    wall_seconds: float
    net_calls: float  # per example, all supervision steps


@dataclass(frozen=True, kw_only=True)
class AblationRow:
    """A row over its seeds.

    Intervals are of the mean over seeds (Student's t). Where there is one seed the interval is that of its validation
    (Wilson), which says nothing about other seeds.
    """

    row: str
    note: str  # what it changes
    seeds: list[int]
    values: list[float]  # exact accuracy of each seed
    mean: float
    std: float | None  # over seeds, n - 1 in the denominator; null for one seed
    ci_low: float
    ci_high: float
    difference: float | None  # from the baseline, mean over the seeds both have; null for the baseline itself
    difference_low: float | None  # null below two shared seeds
    difference_high: float | None
    p: float | None  # paired t-test over shared seeds; null below two
    p_holm: float | None  # corrected for the number of comparisons in the table (Holm 1979)
    exact_accuracy_adaptive: float  # mean over seeds, as the rest
    mean_supervision_steps_adaptive: float
    net_calls: float  # per example, all supervision steps
    parameters: int
    wall_seconds: float  # of one training


@dataclass(frozen=True)
class AblationTable:
    """All rows, in the order of the suite."""

    rows: list[AblationRow]
    baseline: str
    num_examples: int  # of one validation; the smallest where runs differ
    confidence: float

    def to_dict(self) -> dict[str, Any]:
        """Return the table as plain values."""
        return dataclasses.asdict(self)


def summarise(
    outcomes: Sequence[Outcome], baseline: str, notes: Mapping[str, str], *, confidence: float = 0.95
) -> AblationTable:
    """Return the table of `outcomes`.

    Args:
        outcomes: finished runs.
        baseline: row that every other one is compared with.
        notes: row -> what it changes, in the order of the table; rows without a finished run are left out.
        confidence: level of the intervals.

    Raises:
        ValueError: the baseline has no outcome.
    """
    by_row = {row: {o.seed: o for o in outcomes if o.row == row} for row in notes}
    if not by_row.get(baseline):
        raise ValueError(f"baseline={baseline} has no finished run; there is nothing to compare with.")
    rows = []
    for row, found in by_row.items():
        if found:
            base = {} if row == baseline else by_row[baseline]
            rows.append(_row(row, notes[row], found, base, confidence))
    corrected = holm({row.row: row.p for row in rows if row.p is not None})
    rows = [dataclasses.replace(row, p_holm=corrected.get(row.row)) for row in rows]
    return AblationTable(rows, baseline, min(o.num_examples for o in outcomes), confidence)


def to_csv(table: AblationTable) -> str:
    """Return one line per row and seed, long form: what other programs read."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["row", "seed", "exact_accuracy", "baseline"])
    for row in table.rows:
        for seed, value in zip(row.seeds, row.values, strict=True):
            writer.writerow([row.row, seed, f"{value:.6g}", table.baseline])
    return text.getvalue()


def to_markdown(table: AblationTable) -> str:
    """Return the table as Markdown, accuracies in percent."""
    level = f"{100 * table.confidence:g} %"
    head = [
        "row",
        "exact, % (mean ± std)",
        level,
        "against base, points",
        "p (Holm)",
        "adaptive, %",
        "steps",
        "net calls",
        "parameters",
        "minutes",
        "what changes",
    ]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    lines += [f"| {' | '.join(_cells(row))} |" for row in table.rows]
    return "\n".join(lines) + "\n"


def draw_ablation(table: AblationTable, path: Path, title: str) -> None:
    """Draw each row's seeds, mean and interval, best first, beside the baseline's interval."""
    # Takes a second, and only this function needs it.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = sorted(table.rows, key=lambda row: row.mean)
    figure = Figure(figsize=(8.0, 1.3 + 0.38 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    base = next(row for row in rows if row.row == table.baseline)
    axis.axvspan(100 * base.ci_low, 100 * base.ci_high, color=_BASE, alpha=0.12, lw=0)
    axis.axvline(100 * base.mean, color=_BASE, lw=1, alpha=0.6)
    for height, row in enumerate(rows):
        colour = _BASE if row is base else _ROW
        axis.plot([100 * row.ci_low, 100 * row.ci_high], [height, height], color=colour, lw=2, zorder=2)
        axis.plot(
            [100 * v for v in row.values], [height] * len(row.values), "o", color=_SEED, ms=4, alpha=0.8, zorder=3
        )
        axis.plot(100 * row.mean, height, "D", color=colour, ms=6, zorder=4)
    axis.set_yticks(range(len(rows)), [row.row.replace("_", " ") for row in rows])
    axis.set_xlim(-2, 102)
    what = f"dots: seeds; diamond and line: mean and {_interval_name(table)}"
    axis.set_xlabel(f"validation puzzles exactly right, %\n({what})")
    axis.grid(axis="x", alpha=0.25)
    axis.set_title(title)
    figure.savefig(path, dpi=_DPI, format="png")


def _row(
    name: str, note: str, found: Mapping[int, Outcome], base: Mapping[int, Outcome], confidence: float
) -> AblationRow:
    seeds = sorted(found)
    outcomes = [found[seed] for seed in seeds]
    values = [outcome.exact_accuracy for outcome in outcomes]
    shared = [seed for seed in seeds if seed in base]
    pairs = [[runs[seed].exact_accuracy for seed in shared] for runs in (found, base)]
    difference = (
        UNDEFINED
        if not shared
        else seed_interval([ours - theirs for ours, theirs in zip(*pairs, strict=True)], confidence)
    )
    over_seeds = seed_interval(values, confidence)
    low, high = over_seeds.ci_low, over_seeds.ci_high
    if low is None or high is None:
        count = outcomes[0].num_examples
        low, high = wilson_interval(min(values[0] * count, count), count, confidence)
    return AblationRow(
        row=name,
        note=note,
        seeds=seeds,
        values=values,
        mean=fmean(values),
        std=stdev(values) if len(values) > 1 else None,
        ci_low=max(low, 0.0),
        ci_high=min(high, 1.0),
        difference=difference.value,
        difference_low=difference.ci_low,
        difference_high=difference.ci_high,
        p=paired_t_test(*pairs),
        p_holm=None,
        exact_accuracy_adaptive=fmean(o.exact_accuracy_adaptive for o in outcomes),
        mean_supervision_steps_adaptive=fmean(o.mean_supervision_steps_adaptive for o in outcomes),
        net_calls=fmean(o.net_calls for o in outcomes),
        parameters=outcomes[0].parameters,
        wall_seconds=fmean(o.wall_seconds for o in outcomes),
    )


def _cells(row: AblationRow) -> list[str]:
    spread = "" if row.std is None else f" ± {100 * row.std:.1f}"
    difference = "" if row.difference is None else f"{100 * row.difference:+.1f}"
    if row.difference_low is not None and row.difference_high is not None:
        difference += f" [{100 * row.difference_low:+.1f}, {100 * row.difference_high:+.1f}]"
    return [
        f"`{row.row}`",
        f"{100 * row.mean:.1f}{spread}",
        f"{100 * row.ci_low:.1f} to {100 * row.ci_high:.1f}",
        difference,
        "" if row.p_holm is None else f"{row.p_holm:.3f}",
        f"{100 * row.exact_accuracy_adaptive:.1f}",
        f"{row.mean_supervision_steps_adaptive:.2f}",
        f"{row.net_calls:.0f}",
        f"{row.parameters:,}",
        f"{row.wall_seconds / 60:.1f}",
        row.note,
    ]


def _interval_name(table: AblationTable) -> str:
    kind = "t interval" if any(len(row.seeds) > 1 for row in table.rows) else "Wilson interval of one seed"
    return f"{100 * table.confidence:g} % {kind}"
