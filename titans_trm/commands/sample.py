"""`titans-trm sample`: let a trained text model go on with a text."""

import argparse
import sys


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("run", nargs="?", default="latest", help="a run folder, or latest (default)")
    parser.add_argument("--prompt", default="def ", help="text to go on with")
    parser.add_argument("--bytes", type=int, default=300, help="bytes to write")
    parser.add_argument("--temperature", type=float, default=0.8, help="0 always takes the most likely byte")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of bytes")


def run(arguments: argparse.Namespace) -> int:
    """Write prompt and continuation to the standard output."""
    from titans_trm.tasks.sample import sample_run  # torch is imported when it is needed

    for piece in sample_run(
        arguments.run,
        prompt=arguments.prompt,
        length=arguments.bytes,
        temperature=arguments.temperature,
        seed=arguments.seed,
    ):
        sys.stdout.write(piece)
        sys.stdout.flush()
    sys.stdout.write("\n")
    return 0
