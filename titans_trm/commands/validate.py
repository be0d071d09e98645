"""`titans-trm validate TARGET`: check a model before it is trained; exit status 3 if a check does not pass."""

import argparse
import dataclasses
import json
import sys
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from titans_trm.config import compose
from titans_trm.data.registry import make_task
from titans_trm.specialist.architecture import validate_architecture
from titans_trm.specialist.model_checks import Finding, ModelUnderTest, check_model
from titans_trm.specialist.quantities import parse_count, parse_memory
from titans_trm.specialist.tools import benchmark_model

NOT_PASSED = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("target", nargs="+", help="module:Class, or overrides of train.py such as model=trm_25m")
    parser.add_argument("--claimed", help='parameters it should have, such as "25M"')
    parser.add_argument("--memory", help='of the card, such as "6GB"')
    parser.add_argument("--quick", action="store_true", help="only the configuration, nothing is run")
    parser.add_argument("--json", action="store_true", help="print findings as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Make the checks, print them, and return the exit status."""
    if ":" in arguments.target[0]:
        sys.path.insert(0, str(Path.cwd()))
        under: ModelUnderTest | None = ModelUnderTest.load(arguments.target[0])
        findings: list[Finding] = []
    else:
        config = compose("train", arguments.target)
        spec = make_task(config.data).spec
        built = config.model.build(
            vocab_size=spec.vocab_size, seq_len=spec.seq_len, causal=spec.causal, num_puzzle_ids=spec.num_puzzle_ids
        )
        claimed = None if arguments.claimed is None else parse_count(arguments.claimed, key="--claimed")
        memory = None if arguments.memory is None else parse_memory(arguments.memory, key="--memory")
        findings = validate_architecture(built.to_dict(), claimed_parameters=claimed, memory_bytes=memory)
        # Checks are about the wiring; a budget is about a preset.
        under = (
            None if arguments.quick else ModelUnderTest.titans_trm(dataclasses.replace(built, parameter_budget=None))
        )
    if under is not None:
        findings += check_model(under)
        measured = benchmark_model(under.model, lambda: under(under.tokens[:1]))
        words = f"{measured.parameters:,} parameters, {measured.latency_ms:.1f} ms a forward pass on {measured.device}"
        findings.append(Finding("measured", True, f"{words}, median of {measured.repeats}."))
    if arguments.json:
        sys.stdout.write(json.dumps([finding.to_dict() for finding in findings], indent=2) + "\n")
    else:
        _show(findings)
    return NOT_PASSED if any(finding.ok is False for finding in findings) else 0


def _show(findings: list[Finding]) -> None:
    table = Table("check", "", "", box=None)
    for finding in findings:
        verdict = {True: "[green]ok[/]", False: "[red]no[/]", None: "-"}[finding.ok]
        table.add_row(finding.check, verdict, escape(finding.message))
    Console(highlight=False).print(table)
