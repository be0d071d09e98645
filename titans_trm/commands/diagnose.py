"""`titans-trm diagnose RUN`: what is wrong with a run, or a clean bill, in words; from its folder alone."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.text import Text

from titans_trm import schema
from titans_trm.diagnostics.config import DiagnosticsConfig
from titans_trm.diagnostics.engine import Engine
from titans_trm.diagnostics.events import read_events
from titans_trm.diagnostics.facts import run_facts
from titans_trm.diagnostics.offline import replay, signals_from_metrics
from titans_trm.diagnostics.record import read_signals
from titans_trm.diagnostics.report import TITLES, clean_bill, explain, verdict, write_report
from titans_trm.errors import InputError
from titans_trm.training.callbacks.metrics_csv import read_metrics
from titans_trm.training.diagnostics_panel import draw_panel
from titans_trm.training.run_folder import RunFolder

NOT_HEALTHY = 3  # exit status under --strict


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what may follow `diagnose`."""
    parser.add_argument("folder", metavar="RUN", help="a run folder, or latest: the newest under runs/")
    parser.add_argument("--root", default="runs", help="where latest looks (default: runs)")
    parser.add_argument("--json", action="store_true", help="print the alerts as JSON instead of words")
    parser.add_argument("--write", action="store_true", help="write diagnostics/report.md and signals.png anew")
    parser.add_argument("--strict", action="store_true", help=f"exit with status {NOT_HEALTHY} unless it is healthy")


def run(arguments: argparse.Namespace) -> int:
    """Diagnose and print."""
    named = arguments.folder
    folder = RunFolder.latest(arguments.root) if named == "latest" else RunFolder.open(named)
    engine, source = diagnose(folder)
    diagnostics = folder.path / "diagnostics"
    if arguments.write:
        events = diagnostics / "events.jsonl"
        write_report(diagnostics, engine, events if events.is_file() else None)
        draw_panel(diagnostics)
    if arguments.json:
        sys.stdout.write(json.dumps([alert.to_dict() for alert in engine.alerts], indent=2) + "\n")
    else:
        _print(folder, engine, source)
    healthy = not any(alert.is_alarm for alert in engine.diagnosis())
    return 0 if healthy or not arguments.strict else NOT_HEALTHY


def diagnose(folder: RunFolder) -> tuple[Engine, str]:
    """Return the engine that has seen the whole run, and which file it read.

    Raises:
        InputError: the run left neither signals nor metrics.
    """
    config: dict[str, Any] = yaml.safe_load(folder.config.read_text(encoding="utf-8")) or {}
    own = config.get("diagnostics")
    settings = schema.build(DiagnosticsConfig, own, "diagnostics") if isinstance(own, dict) else DiagnosticsConfig()
    facts = run_facts(config, _vocabulary(folder.path, config))
    recorded = folder.path / "diagnostics" / "signals.jsonl"
    if recorded.is_file():
        return replay(read_signals(recorded), facts, settings), str(recorded.relative_to(folder.path))
    if not folder.metrics.is_file():
        raise InputError(
            f"{folder.path} has neither diagnostics/signals.jsonl nor metrics.csv: the run wrote nothing before it "
            "ended. Start it again and read what it prints."
        )
    return replay(signals_from_metrics(read_metrics(folder.metrics)), facts, settings), folder.metrics.name


def _vocabulary(path: Path, config: dict[str, Any]) -> int:
    """Return V of the run's task, from what its events say, 2 where nothing does."""
    events = path / "diagnostics" / "events.jsonl"
    started = [event for event in read_events(events) if event["event"] == "started"] if events.is_file() else []
    return int(started[0].get("vocab_size", 2)) if started else 2


def _print(folder: RunFolder, engine: Engine, source: str) -> None:
    console = Console()

    def say(line: str, style: str = "") -> None:
        console.print(Text(line, style=style), soft_wrap=True)

    alarms = [alert for alert in engine.diagnosis() if alert.is_alarm]
    notes = [alert for alert in engine.diagnosis() if not alert.is_alarm]
    say(f"{folder.path} ({folder.status or 'not finished'}), read from {source}")
    say(verdict(engine), style="bold red" if alarms else "bold green")
    for number, alert in enumerate(alarms, start=1):
        say("")
        say(f"{number}. {TITLES[alert.rule]} ({alert.rule}, {alert.severity})", style="bold")
        for line in explain(alert, engine):
            say(f"   {line.removeprefix('- ')}")
    say("")
    for line in clean_bill(engine):
        say(f"  {line}")
    for note in notes:
        say(f"  note: {note.message} (step {note.step}, {note.rule})")
