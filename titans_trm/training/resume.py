"""Which run and which checkpoint `resume=` means, and whether the configuration still fits it."""

import logging
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from titans_trm.errors import InputError
from titans_trm.training.checkpoint_io import load_checkpoint, newest_readable
from titans_trm.training.config import RunConfig
from titans_trm.training.run_folder import RunFolder

# A change of any of these would make the rest of the run another run.
_FIXED = (
    "seed",
    "data",
    "model",
    "loss",
    "optimizer.name",
    "trainer.ema_decay",
)
# These may change as long as their product, the number of slots, stays: they are spread anew.
_SPREAD = ("trainer.batch_size", "trainer.accumulate", "hardware.devices", "hardware.num_nodes")
# Where things lie and what was typed: no part of what is trained.
_IGNORED = ("run_dir", "resume", "overrides", "data.cache_dir", "logger", "sweep")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ResumePoint:
    """A run that goes on."""

    folder: RunFolder
    checkpoint: Path


def find_resume_point(config: RunConfig) -> ResumePoint | None:
    """Return where `config.resume` says to go on, or None to start anew.

    `auto` continues the run folder itself if it holds a checkpoint (a requeued job with `TITANS_TRM_RUN_DIR`), else the
    newest run of the experiment that did not complete, else starts anew. `latest` is the newest run of the experiment.
    A path is a run folder or a checkpoint inside one.

    Raises:
        InputError: there is nothing to resume where the user asked for it, or the checkpoints are damaged.
    """
    if config.resume is None:
        return None
    root = Path(config.run_dir).parent
    if config.resume == "auto":
        own = RunFolder(config.run_dir)
        point = _point_if_any(own) if own.config.is_file() else None
        if point is not None or config.sweep.job is not None:  # another run here is another job of the sweep
            return point
        try:
            newest = RunFolder.latest(root, unfinished=True, with_checkpoint=True)
        except InputError:
            return None
        return _point_if_any(newest)
    if config.resume == "latest":
        return _point(RunFolder.latest(root, with_checkpoint=True))
    path = Path(config.resume)
    if path.is_file():
        load_checkpoint(path)
        return ResumePoint(RunFolder.open(path.parent.parent), path)
    return _point(RunFolder.open(path))


def check_unchanged(folder: RunFolder, now: Mapping[str, Any]) -> None:
    """Compare the run's own configuration with `now`; log what differs.

    Raises:
        InputError: something differs that a run cannot change half-way, such as the model.
    """
    then = yaml.safe_load(folder.config.read_text(encoding="utf-8"))
    changed = [(key, old, new) for key, old, new in differences(then, now) if not key.startswith(_IGNORED)]
    lines = [f"{key}: {old} -> {new}" for key, old, new in changed]
    slots, now_slots = _slots(then), _slots(now)
    fixed = _FIXED if slots == now_slots else (*_FIXED, *_SPREAD)
    fatal = [line for line in lines if line.startswith(fixed)]
    if fatal:
        spread = any(line.startswith(_SPREAD) for line in fatal)
        product = f" An optimiser step had {slots} slots ({' x '.join(_SPREAD)}), now {now_slots}." if spread else ""
        raise InputError(
            f"{folder.path} was started with another configuration ({'; '.join(fatal)}).{product} Start a new run "
            f"without resume, or continue this one by: {continue_command(then.get('overrides', []), folder.path)}"
        )
    for line in lines:
        logger.info("changed since the run started: %s", line)


def continue_command(overrides: Sequence[str], folder: str | Path) -> str:
    """Return the command that was typed, with `resume=` in place of what named a folder."""
    own = ("resume", "run_dir")
    typed = [override for override in overrides if override.lstrip("+").partition("=")[0] not in own]
    return shlex.join(["python", "train.py", *typed, f"resume={folder}"])


def differences(then: Any, now: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield (key, old, new) of every leaf that differs."""
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        for name in sorted({*then, *now}):
            yield from differences(then.get(name), now.get(name), f"{key}.{name}" if key else name)
    elif then != now:
        yield key, then, now


def _slots(config: Mapping[str, Any]) -> int | None:
    """Return how many slots an optimiser step has over all processes; None where only the run knows."""
    found = 1
    for key in _SPREAD:
        part, _, name = key.partition(".")
        value = config.get(part, {}).get(name, 1)
        if not isinstance(value, int):
            return None
        found *= value
    return found


def _point(folder: RunFolder) -> ResumePoint:
    point = _point_if_any(folder)
    if point is None:
        raise InputError(f"{folder.path} has no last.ckpt to resume from; start a new run.")
    return point


def _point_if_any(folder: RunFolder) -> ResumePoint | None:
    checkpoint = newest_readable(folder.checkpoints)
    return None if checkpoint is None else ResumePoint(folder, checkpoint)
