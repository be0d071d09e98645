"""`titans-trm compare RUN RUN...`: one table of evaluated runs, with intervals and significance."""

import argparse
from datetime import datetime

from titans_trm.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add runs, split, metric and where the results go."""
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="a run folder, or a folder with runs, such as a multirun"
    )
    parser.add_argument("--split", default="val", help="whose evaluations are compared (default: val)")
    parser.add_argument("--metric", default="exact_accuracy", help="what is compared (default: exact_accuracy)")
    parser.add_argument("--confidence", type=float, default=0.95, help="level of the intervals (default: 0.95)")
    parser.add_argument("--evaluate", action="store_true", help="evaluate on validation what was not evaluated yet")
    parser.add_argument("--out", metavar="FOLDER", help="where the table goes (default: runs/comparisons/DATE)")


def run(arguments: argparse.Namespace) -> int:
    """Compare, write and show."""
    if not 0.0 < arguments.confidence < 1.0:
        raise InputError(f"--confidence={arguments.confidence} is outside (0, 1); choose e.g. 0.95.")
    from titans_trm.tasks.compare import compare  # heavy: torch and lightning

    compare(
        arguments.runs,
        split=arguments.split,
        metric=arguments.metric,
        confidence=arguments.confidence,
        out=arguments.out or f"runs/comparisons/{datetime.now():%Y-%m-%d_%H-%M-%S}",
        evaluate_missing=arguments.evaluate,
    )
    return 0
