"""`titans-trm COMMAND`: everything about data and runs that is not training, evaluating or profiling one run.

Exit status as everywhere: 0 done, 1 failed, 2 bad input, 3 a check did not pass, 130 interrupted.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

from titans_trm.errors import InputError

BAD_INPUT, INTERRUPTED = 2, 130


class Command(NamedTuple):
    """A command lives in a module with `add_arguments(parser)` and `run(arguments) -> exit status`."""

    module: str  # imported only when the command is asked for: help stays fast
    summary: str


COMMANDS: dict[str, Command] = {
    "robustness": Command(
        "titans_trm.commands.robustness", "attack a trained model, corrupt its clues, change its data"
    ),
    "scale": Command("titans_trm.commands.scale", "more steps, rollouts, votes, early exits: accuracy against compute"),
    "data": Command("titans_trm.commands.data", "prepare, verify, audit, compare and count the data of a task"),
    "download": Command("titans_trm.commands.download", "fetch a public text by name, checked to the byte"),
    "sample": Command("titans_trm.commands.sample", "let a trained text model go on with a text"),
    "consult": Command("titans_trm.commands.consult", "ask the specialist about a run, or for work in plain words"),
    "scaffold": Command("titans_trm.commands.scaffold", "write a new model with tests that pass from the start"),
    "validate": Command("titans_trm.commands.validate", "check a model before it is trained"),
    "report": Command("titans_trm.commands.report", "write report.html of a run"),
    "compare": Command("titans_trm.commands.compare", "compare evaluated runs: seeds, intervals, significance"),
    "ablate": Command("titans_trm.commands.ablate", "train a suite of ablations with seeds and write its table"),
    "diagnose": Command("titans_trm.commands.diagnose", "say what is wrong with a run, or that it is healthy"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; bad input is one line, without a traceback."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    asked = arguments[0] if arguments and arguments[0] in COMMANDS else None
    parser = argparse.ArgumentParser(prog="titans-trm", description=(__doc__ or "").partition("\n")[0])
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=command.summary, description=command.summary)
        if name == asked:
            module = importlib.import_module(command.module)
            module.add_arguments(subparser)
            subparser.set_defaults(run=module.run)
    parsed = parser.parse_args(arguments)
    try:
        return int(parsed.run(parsed))
    except InputError as error:
        sys.stderr.write(f"error: {error}\n")
        return BAD_INPUT
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return INTERRUPTED
