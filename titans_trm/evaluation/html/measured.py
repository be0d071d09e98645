"""The sections on what an evaluation measured: results, halting, calibration, confusion, robustness."""

from collections.abc import Mapping, Sequence
from typing import Any

from titans_trm.evaluation.criteria import Verdict
from titans_trm.evaluation.html.charts import Series, heat_table, interval_bar, legend, line_chart
from titans_trm.evaluation.html.page import Html, facts, figure, join, missing, section, table, tag
from titans_trm.evaluation.results import Calibration, Cost, Difficulty, Estimate, Evaluation, HaltingGain, Slice

# Metrics that are no shares: not in percent.
_NO_SHARES = {"cross_entropy", "perplexity", "bits_per_byte", "mean_supervision_steps", "difficulty_rmse"}
_SLICE_NAMES = {
    "difficulty": ("By difficulty", "rating"),
    "length": ("By length", "tokens"),
    "to_find": ("By cells to find", "cells"),
}
_SCOPES = {"every_step": "every supervision step", "last_step": "last supervision step"}
_MOST_CLASSES = 16  # of a confusion matrix drawn on the page


def results(evaluations: Sequence[Evaluation], verdicts: Sequence[Verdict], command: str) -> Html:
    """Return the metrics of every evaluated split, slices and cost of the first."""
    if not evaluations:
        return section("results", "Results", missing("This run was not evaluated yet:", command))
    first = evaluations[0]
    blocks: list[Html] = [_metrics(one) for one in evaluations]
    slices = [_slices(first.slices, by) for by in _SLICE_NAMES if any(one.by == by for one in first.slices)]
    blocks.append(tag("div", *slices, class_="charts"))
    blocks += [_verdict(one) for one in verdicts]
    blocks += [tag("h3", "Cost"), facts(_cost(first.cost)), tag("h3", "What was checked first"), facts(_guard(first))]
    lead = f"{first.weights.upper()} weights of {first.checkpoint} at step {first.global_step:,}; intervals at "
    lead += f"{100 * first.confidence:g} %, by groups of examples that are the same up to symmetry."
    return section("results", "Results", *blocks, lead=lead)


def halting(best: Evaluation | None, command: str) -> Html:
    """Return what more steps add, what halting by itself costs and saves, and depth against difficulty."""
    if best is None:
        return section("halting", "Thinking and halting", missing("This run was not evaluated yet:", command))
    charts = [_by_step(best)]
    if best.difficulty.bins:
        charts.append(_depth(best.difficulty))
    blocks = [tag("div", *charts, class_="charts"), tag("h3", "Full against adaptive"), _modes(best)]
    if best.halting_gain is not None:
        blocks.append(tag("p", _gain(best.halting_gain)))
    blocks += [tag("h3", "Depth as predicted difficulty"), facts(_difficulty(best.difficulty))]
    return section("halting", "Thinking and halting", *blocks)


def calibration(best: Evaluation | None, command: str) -> Html:
    """Return reliability diagrams of the halting head."""
    if best is None:
        return section("calibration", "Calibration", missing("This run was not evaluated yet:", command))
    charts = [_reliability(one) for one in best.calibration.values()]
    rows = [
        [_SCOPES[one.scope], f"{one.n:,}", _plain(one.ece), _plain(one.auroc), _plain(one.brier)]
        for one in best.calibration.values()
    ]
    scores = table(["pairs of", "n", "ECE (0 is best)", "AUROC (1 is best)", "Brier (0 is best)"], rows)
    lead = "Is the halting probability the chance of the answer being exactly right? On the dotted line it is."
    return section("calibration", "Calibration", tag("div", *charts, class_="charts"), scores, lead=lead)


