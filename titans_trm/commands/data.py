"""`titans-trm data ACTION DATA [overrides]`: prepare, verify, audit, compare and count the data of a task.

DATA is an option of conf/data (sudoku_9x9, arc1, ...); overrides are those of train.py, for example data.seed=1.
"""

import argparse
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

from titans_trm.config import compose, config_dir
from titans_trm.errors import InputError
from titans_trm.schema import suggest
from titans_trm.training.config import RunConfig
from titans_trm.training.console import format_bytes, format_duration, print_header, print_plain

if TYPE_CHECKING:
    from titans_trm.data.examples import ExampleSet
    from titans_trm.data.leakage import Overlap

CHECK_FAILED = 3
_MODEL = "model=trm_nano"  # the hungriest preset, for `stats`; an override chooses another
_TOP = 12  # rows of a table of shares

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the actions and their options."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    for name, summary in {
        "prepare": "build the data now, keep them, write their manifest",
        "verify": "hash every byte of prepared data again",
        "audit": "imbalance, duplicates and divergence, as JSON and a page of plots",
        "leakage": "what two sets share: groups up to symmetry, passages of text",
        "export": "write train and test in the folder layout of the public TRM code",
        "stats": "counts, shares, difficulty, and whether the generator keeps up with training",
    }.items():
        action = actions.add_parser(name, help=summary, description=summary)
        action.add_argument("data", metavar="DATA", help="option of conf/data, for example sudoku_9x9")
        action.add_argument("overrides", nargs="*", help="as for train.py, for example data.seed=1")
        if name == "audit":
            action.add_argument("--out", type=Path, help="folder of audit.json and audit.png (default: audit/DATA)")
        if name == "export":
            action.add_argument("--to", type=Path, required=True, help="folder to write")
        if name == "leakage":
            action.add_argument(
                "--between", nargs=2, metavar=("A", "B"), help="train, val, test or a file (default: all three splits)"
            )
            action.add_argument("--window", type=int, default=50, help="bytes of a passage of text that counts (50)")
            action.add_argument("--json", type=Path, help="write the report into this file")
        if name == "stats":
            action.add_argument(
                "--run", dest="run_folder", type=Path, help="run folder whose measured consumption counts"
            )


