"""The table of a sweep: a row a job, and means over seeds and folds by configuration. No number of the test split."""

import csv
import io
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from titans_trm.sweeps.folder import DONE, Job, Result, SweepFolder
from titans_trm.sweeps.space import REPLICATES, split_override
from titans_trm.training.run_folder import write_text
from titans_trm.training.sweep_config import METRICS, lower_is_better

_MOST_ROWS = 50  # of a table in Markdown; the CSV has all


@dataclass(frozen=True)
class Group:
    """Jobs that differ only in what repeats a configuration."""

    words: tuple[str, ...]  # the overrides that tell it from other groups
    results: list[Result]
    values: list[float]  # of the jobs that were done

    @property
    def mean(self) -> float | None:
        """Mean of the values."""
        return fmean(self.values) if self.values else None

    @property
    def std(self) -> float | None:
        """Standard deviation of the sample (n - 1), from two values on."""
        return stdev(self.values) if len(self.values) > 1 else None

    @property
    def name(self) -> str:
        """What is shown for it."""
        return " ".join(self.words) or "all jobs"


@dataclass(frozen=True)
class Table:
    """All jobs of a sweep and what they are compared by."""

    results: list[Result]
    metric: str  # val/<name>
    command: str
    keys: list[str]  # that vary, in the order they were typed
    groups: list[Group]  # best first, those without a result last

    def varying(self, job: Job) -> list[str]:
        """Return the job's overrides of the keys that vary."""
        return [word for word in job.overrides if split_override(word)[0] in self.keys]

    @property
    def best(self) -> Group | None:
        """The group with the best mean, if any job was done."""
        return self.groups[0] if self.groups and self.groups[0].values else None

    def headline(self) -> str:
        """Return on one line how many jobs ended how, and the best."""
        counts = {status: sum(r.status == status for r in self.results) for status in _order(self.results)}
        told = ", ".join(f"{count} {status}" for status, count in counts.items())
        line = f"{len(self.results)} jobs: {told}" if self.results else "no jobs"
        return line if self.best is None else f"{line}; best {self.metric} {_spread(self.best)} with {self.best.name}"


def tabulate(results: Sequence[Result], metric: str, command: str, axes: Sequence[str]) -> Table:
    """Return the table of `results`.

    Args:
        results: all jobs, by number.
        metric: val/<name> to compare by.
        command: what was typed.
        axes: keys that were asked to vary; others that differ between jobs are added.
    """
    words = [dict(split_override(word) for word in result.job.overrides) for result in results]
    every = dict.fromkeys([*axes, *(key for one in words for key in one)])
    keys = [key for key in every if key in axes or len({one.get(key) for one in words}) > 1]
    by_words: dict[tuple[str, ...], list[Result]] = {}
    for result, one in zip(results, words, strict=True):
        own = tuple(f"{key}={one[key]}" for key in keys if key in one and key.lstrip("+") not in REPLICATES)
        by_words.setdefault(own, []).append(result)
    groups = []
    for own, members in by_words.items():
        values = [result.value(metric) for result in members if result.status in DONE and result.status != "pruned"]
        groups.append(Group(own, members, [value for value in values if value is not None]))
    sign = 1.0 if lower_is_better(metric) else -1.0
    groups.sort(key=lambda group: (group.mean is None, sign * (group.mean or 0.0)))
    return Table(list(results), metric, command, keys, groups)


def write_table(folder: SweepFolder, table: Table, kind: str) -> None:
    """Write `sweep_summary.csv`, `.md` and, once there is a value, `.png`."""
    write_text(folder.csv, to_csv(table, folder))
    write_text(folder.markdown, to_markdown(table, folder, kind))
    if any(result.value(table.metric) is not None for result in table.results):
        from titans_trm.sweeps.plot import draw_search, draw_table  # Matplotlib takes a second

        (draw_search if kind == "optuna" else draw_table)(table, folder.picture)


