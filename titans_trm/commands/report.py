"""`titans-trm report RUN`: write the page of a run."""

import argparse
import logging
import sys

RUNS = "runs"  # where `latest` looks


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the run."""
    parser.add_argument("folder", metavar="RUN", help="a run folder, or latest: the run that was started last")


def run(arguments: argparse.Namespace) -> int:
    """Write `report.html` and show where."""
    from titans_trm.tasks.report import write_report  # heavy: torch and lightning
    from titans_trm.training.run_folder import RunFolder

    logging.basicConfig(level=logging.INFO, format="[%(levelname)s] %(message)s")
    folder = RunFolder.latest(RUNS) if arguments.folder == "latest" else RunFolder.open(arguments.folder)
    sys.stdout.write(f"{write_report(folder)}\n")
    return 0