def confusion(best: Evaluation | None, command: str) -> Html:
    """Return the confusion matrix and the scores of every class."""
    if best is None:
        return section("confusion", "Confusion", missing("This run was not evaluated yet:", command))
    found = best.confusion
    blocks: list[Html] = []
    labels = [one.label for one in found.classes]
    if found.matrix is not None and len(labels) <= _MOST_CLASSES:
        blocks.append(heat_table(labels, found.matrix, rows="target", columns="answer"))
    rows = [
        [one.label, f"{one.support:,}", percent(one.precision), percent(one.recall), percent(one.f1)]
        for one in found.classes[:100]
    ]
    listed = table(["token", "support", "precision", "recall", "F1"], rows)
    blocks.append(tag("details", tag("summary", f"Scores of {len(labels)} tokens"), listed))
    if found.most_confused:
        worst = ", ".join(f"{one.target} → {one.answered} ({one.count:,})" for one in found.most_confused[:5])
        blocks.insert(0, tag("p", "Commonest mistakes, target → answer: ", tag("b", worst)))
    lead = "Every scored token after all supervision steps; cells are shaded by their share of the row."
    return section("confusion", "Confusion", *blocks, lead=lead)


def robustness(found: Mapping[str, Any], run: str) -> Html:
    """Return what `titans-trm robustness` measured: disturbances, other data, shift, forgetting."""
    if not found:
        hint = missing("Not measured yet:", f"titans-trm robustness {run}")
        return section("robustness", "Robustness", hint)
    charts = [_disturbed(test) for test in found.get("tests", [])]
    blocks: list[Html] = [
        tag("div", *charts, class_="charts"),
        tag("h3", "Distribution shift"),
        _shift(found.get("shift", {})),
    ]
    if found.get("forgetting"):
        what = tag("p", f"Learning {' '.join(found.get('other_data', []))} next.", class_="muted")
        drawn = [_forgotten(found["forgetting"], which) for which in ("old", "new")]
        blocks += [tag("h3", "Forgetting"), what, tag("div", *drawn, class_="charts")]
    lead = f"{found.get('n', 0):,} examples of {found.get('split')}; details in evaluation/robustness.json."
    return section("robustness", "Robustness", *blocks, lead=lead)


def _disturbed(test: Mapping[str, Any]) -> Html:
    points = test["points"]
    series = [_measured("exactly right", [(point["strength"], point["exact_accuracy"]) for point in points], 0)]
    chart = line_chart(
        series,
        x_label=test["unit"],
        y_label="exactly right",
        y_range=(0, 1),
        percent=True,
        whole_x=test["unit"] != "epsilon",
    )
    return figure(chart, test["title"], note=test["note"])


def _shift(found: Mapping[str, Any]) -> Html:
    rows = []
    for name, shift in found.items():
        worst = (shift["features"] or [None])[0]
        mark = tag("span", "flagged" if shift["flagged"] else "none", class_="warn" if shift["flagged"] else "good")
        detail = ["–", "–", "–"]
        if worst is not None:
            means = f"{worst['train_mean']:.3g} in training, {worst['other_mean']:.3g} here"
            detail = [str(worst["feature"]).replace("_", " "), f"{worst['p_holm']:.2g}", means]
        rows.append([f"training against {name}", mark, *detail])
    return table(["sets", "shift", "least likely feature", "p (Holm)", "its mean"], rows)


def _forgotten(found: Sequence[Mapping[str, Any]], which: str) -> Html:
    series = [
        _measured(str(one["name"]), [(point["step"], point[which]) for point in one["points"]], colour)
        for colour, one in enumerate(found)
    ]
    chart = line_chart(series, x_label="optimiser step", y_label="exactly right", y_range=(0, 1), percent=True)
    title = "What it knew before" if which == "old" else "What it learns now"
    return figure(chart, title, legend(series))


def _measured(label: str, points: Sequence[tuple[float, Mapping[str, float]]], colour: int) -> Series:
    """Return estimates as they stand in a JSON file as a curve."""
    found = [Estimate(value=e["value"], ci_low=e["ci_low"], ci_high=e["ci_high"], method="wilson") for _, e in points]
    return _estimates(label, [float(at) for at, _ in points], found, colour)


def percent(value: float | None) -> str:
    """Return a share in percent, or a dash."""
    return "–" if value is None else f"{100 * value:.1f} %"


def interval(estimate: Estimate) -> str:
    """Return the interval of a share in percent."""
    if estimate.ci_low is None or estimate.ci_high is None:
        return ""
    return f"{100 * estimate.ci_low:.1f} to {100 * estimate.ci_high:.1f} %"