def run(arguments: argparse.Namespace) -> int:
    """Do what was asked; 3 when a leak is found."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    action = {
        "prepare": _prepare,
        "verify": _verify,
        "audit": _audit,
        "leakage": _leakage,
        "export": _export,
        "stats": _stats,
    }
    return action[arguments.action](arguments)


def _prepare(arguments: argparse.Namespace) -> int:
    from titans_trm.data.prepare import describe, prepare

    config = _config(arguments)
    started = time.monotonic()
    with _working(f"preparing {arguments.data}"):
        data, path = prepare(config.data)
    lines = describe(config.data, data.manifest)
    lines |= {"time": format_duration(time.monotonic() - started), "manifest": str(path)}
    print_header(f"{arguments.data}: prepared", lines)
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    from titans_trm.data.prepare import cached_bytes, verify
    from titans_trm.data.registry import make_task

    config = _config(arguments)
    name = make_task(config.data).spec.name
    count = 0
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeElapsedColumn())
    with _progress(*columns) as progress:
        bar = progress.add_task("hashing", total=cached_bytes(config.data, name))

        def on_file(file: str, size: int) -> None:
            nonlocal count
            count += 1
            progress.update(bar, advance=size, description=file)

        data = verify(config.data, name, on_file)
        size = progress.tasks[0].completed
    lines = {"cache": f"{count} files, {format_bytes(size)}: every byte as it was written"}
    lines["manifest"] = "the same examples, split the same way"
    for split, about in data.manifest["splits"].items():
        lines[split] = f"{about['count']:,} examples, sha256 {about['sha256'][:16]}..."
    print_header(f"{arguments.data}: verified", lines)
    return 0


def _audit(arguments: argparse.Namespace) -> int:
    from titans_trm.commands.data_plots import draw_audit
    from titans_trm.data.audit import audit
    from titans_trm.data.load import load_data
    from titans_trm.training.run_folder import write_json

    config = _config(arguments)
    folder = arguments.out or Path("audit") / arguments.data
    with _working(f"auditing {arguments.data}"):
        report = audit(load_data(config.data))
        try:
            write_json(folder / "audit.json", report)
            draw_audit(report, folder / "audit.png", title=f"{arguments.data}: {report['task']}")
        except OSError as error:
            raise InputError(f"{folder}: cannot be written ({error.strerror}); choose another with --out.") from None
    console = Console()
    for warning in report["warnings"]:
        print_plain(console, f"warning: {warning}")
    if not report["warnings"]:
        print_plain(console, "nothing to warn of: no duplicates, labels even, validation and test like train")
    print_plain(console, str(folder / "audit.json"))
    print_plain(console, str(folder / "audit.png"))
    return 0


def _leakage(arguments: argparse.Namespace) -> int:
    from titans_trm.data.leakage import compare
    from titans_trm.data.registry import make_task
    from titans_trm.training.run_folder import write_json

    config = _config(arguments)
    pairs = [arguments.between] if arguments.between else [("train", "val"), ("train", "test"), ("val", "test")]
    console = Console()
    with _working(f"comparing sets of {arguments.data}"):
        sets = _load_sets({name for pair in pairs for name in pair}, config)
        offset = make_task(config.data).spec.byte_offset
        window = None if offset is None else arguments.window
        found = [compare(sets[a], sets[b], window=window, byte_offset=offset or 0) for a, b in pairs]
    for overlap in found:
        _show_overlap(console, overlap)
    if arguments.json:
        write_json(arguments.json, [overlap.to_dict() for overlap in found])
        print_plain(console, str(arguments.json))
    leaking = [overlap for overlap in found if overlap.groups]
    if leaking and config.data.leakage == "remove" and not arguments.between:
        print_plain(console, "data.leakage=remove: training drops these examples from train and val")
        return 0
    return CHECK_FAILED if leaking else 0


def _export(arguments: argparse.Namespace) -> int:
    from titans_trm.data.load import load_data
    from titans_trm.data.reference_layout import write_layout

    config = _config(arguments)
    with _working(f"exporting {arguments.data}"):
        data = load_data(config.data)
        write_layout(arguments.to, {"train": data.train, "test": data.test()}, data.spec)
    print_plain(Console(), str(arguments.to))
    return 0


def _stats(arguments: argparse.Namespace) -> int:
    from titans_trm.commands.data_stats import collect_stats

    config = _config(arguments, _MODEL)
    with _working(f"measuring {arguments.data}"):
        stats = collect_stats(config, arguments.run_folder)
    console = Console()
    console.print(_split_table(arguments.data, stats["splits"]))
    console.print(_share_table(stats["label_shares"]))
    for line in stats["speed"]:
        print_plain(console, line)
    return 0


def _config(arguments: argparse.Namespace, *defaults: str) -> RunConfig:
    options = sorted(file.stem for file in (config_dir() / "data").glob("*.yaml"))
    if arguments.data not in options:
        raise InputError(f"{arguments.data} is no data set. {suggest(arguments.data, options)}")
    return compose("train", [f"data={arguments.data}", *defaults, *arguments.overrides])


def _load_sets(names: set[str], config: RunConfig) -> "dict[str, ExampleSet]":
    """Return the sets of these names or files as they are, before the guard of training acts."""
    import dataclasses

    from titans_trm.data.load import load_data, read_examples

    sets = {}
    if splits := names & {"train", "val", "test"}:
        data = load_data(dataclasses.replace(config.data, leakage="allow"))
        every = {"train": data.train, "val": data.val, "test": data.test()}
        sets = {name: every[name] for name in splits}
    return sets | {name: read_examples(name, config.data)[0] for name in names - set(sets)}


def _show_overlap(console: Console, overlap: "Overlap") -> None:
    title = f"{overlap.first} ({overlap.sizes[0]:,}) and {overlap.second} ({overlap.sizes[1]:,})"
    if overlap.groups:
        counts = f"{overlap.rows[0]:,} and {overlap.rows[1]:,} examples"
        groups = "1 group is" if overlap.groups == 1 else f"{overlap.groups:,} groups are"
        print_plain(console, f"{title}: {groups} in both, the same up to symmetry ({counts})")
    else:
        print_plain(console, f"{title}: no group in both")
    for one in overlap.examples:
        rows = (
            f"row {one['first_row']:,} ({one['first_source']})",
            f"row {one['second_row']:,} ({one['second_source']})",
        )
        print_plain(console, f"  {rows[0]} = {rows[1]}")
    if overlap.window is not None:
        share = f"{100 * overlap.covered:.2f} % of the bytes of {overlap.second}"
        print_plain(console, f"  passages of {overlap.window} bytes or more: {share} also occur in {overlap.first}")
    for one in overlap.passages:
        print_plain(console, f"    {one['bytes']:,} bytes in row {one['second_row']:,}: {one['text']!r}")


def _split_table(title: str, splits: dict[str, dict[str, Any]]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("")
    for name in splits:
        table.add_column(name, justify="right")
    for row in next(iter(splits.values())):
        table.add_row(row, *(split[row] for split in splits.values()))
    return table


def _share_table(shares: Sequence[tuple[int, float]]) -> Table:
    table = Table(title="target tokens of train", title_justify="left", title_style="bold")
    for column in ("token", "share"):
        table.add_column(column, justify="right")
    for token, share in shares[:_TOP]:
        table.add_row(str(token), f"{100 * share:.2f} %")
    if len(shares) > _TOP:
        table.add_row(f"{len(shares) - _TOP} more", f"{100 * sum(share for _, share in shares[_TOP:]):.2f} %")
    return table


def _progress(*columns: ProgressColumn) -> Progress:
    """Return a bar on a terminal, and nothing at all in a file."""
    console = Console(stderr=True)
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


class _ShowOnBar(logging.Handler):
    """Show what the data room logs as the text of a progress bar, and warnings in full."""

    def __init__(self, progress: Progress, bar: Any) -> None:
        super().__init__(logging.INFO)
        self._progress, self._bar = progress, bar

    def emit(self, record: logging.LogRecord) -> None:
        """Show one record."""
        if record.levelno < logging.WARNING:
            self._progress.update(self._bar, description=record.getMessage()[:100])
        else:
            print_plain(self._progress.console, f"warning: {record.getMessage()}")


@contextmanager
def _working(what: str) -> Iterator[None]:
    """Show a moving bar and the last thing that was logged until the work is done."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    room = logging.getLogger("titans_trm.data")
    with _progress(*columns) as progress:
        handler = _ShowOnBar(progress, progress.add_task(what, total=None))
        level = room.level
        room.addHandler(handler)
        room.setLevel(logging.INFO)
        room.propagate = False
        try:
            yield
        finally:
            room.removeHandler(handler)
            room.setLevel(level)
            room.propagate = True
