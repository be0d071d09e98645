"""`titans-trm scale RUN`: what accuracy more or less compute buys of a trained model."""

import argparse
import logging


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the run and the settings."""
    parser.add_argument("folder", metavar="RUN", help="a run folder, or latest: the newest run that has a checkpoint")
    parser.add_argument(
        "words",
        metavar="KEY=VALUE",
        nargs="*",
        help="examples=200 (null: all), steps=[4,8,16], patience=[1,2], rollouts=[2,4,8], noise=0.5, views=[2,4,8], "
        "batch_size=64, seed=0, confidence=0.95; split=test final=true, once (docs/evaluation.md)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Measure and write `evaluation/scaling.json`, `.md` and `.png`."""
    from titans_trm.tasks.scale import parse_settings, scale  # heavy: torch and lightning

    logging.basicConfig(level=logging.INFO, format="[%(levelname)s] %(message)s")
    scale(arguments.folder, parse_settings(arguments.words))
    return 0
