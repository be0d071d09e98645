"""`titans-trm consult RUN|REQUEST`: ask the specialist about a finished run, or for work in plain words."""

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from rich.console import Console
from rich.markup import escape

from titans_trm import schema
from titans_trm.diagnostics.record import read_signals
from titans_trm.specialist.audit import Audit
from titans_trm.specialist.claude import require_agent
from titans_trm.specialist.config import SpecialistConfig
from titans_trm.specialist.context import context_of_alarm, context_of_request, levels_of
from titans_trm.specialist.expert import consult
from titans_trm.specialist.outcome import Outcome
from titans_trm.specialist.protocol import ContextPackage, ResultsPackage
from titans_trm.specialist.redact import canonical
from titans_trm.specialist.remedies import REMEDIES, describe, fix_command
from titans_trm.specialist.worktree import repository

if TYPE_CHECKING:
    from titans_trm.training.run_folder import RunFolder

FAILED = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("about", help="a run folder, or a request such as 'speed up inference to 50 ms'")
    parser.add_argument("--specialist", choices=["rules", "command", "claude"], default="rules", help="who is asked")
    parser.add_argument("--program", default="", help="of --specialist command: program and arguments as one text")
    parser.add_argument("--model", default=SpecialistConfig.model, help="model of --specialist claude")
    parser.add_argument("--yes", action="store_true", help="approve a plan without asking (claude carries it out)")
    parser.add_argument("--preview", action="store_true", help="print the package that would be sent, and send nothing")
    parser.add_argument("--json", action="store_true", help="print the results package")


def run(arguments: argparse.Namespace) -> int:
    """Ask, print, and return the exit status."""
    values: dict[str, Any] = {
        "kind": arguments.specialist,
        "command": shlex.split(arguments.program),
        "model": arguments.model,
    }
    settings = schema.build(SpecialistConfig, values, "specialist")
    if settings.kind == "claude" and not arguments.preview:
        require_agent()
    about = Path(arguments.about)
    folder = _opened(about) if about.is_dir() else None
    root = repository(Path.cwd())
    context = _of_run(folder, settings) if folder else context_of_request(arguments.about, settings, root=root)
    console = Console(highlight=False, soft_wrap=True)
    if arguments.preview:
        sys.stdout.write(json.dumps(json.loads(canonical(context)), indent=2) + "\n")
        return 0
    if folder and not (context.diagnosis and context.diagnosis.root_causes):
        console.print("No alarm stands in this run: there is nothing to treat.")
        return 0
    audit = Audit(folder.path) if folder else None

    def approve(results: ResultsPackage) -> bool:
        console.print(escape(results.plan or ""))
        return arguments.yes or (
            sys.stdin.isatty() and input("Carry this out in a git worktree? [y/N] ").lower() == "y"
        )

    outcome = consult(context, settings, approve=approve, root=root, audit=audit)
    if arguments.json:
        sys.stdout.write(json.dumps(outcome.results.to_dict(), indent=2) + "\n")
    else:
        _show(console, context, outcome, _typed(folder))
    return 0 if outcome.ok or outcome.ending == "denied" else FAILED


def _opened(path: Path) -> "RunFolder":
    from titans_trm.training.run_folder import RunFolder  # brings torch: a request does without

    return RunFolder.open(path)


def _of_run(folder: "RunFolder", settings: SpecialistConfig) -> ContextPackage:
    from titans_trm.commands.diagnose import diagnose

    engine, _ = diagnose(folder)
    alerts = engine.standing()
    config = yaml.safe_load(folder.config.read_text(encoding="utf-8"))
    if not alerts:
        return context_of_request("Look at a run without alarms.", settings)
    summary = json.loads(folder.summary.read_text(encoding="utf-8")) if folder.summary.is_file() else {}
    facts = {name: summary.get(name) for name in ("experiment", "parameters", "status")}
    facts["step"] = summary.get("global_step")
    return context_of_alarm(
        alerts[0], config, settings, rivals=alerts[1:], measurements=_measurements(folder), facts=facts
    )


def _measurements(folder: "RunFolder") -> dict[str, float]:
    path = folder.path / "diagnostics" / "signals.jsonl"
    latest: dict[str, float] = {}
    for signals in read_signals(path) if path.is_file() else ():
        latest |= signals.values
    return latest


def _typed(folder: "RunFolder | None") -> list[str]:
    if folder is None or not folder.overrides.is_file():
        return []
    return yaml.safe_load(folder.overrides.read_text(encoding="utf-8")) or []


def _show(console: Console, context: ContextPackage, outcome: Outcome, typed: list[str]) -> None:
    """Say who thinks what, and what to type next."""
    results = outcome.results
    console.print(
        f"[bold]{results.status}[/]" + (f", confidence {results.confidence:.0%}" if results.confidence else "")
    )
    for line in (results.reason, results.escalation, results.plan):
        if line:
            console.print(escape(line))
    for cause in (results.diagnosis or context.diagnosis).root_causes if context.diagnosis else []:
        console.print(
            f"\n{cause.rank}. [bold]{escape(cause.rule or '')}[/] since step {cause.step}: {escape(cause.issue)}"
        )
        for evidence in cause.evidence:
            console.print(f"   {escape(evidence)}")
    current = levels_of(_nested(context.config))
    for remedy in results.remedies:
        level = current.get(remedy.id)
        words = " ".join(REMEDIES[remedy.id].as_overrides(remedy.value, level)) if remedy.id in REMEDIES else ""
        console.print(f"\n[bold]{remedy.id}[/]: {REMEDIES[remedy.id].what if remedy.id in REMEDIES else ''}")
        if words:
            console.print(f"   {escape(shlex.join(['python', 'train.py', *fix_command(typed, [(remedy, level)])]))}")
        else:
            console.print("   only a run under way can do this: specialist=rules")
        if remedy.expected_effect is not None:
            console.print(f"   worked if {describe(remedy.expected_effect)}")
    remarks = {
        "next": results.diagnosis.next_steps if results.diagnosis else [],
        "asks": results.clarifications,
        "lacks": results.missing_references,
        "open": results.todos,
    }
    for title, lines in remarks.items():
        for line in lines:
            console.print(f"{title}: {escape(line)}")
    for claim in results.measured:
        verdict = {True: "ok", False: "[red]differs[/]", None: "not measured"}[claim.ok]
        console.print(f"{escape(claim.what)}: claimed {claim.claimed}, measured {claim.measured}: {verdict}")
    if "worktree" in outcome.details:
        console.print(f"\nto read, test and merge by hand: {outcome.details['worktree']}")


def _nested(config: dict[str, Any]) -> dict[str, Any]:
    """Return dotted keys as sections."""
    nested: dict[str, Any] = {}
    for key, value in config.items():
        *parents, last = key.split(".")
        section = nested
        for parent in parents:
            section = section.setdefault(parent, {})
        section[last] = value
    return nested
