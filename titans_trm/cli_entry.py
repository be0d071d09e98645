"""What `train.py`, `evaluate.py` and `profile.py` share: start Hydra, report errors, set the exit status.

Exit status: 0 done, 1 failed, 2 bad configuration or input, 3 a budget or criterion is not met, 130 interrupted.
"""

import os
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from titans_trm.config import SCHEMAS, compose, config_dir, validate
from titans_trm.errors import InputError
from titans_trm.overrides import check_overrides, expand_sweep, explained
from titans_trm.sweeps.isolation import isolated_job
from titans_trm.sweeps.job import Kind, describe, note_failure
from titans_trm.training.config import RunConfig

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130

Task = Callable[[Any], dict[str, Any]]

_sweep_statuses: list[int] = []  # of the jobs of a multirun, all of which run before the process ends


def launch(main: Callable[[], Any], config_name: str) -> None:
    """Call `main`, a function under `hydra.main`, on the command line, after checking every override.

    Ends the process: with one message and status 2 on a bad configuration, without Hydra's own error report.
    """
    _sweep_statuses.clear()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises instead of printing and ending with status 1
    try:
        with explained():
            _check_command_line(config_name)
            main()
        sys.exit(max(_sweep_statuses, default=0))
    except InputError as error:
        _fail(error)
    except Exception:
        traceback.print_exc()
        sys.exit(FAILED)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(INTERRUPTED)


def run_job(composed: DictConfig, config_name: str, task: Task) -> dict[str, Any]:
    """Run `task` on the checked configuration and return its result; its `exit_status`, if any, ends the process.

    `debug=...` shows full tracebacks. In a multirun exceptions are left to the sweeper: the other jobs run first.
    """
    settings = HydraConfig.get()
    overrides, folder = list(settings.overrides.task), str(settings.runtime.output_dir)
    debug = bool(composed.get("debug", False))
    try:
        with explained():
            config = validate(composed, SCHEMAS[config_name], run_dir=_relative(folder), overrides=overrides)
        with isolated_job():
            result = task(config)
    except InputError as error:
        if debug:
            traceback.print_exc()
        _note_failure(composed, error)
        _remove_empty(folder)
        if settings.mode == RunMode.MULTIRUN:
            raise
        _fail(error)
    except Exception as error:
        _note_failure(composed, error)
        _remove_empty(folder)
        if settings.mode == RunMode.MULTIRUN:
            raise
        traceback.print_exc()  # starts here: no frame of Hydra in it
        sys.exit(FAILED)
    status = int(result.get("exit_status", 0))
    if status and (settings.mode == RunMode.RUN or status == INTERRUPTED):
        sys.exit(status)
    _sweep_statuses.append(status)
    return result


def _check_command_line(config_name: str) -> None:
    arguments, _ = get_args_parser().parse_known_args()
    asked_for_help = arguments.help or arguments.hydra_help or arguments.info or arguments.shell_completion
    if asked_for_help or arguments.experimental_rerun or arguments.config_name or arguments.config_path:
        return
    more = [Path(arguments.config_dir)] if arguments.config_dir else []
    check_overrides(arguments.overrides, SCHEMAS[config_name], config_dir() / f"{config_name}.yaml", more=more)
    if more:
        return
    # Values are checked before Hydra makes a folder; those of a sweep's last job before its first one trains.
    for overrides in expand_sweep(arguments.overrides) if arguments.multirun else [arguments.overrides]:
        config = compose(config_name, overrides)  # type: ignore[call-overload]
        _check_mode(config, multirun=arguments.multirun)


def _check_mode(config: Any, *, multirun: bool) -> None:
    """Refuse a search that would be one run."""
    if isinstance(config, RunConfig) and config.sweep.kind != "grid" and config.sweep.job is None and not multirun:
        raise InputError(f"sweep={config.sweep.kind} is for many runs; add -m.")


def _note_failure(composed: DictConfig, error: Exception) -> None:
    """Leave the reason for the table of the sweep, if this is a job of one."""
    sweep = composed.get("sweep")
    if sweep is not None:
        kind: Kind = "input" if isinstance(error, InputError) else "failure"
        note_failure(str(sweep.get("folder")), sweep.get("job"), kind, describe(error))


def _relative(folder: str) -> str:
    """Return `folder` from here where it lies below: shorter to read, and a run folder tree can be moved."""
    path = Path(folder)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else folder


def _remove_empty(folder: str) -> None:
    """Remove the folder Hydra made if nothing was written into it."""
    if Path(folder) != Path.cwd():
        with suppress(OSError):
            Path(folder).rmdir()


def _fail(error: InputError) -> NoReturn:
    sys.stderr.write(f"error: {error}\n")
    sys.exit(BAD_INPUT)
