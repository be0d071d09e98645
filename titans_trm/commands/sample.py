"""`titans-trm sample`: let a trained text model go on with a text."""

import argparse
import sys


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("folder", metavar="RUN", nargs="?", default="latest", help="a run folder, or latest (default)")
    parser.add_argument("--prompt", default="def ", help="text to go on with")
    parser.add_argument("--bytes", type=int, default=300, help="bytes to write (default: 300)")
    parser.add_argument("--samples", type=int, default=1, help="so many continuations, side by side (default: 1)")
    parser.add_argument(
        "--temperature", type=float, default=0.8, help="0 always takes the most likely byte (default: 0.8)"
    )
    parser.add_argument("--top-k", type=int, help="choose among the K most likely bytes")
    parser.add_argument("--top-p", type=float, help="choose among the fewest bytes that hold this share, e.g. 0.9")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of bytes")


def run(arguments: argparse.Namespace) -> int:
    """Write prompt and continuation to the standard output, the speed to the standard error."""
    from titans_trm.tasks.sample import SampleSettings, Speed, sample_run  # torch is imported when it is needed

    settings = SampleSettings(
        prompt=arguments.prompt,
        length=arguments.bytes,
        samples=arguments.samples,
        temperature=arguments.temperature,
        top_k=arguments.top_k,
        top_p=arguments.top_p,
        seed=arguments.seed,
    )
    speeds: list[Speed] = []
    pieces = sample_run(arguments.folder, settings, speeds.append)
    if settings.samples == 1:
        for (piece,) in pieces:
            sys.stdout.write(piece)
            sys.stdout.flush()
        sys.stdout.write("\n")
    else:
        for number, sample in enumerate(zip(*pieces, strict=True), start=1):
            sys.stdout.write(f"--- {number}\n{''.join(sample)}\n")
    for speed in speeds:
        sys.stderr.write(f"{speed}\n")
    return 0
