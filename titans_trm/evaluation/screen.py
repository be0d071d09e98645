"""An evaluation on the screen: what a person wants to know first, in tables."""

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from titans_trm.evaluation.criteria import Verdict
from titans_trm.evaluation.results import Estimate, Evaluation

_FEW = 12  # supervision steps shown; of more, some are left out


def show(result: Evaluation, verdict: Verdict | None, console: Console | None = None) -> None:
    """Print metrics, halting, steps, slices, calibration and criteria."""
    console = console or Console()
    level = f"{100 * result.confidence:g} % interval"
    about = f"{result.n:,} examples in {result.groups:,} groups, {result.weights} weights of {result.checkpoint}"
    console.print(f"[bold]{result.run}: {result.split}[/], {about}", soft_wrap=True, highlight=False)
    for table in (
        _metrics(result, level),
        _halting(result, level),
        _steps(result),
        _slices(result, level),
        _knowing(result, level),
        _criteria(verdict),
    ):
        if table is not None and table.row_count:
            console.print(table)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, caption_justify="left")
    table.add_column(columns[0])
    for column in columns[1:]:
        table.add_column(column, justify="right")
    return table


def _metrics(result: Evaluation, level: str) -> Table:
    table = _table("metrics, all supervision steps", "metric", "value", level)
    for name, estimate in result.metrics.items():
        table.add_row(name, _value(estimate), _interval(estimate))
    for name, value in result.baselines.items():
        table.add_row(f"[dim]token_accuracy of {name}[/]", f"[dim]{value:.4f}[/]", "")
    return table


def _halting(result: Evaluation, level: str) -> Table:
    table = _table("halting", "mode", "exact_accuracy", level, "steps", "net calls", "examples/s")
    for mode, one in result.halting.items():
        table.add_row(
            mode,
            _value(one.exact_accuracy),
            _interval(one.exact_accuracy),
            f"{one.mean_supervision_steps:.2f}",
            f"{one.net_calls:,}",
            f"{one.examples_per_second:.1f}",
        )
    gain, caption = result.halting_gain, []
    if gain is not None:
        caption.append(
            f"adaptive - full {_value(gain.exact_accuracy_difference)} [{_interval(gain.exact_accuracy_difference)}]; "
            f"{gain.only_full_right} examples lost, {gain.only_adaptive_right} won, McNemar p {gain.mcnemar_p:.2g}; "
            f"{gain.net_calls_ratio:.2f} times fewer net calls, {gain.time_ratio:.2f} times the speed"
        )
    if result.halting_probability != 0.5:
        caption.append(
            f"adaptive: an example stops when its halting probability is above {result.halting_probability:g}"
        )
    for mode, latency in (("full", result.cost.latency_full_ms), ("adaptive", result.cost.latency_adaptive_ms)):
        if latency is not None:
            caption.append(
                f"one example alone, {mode}: {latency.p50:.0f} ms, 95th percentile {latency.p95:.0f} ms "
                f"({latency.repeats} timed)"
            )
    table.caption = "\n".join(caption)
    return table


def _steps(result: Evaluation) -> Table:
    table = _table("after each supervision step", "step", "exact_accuracy", "token_accuracy", "halted by then")
    stride = -(-len(result.steps) // _FEW)
    for one in result.steps[::-1][::stride][::-1]:  # the last one always
        table.add_row(
            str(one.step), _value(one.exact_accuracy), _value(one.token_accuracy), f"{100 * one.share_halted:.1f} %"
        )
    return table


def _slices(result: Evaluation, level: str) -> Table:
    table = _table("slices", "by", "range", "n", "exact_accuracy", level, "steps")
    for one in result.slices:
        table.add_row(
            one.by,
            f"{one.low:g} to {one.high:g}",
            f"{one.n:,}",
            _value(one.exact_accuracy),
            _interval(one.exact_accuracy),
            _value(one.mean_supervision_steps),
        )
    return table


def _knowing(result: Evaluation, level: str) -> Table:
    table = _table("does it know?", "halting head", "value", level)
    for scope, one in result.calibration.items():
        for name in ("ece", "auroc", "brier"):
            estimate = getattr(one, name)
            table.add_row(f"{name}, {scope.replace('_', ' ')}", _value(estimate), _interval(estimate))
    spearman = result.difficulty.spearman
    table.add_row("Spearman of depth and rating", _value(spearman), _interval(spearman))
    if result.confusion.most_confused:
        pairs = [f"{one.target} for {one.answered} {one.count}" for one in result.confusion.most_confused[:3]]
        table.caption = "most confused (target for answer, times): " + ", ".join(pairs)
    return table


def _criteria(verdict: Verdict | None) -> Table | None:
    if verdict is None:
        return None
    table = _table(f"criteria: {verdict.name}", "rule", "value", "interval", "met")
    for one in verdict.criteria:
        estimate = Estimate(value=one.value, ci_low=one.ci_low, ci_high=one.ci_high, method="none")
        word = {True: "[green]yes[/]", False: "[red]no[/]", None: one.note or "-"}[one.ok]
        sure = {True: "", False: ", not certain", None: ""}[one.certain]
        table.add_row(one.rule, _value(estimate), _interval(estimate), word + sure)
    return table


def _value(estimate: Estimate) -> str:
    return (
        "-"
        if estimate.value is None
        else f"{estimate.value:.4f}"
        if abs(estimate.value) < 1e3
        else f"{estimate.value:,.0f}"
    )


def _interval(estimate: Estimate) -> str:
    if estimate.ci_low is None or estimate.ci_high is None:
        return ""
    return f"{estimate.ci_low:.4f} to {estimate.ci_high:.4f}"
