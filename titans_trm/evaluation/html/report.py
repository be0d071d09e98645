"""`report.html`: what a run was, how it learned, how good it is and how sure that is, on one page without a network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from titans_trm.evaluation.criteria import Verdict
from titans_trm.evaluation.html import learned, measured, origin
from titans_trm.evaluation.html.boards import Drawing, Solving, draw_solving
from titans_trm.evaluation.html.measured import interval, percent
from titans_trm.evaluation.html.page import Html, document, join, missing, section, tag, tile
from titans_trm.evaluation.results import Evaluation

_BADGES = {"completed": "good", "stopped": "warn", "failed": "bad"}


@dataclass(frozen=True, kw_only=True)
class Shown:
    """Examples of one split that were kept whole, to be drawn."""

    split: str
    examples: Sequence[Solving]
    drawing: Drawing


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """Everything the page is made of; what a run does not have (yet) is empty."""

    run: str  # folder
    config: Mapping[str, Any]
    summary: Mapping[str, Any]
    environment: Mapping[str, Any]
    manifest: Mapping[str, Any]
    metrics: Mapping[str, Sequence[Any]]  # columns of metrics.csv
    checklist: str  # Markdown
    evaluations: Sequence[Evaluation] = field(default_factory=tuple)  # the one that counts first
    shown: Sequence[Shown] = field(default_factory=tuple)
    events: Sequence[Mapping[str, Any]] = field(default_factory=tuple)  # diagnostics/events.jsonl
    verdicts: Sequence[Verdict] = field(default_factory=tuple)  # evaluation/criteria.json
    robustness: Mapping[str, Any] = field(default_factory=dict)  # evaluation/robustness.json
    made: str = ""  # date and version


def render_report(facts: RunFacts) -> str:
    """Return the page."""
    evaluate = f"python evaluate.py run={facts.run}"
    best = facts.evaluations[0] if facts.evaluations else None
    parts: list[tuple[str, str, Html]] = [
        ("trained", "What was trained", origin.what_was_trained(facts.config, facts.manifest, facts.summary)),
        ("curves", "Curves", learned.curves(facts.metrics)),
        ("results", "Results", measured.results(facts.evaluations, facts.verdicts, evaluate)),
        ("halting", "Halting", measured.halting(best, evaluate)),
        ("calibration", "Calibration", measured.calibration(best, evaluate)),
        ("confusion", "Confusion", measured.confusion(best, evaluate)),
        ("examples", "Step by step", _step_by_step(facts.shown, evaluate)),
        ("robustness", "Robustness", measured.robustness(facts.robustness, facts.run)),
        ("diagnostics", "Diagnostics", learned.diagnostics(facts.events)),
        ("repeat", "Repeat it", origin.repeat_it(facts.checklist, facts.environment, facts.run)),
    ]
    title = str(facts.config.get("experiment", "run"))
    return document(f"{title} · titans_trm", _header(facts, title, best), parts, f"{facts.run} · {facts.made}")


def _header(facts: RunFacts, title: str, best: Evaluation | None) -> Html:
    summary = facts.summary
    status = str(summary.get("status") or "running or killed")
    badge = tag("span", status, class_=f"badge {_BADGES.get(status, 'warn')}")
    return join(
        (
            tag("h1", title, badge),
            tag("p", origin.one_sentence(facts.config, facts.manifest, summary, facts.environment), class_="sub"),
            tag("p", tag("b", "It ended early: "), summary["error"], class_="bad") if summary.get("error") else "",
            tag("div", *_tiles(facts, best), class_="tiles"),
        )
    )


def _tiles(facts: RunFacts, best: Evaluation | None) -> list[Html]:
    tiles = _accuracy_tiles(best) if best is not None else _summary_tiles(facts.summary)
    return [*tiles, *origin.size_tiles(facts.summary)]


def _accuracy_tiles(best: Evaluation) -> list[Html]:
    accuracy = best.metrics["exact_accuracy"]
    tiles = [tile(f"exactly right, {best.split}", percent(accuracy.value), f"{interval(accuracy)}, n = {best.n:,}")]
    mode = best.halting.get("adaptive")
    if mode is not None:
        note = f"{percent(mode.exact_accuracy.value)} exactly right, of at most {len(best.steps)} steps"
        tiles.append(tile("steps when halting by itself", f"{mode.mean_supervision_steps:.2f}", note))
    return tiles


def _summary_tiles(summary: Mapping[str, Any]) -> list[Html]:
    val = summary.get("val") or {}
    if val.get("exact_accuracy") is None:
        return []
    note = f"{val.get('num_examples', 0):,.0f} examples, at the end of training"
    return [tile("exactly right, validation", percent(val["exact_accuracy"]), note)]


def _step_by_step(shown: Sequence[Shown], command: str) -> Html:
    if not any(group.examples for group in shown):
        return section("examples", "Solved step by step", missing("No example was kept. Run", command))
    lead = (
        "The answer after each supervision step. Bold on grey: given. Green: right, red: wrong, blue frame: changed "
        "since the step before. “Sure” is the halting probability; “halts here” is where it would stop by itself."
    )
    drawn = [draw_solving(example, group.drawing) for group in shown for example in group.examples]
    return section("examples", "Solved step by step", *drawn, lead=lead)