def to_csv(table: Table, folder: SweepFolder) -> str:
    """Return one row a job: number, status, what varies, validation metrics, cost, folder, error."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    metrics = [name for name in METRICS if any(name in (r.summary.get("val") or {}) for r in table.results)]
    costs = ("parameters", "global_step", "wall_seconds", "peak_memory_bytes")
    writer.writerow(
        ["job", "status", *table.keys, *(f"val/{name}" for name in metrics), *costs, "run_dir", "error"],
    )
    for result in table.results:
        words = dict(split_override(word) for word in result.job.overrides)
        val = (result.summary.get("val") or {}) if result.status != "failed" else {}
        writer.writerow(
            [
                *(result.job.number, result.status),
                *(words.get(key, "") for key in table.keys),
                *(val.get(name, "") for name in metrics),
                *(result.summary.get(name, "") for name in costs),
                *(str(folder.path / str(result.job.number)), result.error),
            ]
        )
    return text.getvalue()


def to_markdown(table: Table, folder: SweepFolder, kind: str) -> str:
    """Return the report: the best, the groups with mean and spread, failures, all jobs."""
    better = "lower" if lower_is_better(table.metric) else "higher"
    lines = [
        f"# Sweep {folder.path.name}",
        "",
        f"    {table.command}",
        "",
        f"{table.headline()}. Jobs are compared by `{table.metric}` ({better} is better), on the validation split.",
        "",
    ]
    lines += _best_lines(table, folder, kind)
    repeated = [key for key in table.keys if key.lstrip("+") in REPLICATES]
    if repeated:
        lines += ["", f"## By configuration: mean ± standard deviation over {' and '.join(repeated)}", ""]
        rows = [[f"`{g.name}`", f"{len(g.values)} of {len(g.results)}", *_group_cells(g)] for g in table.groups]
        lines += _rows(["configuration", "done", table.metric, "lowest", "highest"], rows)
    failed = [result for result in table.results if result.status == "failed"]
    if failed:
        lines += ["", "## Failures", ""]
        lines += [f"- job {r.job.number} (`{' '.join(table.varying(r.job))}`): {r.error}" for r in failed]
    lines += ["", "## Jobs", ""]
    lines += _rows(["job", "status", *table.keys, table.metric, "steps", "minutes"], _job_cells(table))
    if len(table.results) > _MOST_ROWS:
        lines += ["", f"The best {_MOST_ROWS} of {len(table.results)} jobs; `{folder.csv.name}` has all."]
    return "\n".join(lines) + "\n"


def _best_lines(table: Table, folder: SweepFolder, kind: str) -> list[str]:
    best = table.best
    if best is None:
        return ["No job has a result yet."]
    lines = [f"Best: `{best.name}`, {table.metric} {_spread(best)}."]
    if kind == "optuna":
        words = [word for word in best.results[0].job.overrides if not word.startswith("seed=")]
        lines += [
            "The best of many trials is partly the luckiest. Train it again with new seeds before you believe it:",
            "",
            f"    python train.py -m {shlex.join(words)} seed=1,2,3",
        ]
    else:
        lines += ["", f"    python evaluate.py run={folder.path / str(_best_result(table, best).job.number)}"]
    return lines


def _best_result(table: Table, group: Group) -> Result:
    sign = 1.0 if lower_is_better(table.metric) else -1.0
    valued = [(result.value(table.metric), result) for result in group.results if result.status in DONE]
    return min(((sign * value, result.job.number, result) for value, result in valued if value is not None))[2]


def _job_cells(table: Table) -> list[list[str]]:
    """Return a row a job; where there are too many, the best first and the others left out."""
    shown = table.results
    if len(shown) > _MOST_ROWS:
        shown = [result for group in table.groups for result in group.results][:_MOST_ROWS]
    rows = []
    for result in shown:
        words = dict(split_override(word) for word in result.job.overrides)
        seconds = result.summary.get("wall_seconds")
        rows.append(
            [
                *(str(result.job.number), result.status),
                *(words.get(key, "") for key in table.keys),
                _shown(result.value(table.metric)),
                str(result.summary.get("global_step", "")),
                "" if seconds is None else f"{seconds / 60:.1f}",
            ]
        )
    return rows


def _group_cells(group: Group) -> list[str]:
    ends = (min(group.values), max(group.values)) if group.values else (None, None)
    return [_spread(group), *map(_shown, ends)]


def _spread(group: Group) -> str:
    if group.std is None:
        return _shown(group.mean)
    return f"{_shown(group.mean)} ± {group.std:.2g}"


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _rows(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    return [*lines, *(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows)]


def _order(results: Sequence[Result]) -> list[str]:
    known = ("completed", "stopped", "pruned", "failed", "interrupted", "running", "waiting")
    return [status for status in known if any(result.status == status for result in results)]
