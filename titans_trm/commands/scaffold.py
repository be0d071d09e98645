"""`titans-trm scaffold NAME`: a new model with configuration, training loop and tests that pass from the start."""

import argparse
from pathlib import Path

from rich.console import Console

from titans_trm.specialist.tools import add_tests, create_model_skeleton, write_files


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("name", help="of the model, such as TinyMemory; or module:Class with --tests-only")
    parser.add_argument("--into", type=Path, default=Path(), help="folder; nothing in it is overwritten")
    parser.add_argument("--tests-only", action="store_true", help="only tests, for a model that exists")


def run(arguments: argparse.Namespace) -> int:
    """Write the files and say what to do with them."""
    files = [add_tests(arguments.name)] if arguments.tests_only else create_model_skeleton(arguments.name)
    console = Console(highlight=False, soft_wrap=True)
    for path in write_files(files, arguments.into):
        console.print(str(path))
    tests = arguments.into / files[-1].path
    console.print(f"\nnext: PYTHONPATH={arguments.into} python -m pytest {tests}", style="bold")
    return 0