def _metrics(one: Evaluation) -> Html:
    rows: list[list[object]] = []
    for name, estimate in one.metrics.items():
        is_share = name not in _NO_SHARES
        value = percent(estimate.value) if is_share else "–" if estimate.value is None else f"{estimate.value:.4f}"
        ends = interval(estimate) if is_share else _ends(estimate)
        bar = interval_bar(estimate.ci_low, estimate.value, estimate.ci_high) if is_share else Html("")
        rows.append([name.replace("_", " "), value, ends, bar])
    for name, share in one.baselines.items():
        label = tag("span", f"token accuracy of {name.replace('_', ' ')} (no model)", class_="muted")
        rows.append([label, percent(share), "", interval_bar(None, share, None)])
    title = f"{one.split}: {one.n:,} examples in {one.groups:,} groups"
    return join((tag("h3", title), table(["metric", "value", f"{100 * one.confidence:g} % interval", ""], rows)))


def _verdict(one: Verdict) -> Html:
    rows = []
    for criterion in one.criteria:
        word = {True: "met", False: "not met", None: "not measured"}[criterion.ok]
        doubt = " (the interval crosses the limit)" if criterion.certain is False else ""
        mark = tag("span", word + doubt, class_={True: "good", False: "bad", None: "warn"}[criterion.ok])
        value = "–" if criterion.value is None else f"{criterion.value:.4g}"
        ends = "" if criterion.ci_low is None else f"{criterion.ci_low:.4g} to {criterion.ci_high:.4g}"
        rows.append([criterion.name.replace("_", " "), criterion.rule, value, ends, mark, criterion.note or ""])
    badge = tag("span", "met" if one.met else "not met", class_=f"badge {'good' if one.met else 'bad'}")
    title = tag("h3", f"Success criteria “{one.name}”, {one.split}", badge)
    return join((title, table(["criterion", "rule", "value", "interval", "", ""], rows))) if rows else Html("")


def _slices(slices: Sequence[Slice], by: str) -> Html:
    title, unit = _SLICE_NAMES[by]
    rows = [
        [
            f"{one.low:g}" if one.low == one.high else f"{one.low:g} to {one.high:g}",
            f"{one.n:,}",
            percent(one.exact_accuracy.value),
            interval(one.exact_accuracy),
            interval_bar(one.exact_accuracy.ci_low, one.exact_accuracy.value, one.exact_accuracy.ci_high),
            "–" if one.mean_supervision_steps.value is None else f"{one.mean_supervision_steps.value:.2f}",
        ]
        for one in slices
        if one.by == by
    ]
    return tag("div", tag("h3", title), table([unit, "n", "exactly right", "interval", "", "adaptive steps"], rows))


def _cost(cost: Cost) -> dict[str, object]:
    latency = {"full": cost.latency_full_ms, "adaptive": cost.latency_adaptive_ms}
    times = {
        f"One example, {name}": f"{one.p50:.1f} ms median, {one.p95:.1f} ms at p95 ({one.repeats} repeats)"
        for name, one in latency.items()
        if one is not None
    }
    return {
        "Weights": f"{cost.parameters:,} parameters, {cost.weight_bytes / 2**20:.1f} MiB",
        "Checkpoint": f"{cost.checkpoint_bytes / 2**20:.1f} MiB",
        "Compute": f"{cost.flops_per_example / 1e9:.3g} GFLOP per example with all steps",
        **times,
        "Peak memory": f"{cost.peak_memory_bytes / 2**20:,.0f} MiB",
        "Device": f"{cost.device}, {cost.threads} threads",
    }


def _guard(one: Evaluation) -> dict[str, object]:
    guard = one.guard
    uses = "" if guard.test_use is None else f"use number {guard.test_use} of the test split by this run"
    return {
        "Training examples": f"none of the {guard.train_groups:,} groups of {guard.train_examples:,} training examples "
        "occurs among the scored ones" + (f"; {guard.dropped:,} were dropped" if guard.dropped else ""),
        "Shared with validation": f"{guard.shared_with_val:,} examples" if one.split != "val" else "",
        "Test split": uses,
    }


