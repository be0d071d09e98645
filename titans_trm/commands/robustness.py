"""`titans-trm robustness RUN`: how a trained model bears attacks, corrupted clues, other data and further learning."""

import argparse
import logging

RUNS = "runs"  # where `latest` looks


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the run and the settings."""
    parser.add_argument("folder", metavar="RUN", help="a run folder, or latest: the newest run that has a checkpoint")
    parser.add_argument(
        "words",
        metavar="KEY=VALUE",
        nargs="*",
        help="examples=200, epsilons=[0,0.1,0.2,0.5], cells=[0,1,2,4], forget_steps=0, ...; data.clues=[4,6] and the "
        "like describe other data to test on and, with forget_steps=100, to learn next (docs/robustness.md)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Measure and write `evaluation/robustness.json`."""
    from titans_trm.tasks.robustness import parse_settings, robustness  # heavy: torch and lightning
    from titans_trm.training.run_folder import RunFolder

    logging.basicConfig(level=logging.INFO, format="[%(levelname)s] %(message)s")
    settings, other = parse_settings(arguments.words)
    latest = arguments.folder == "latest"
    folder = str(RunFolder.latest(RUNS, with_checkpoint=True).path) if latest else arguments.folder
    robustness(folder, settings, other)
    return 0
