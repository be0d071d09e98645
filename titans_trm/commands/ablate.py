"""`titans-trm ablate SUITE seeds=3`: what each part of the model is worth, with seeds, intervals and tests."""

import argparse
import logging
import os
from dataclasses import fields

from titans_trm.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the suite and the settings."""
    parser.add_argument("suite", metavar="SUITE", help="a file of conf/suite: quick, memory, recursion, halting, full")
    parser.add_argument(
        "words",
        metavar="KEY=VALUE",
        nargs="*",
        help="seeds=3 or seeds=0,1,2 (default 3), jobs=N runs at once (default: CPUs / threads), threads=N of one run "
        "(default 1), folder=PATH (default runs/suite); anything else goes to train.py, e.g. trainer.max_steps=40",
    )


def run(arguments: argparse.Namespace) -> int:
    """Train what is missing and write the table."""
    from titans_trm.tasks.ablate import AblationSettings, ablate  # heavy: torch and lightning

    logging.basicConfig(level=logging.INFO, format="[%(levelname)s] %(message)s")
    known = {field.name for field in fields(AblationSettings)}
    words = [word.partition("=") for word in arguments.words]
    values = {key: value for key, _, value in words if key in known}
    overrides = [word for word in arguments.words if word.partition("=")[0] not in known]
    threads = _number("threads", values.get("threads", "1"))
    jobs = _number("jobs", values["jobs"]) if "jobs" in values else max(1, _usable_cpus() // max(1, threads))
    try:
        settings = AblationSettings(
            seeds=_seeds(values.get("seeds", "3")),
            jobs=jobs,
            threads=threads,
            folder=values.get("folder", "runs/suite"),
        )
    except ValueError as error:
        raise InputError(str(error)) from error
    return ablate(arguments.suite, settings, overrides)


def _seeds(text: str) -> list[int]:
    """Return `3` as 0, 1, 2 and `4,7` as themselves."""
    if "," in text:
        return [_number("seeds", part) for part in text.split(",") if part]
    return list(range(_number("seeds", text)))


def _number(key: str, text: str) -> int:
    if not text.strip().isdigit():
        raise InputError(f"{key}={text} is not a whole number; write for example {key}=2.")
    return int(text)


def _usable_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