def _by_step(best: Evaluation) -> Html:
    steps = [float(one.step) for one in best.steps]
    series = [_estimates("exactly right", steps, [one.exact_accuracy for one in best.steps], 0)]
    series.append(Series("would have halted", steps, [one.share_halted for one in best.steps], 1, markers=True))
    series.append(_estimates("tokens right", steps, [one.token_accuracy for one in best.steps], 2))
    chart = line_chart(
        series, x_label="supervision step", y_label="share of examples", y_range=(0, 1), percent=True, whole_x=True
    )
    return figure(chart, "What each step adds", legend(series), note="the same answer after one more supervision step")


def _depth(found: Difficulty) -> Html:
    middles = [(one.low + one.high) / 2 for one in found.bins]
    series = [_estimates("mean steps until it halts", middles, [one.mean_supervision_steps for one in found.bins], 0)]
    top = max((one.mean_supervision_steps.ci_high or 1.0) for one in found.bins)
    chart = line_chart(series, x_label="rating", y_label="steps", y_range=(0, max(top * 1.1, 1)))
    return figure(
        chart,
        "Harder examples, more steps?",
        note=f"steps until the halting logit is positive; rating: {found.rating_kind}",
    )


def _reliability(one: Calibration) -> Html:
    series = [
        _estimates(
            "exactly right", [part.mean_probability for part in one.bins], [part.exact_accuracy for part in one.bins], 0
        )
    ]
    chart = line_chart(
        series,
        x_label="halting probability",
        y_label="exactly right",
        x_range=(0, 1),
        y_range=(0, 1),
        percent=True,
        diagonal=True,
    )
    return figure(chart, f"Reliability, {_SCOPES[one.scope]}")


def _modes(best: Evaluation) -> Html:
    rows = [
        [
            name,
            percent(mode.exact_accuracy.value),
            interval(mode.exact_accuracy),
            f"{mode.mean_supervision_steps:.2f}",
            f"{mode.net_calls:,}",
            f"{mode.examples_per_second:,.1f}",
        ]
        for name, mode in best.halting.items()
    ]
    return table(["halting", "exactly right", "interval", "mean steps", "net calls", "examples/s"], rows)


def _gain(gain: HaltingGain) -> Html:
    difference = gain.exact_accuracy_difference
    value = "" if difference.value is None else f"{100 * difference.value:+.1f} points"
    ends = (
        ""
        if difference.ci_low is None
        else f" [{100 * difference.ci_low:+.1f}, {100 * (difference.ci_high or 0):+.1f}]"
    )
    return join(
        (
            "Halting by itself takes ",
            tag("b", f"{gain.net_calls_ratio:.2f} times fewer net calls"),
            f" and changes accuracy by {value}{ends}: {gain.only_full_right:,} examples lost, "
            f"{gain.only_adaptive_right:,} won (McNemar p = {gain.mcnemar_p:.3g}).",
        )
    )


def _difficulty(found: Difficulty) -> dict[str, object]:
    rmse = (
        "" if found.rating_rmse is None else f"{found.rating_rmse:.3g}, without depth {found.rating_rmse_of_mean:.3g}"
    )
    correlation = _plain(found.spearman) + (f", p = {found.spearman_p:.3g}" if found.spearman_p is not None else "")
    return {
        "Rating": found.rating_kind,
        "Rank correlation with depth": correlation,
        "RMSE of depth, in steps": _plain(found.rmse_steps),
        "RMSE of the rating predicted from depth": rmse,
    }


def _estimates(label: str, x: Sequence[float], found: Sequence[Estimate], colour: int) -> Series:
    """Return defined estimates as a curve with their intervals."""
    points = [(at, e.value, e.ci_low, e.ci_high) for at, e in zip(x, found, strict=True) if e.value is not None]
    return Series(
        label,
        [at for at, _, _, _ in points],
        [value for _, value, _, _ in points],
        colour,
        low=[value if low is None else low for _, value, low, _ in points],
        high=[value if high is None else high for _, value, _, high in points],
        markers=True,
    )


def _plain(estimate: Estimate) -> str:
    if estimate.value is None:
        return "–"
    return f"{estimate.value:.3f}" + (f" ({_ends(estimate)})" if estimate.ci_low is not None else "")


def _ends(estimate: Estimate) -> str:
    if estimate.ci_low is None or estimate.ci_high is None:
        return ""
    return f"{estimate.ci_low:.3f} to {estimate.ci_high:.3f}"
