"""The run folder: what a run leaves on disk, and where. Its layout is a contract that other tools read.

Every text file is written whole or not at all (temporary file, flush to the disk, rename), in UTF-8; JSON has no NaN.
"""

import contextlib
import itertools
import json
import math
import os
import re
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from titans_trm.errors import InputError
from titans_trm.training.disk import naming
from titans_trm.training.environment import describe_environment
from titans_trm.training.reproducibility import reproducibility_checklist

STATUSES = ("completed", "stopped", "failed")
SUMMARY_KEYS = (
    "status",
    "experiment",
    "run_dir",
    "parameters",
    "global_step",
    "examples_finished",
    "wall_seconds",
    "train",
    "val",
    "best_checkpoint",
    "peak_memory_bytes",
    "seed",
)
# The run's free words; one line on why it failed; whether signal, time or pruning stopped it.
OPTIONAL_SUMMARY_KEYS = ("tags", "error", "stopped_by")

_CONFIG = "config.yaml"  # what makes a folder a run folder


class RunFolder:
    """Paths and text files of one run; make one with `create`, `open` or `latest`."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / _CONFIG
        self.overrides = self.path / "overrides.yaml"
        self.environment = self.path / "environment.json"
        self.data_manifest = self.path / "data_manifest.json"
        self.reproducibility = self.path / "reproducibility.md"
        self.metrics = self.path / "metrics.csv"
        self.summary = self.path / "summary.json"
        self.curves = self.path / "curves.png"
        self.report = self.path / "report.html"
        self.checkpoints = self.path / "checkpoints"
        self.last_checkpoint = self.checkpoints / "last.ckpt"
        self.best_checkpoint = self.checkpoints / "best.ckpt"
        self.tensorboard = self.path / "tensorboard"

    def evaluation(self, split: str) -> Path:
        """Return the path of the evaluation of `split`."""
        return self.path / "evaluation" / f"{split}.json"

    @classmethod
    def create(cls, path: str | Path) -> "RunFolder":
        """Claim a new folder at `path`, or at `path-2`, `path-3`, ... if that is in use.

        The claim is the making of `checkpoints/`, which succeeds for one process only: two runs started in the same
        second get two folders. An empty folder that already exists is taken.

        Raises:
            InputError: the folder cannot be written.
        """
        for number in itertools.count(1):
            candidate = Path(path) if number == 1 else Path(f"{path}-{number}")
            try:
                candidate.mkdir(parents=True, exist_ok=True)
                if any(candidate.iterdir()):
                    continue
                (candidate / "checkpoints").mkdir()
            except FileExistsError:
                if not candidate.is_dir():
                    raise InputError(f"run_dir={candidate} is a file; choose the name of a folder.") from None
                continue  # another run was faster
            except OSError as error:
                raise InputError(
                    f"run_dir={candidate} cannot be written ({error.strerror}); choose another folder with "
                    "run_dir=<folder> or the variable TITANS_TRM_RUN_DIR."
                ) from error
            return cls(candidate)
        raise AssertionError("itertools.count does not end")

    @classmethod
    def open(cls, path: str | Path) -> "RunFolder":
        """Return the existing run folder at `path`.

        Raises:
            InputError: there is no run folder.
        """
        folder = cls(path)
        if not folder.path.is_dir():
            raise InputError(f"run={path} does not exist; give a folder such as runs/<experiment>/<date>, or latest.")
        if not folder.config.is_file():
            raise InputError(
                f"run={path} is not a run folder: it has no {_CONFIG}. Give the folder train.py printed last."
            )
        return folder

    @classmethod
    def latest(
        cls,
        root: str | Path,
        experiment: str | None = None,
        *,
        unfinished: bool = False,
        with_checkpoint: bool = False,
    ) -> "RunFolder":
        """Return the run under `root` that was started last.

        Args:
            root: folder of all runs.
            experiment: look at `root/<experiment>` only.
            unfinished: leave out runs that completed.
            with_checkpoint: leave out runs without a checkpoint.

        Raises:
            InputError: no such run.
        """
        base = Path(root) / experiment if experiment else Path(root)
        runs = [
            run
            for run in runs_under(base)
            if not (unfinished and run.status == "completed") and (run.has_checkpoint or not with_checkpoint)
        ]
        if not runs:
            kind = " unfinished" if unfinished else ""
            having = " with a checkpoint" if with_checkpoint else ""
            raise InputError(
                f"there is no{kind} run{having} under {base}; start one with train.py, or name its folder."
            )
        return max(runs, key=lambda run: run._started)

    @property
    def status(self) -> str | None:
        """How the run ended, or None while it runs and after a kill."""
        return _read_json(self.summary).get("status")

    @property
    def has_checkpoint(self) -> bool:
        """Whether the run can be resumed or evaluated."""
        return self.last_checkpoint.is_file() or self.best_checkpoint.is_file()

    @property
    def _started(self) -> tuple[float, int]:
        """When the run started; for equal times the number behind its name decides."""
        suffix = re.search(r"-(\d+)$", self.path.name)
        order = int(suffix[1]) if suffix else 0
        try:
            return datetime.fromisoformat(_read_json(self.environment)["date"]).timestamp(), order
        except (KeyError, TypeError, ValueError):
            return self.config.stat().st_mtime, order

    def write_start(
        self,
        config: Mapping[str, Any],
        overrides: list[str],
        data_manifest: Mapping[str, Any],
        *,
        parameters: int | None = None,
    ) -> None:
        """Write what is known when a run starts: configuration, environment, data, checklist.

        Args:
            config: the resolved configuration as plain values.
            overrides: what the user typed on the command line.
            data_manifest: the data's own description, with counts and checksums.
            parameters: of the model, for the checklist.
        """
        write_text(self.overrides, _to_yaml(overrides))
        write_json(self.environment, describe_environment())
        write_json(self.data_manifest, data_manifest)
        write_text(self.config, _to_yaml(config))
        self._write_checklist({"parameters": parameters})

    def write_resume(self, overrides: list[str]) -> None:
        """Add the environment of a resumed part to `environment.json`; what the run started with stays."""
        environment = _read_json(self.environment)
        resumed = [*environment.get("resumed", []), {"overrides": overrides, **describe_environment()}]
        write_json(self.environment, {**environment, "resumed": resumed})

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write `summary.json`; NaN and infinity become null.

        Raises:
            ValueError: a key is missing or unknown, or the status is not one of `STATUSES`.
        """
        missing = [key for key in SUMMARY_KEYS if key not in summary]
        if missing:
            raise ValueError(f"the summary lacks {', '.join(missing)}; give each, null where it is not known.")
        unknown = [key for key in summary if key not in SUMMARY_KEYS + OPTIONAL_SUMMARY_KEYS]
        if unknown:
            raise ValueError(f"the summary has unknown keys {', '.join(unknown)}; put numbers under train or val.")
        if summary["status"] not in STATUSES:
            raise ValueError(f"status={summary['status']!r} is not one of {', '.join(STATUSES)}.")
        write_json(self.summary, summary)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write `summary.json` and complete the checklist with times and results."""
        self.write_summary(summary)
        self._write_checklist(to_plain(summary))

    def _write_checklist(self, summary: Mapping[str, Any]) -> None:
        config = yaml.safe_load(self.config.read_text(encoding="utf-8"))
        overrides = yaml.safe_load(self.overrides.read_text(encoding="utf-8")) or []
        environment, manifest = _read_json(self.environment), _read_json(self.data_manifest)
        text = reproducibility_checklist(self.path, config, overrides, environment, manifest, summary)
        write_text(self.reproducibility, text)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    write_text(path, json.dumps(to_plain(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write `text` in UTF-8 as `write_bytes` does."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content`: whoever reads `path`, now or after a power cut, finds the old file or the new one, whole."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        except BaseException:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            raise


def to_plain(value: Any) -> Any:
    """Return `value` as dicts, lists, texts, numbers and None.

    Raises:
        TypeError: a value has no plain form.
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if getattr(value, "shape", None) == () and hasattr(value, "item"):  # a NumPy or torch number
        return to_plain(value.item())
    raise TypeError(f"{value!r} is a {type(value).__name__}; give dicts, lists, texts and numbers.")


def _to_yaml(value: Any) -> str:
    return yaml.safe_dump(_plain_yaml(value), sort_keys=False, allow_unicode=True, width=120)


def _plain_yaml(value: Any) -> Any:
    """Return `value` as plain types; unlike JSON, YAML can tell infinity from null."""
    if isinstance(value, Mapping):
        return {str(key): _plain_yaml(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain_yaml(item) for item in value]
    return value if isinstance(value, float) else to_plain(value)


def _read_json(path: Path) -> dict[str, Any]:
    """Return the object in `path`, or an empty one where there is none to be read."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def runs_under(base: Path) -> list[RunFolder]:
    """Return the run folders at and below `base`, in no order."""
    runs = []
    for folder, children, files in os.walk(base):
        if _CONFIG in files:
            runs.append(RunFolder(folder))
            children.clear()  # a run folder holds no other run
    return runs
