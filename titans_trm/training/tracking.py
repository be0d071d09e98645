"""MLflow and Weights & Biases beside the run folder: local unless told otherwise, one entry a run, resumed or not.

Both come with the extra `tracking` and are imported when `logger=mlflow` or `logger=wandb` asks for them.
"""

import json
import os
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, MLFlowLogger, WandbLogger

from titans_trm.errors import InputError
from titans_trm.training.run_folder import RunFolder, write_json

_ENDS = {"completed": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}  # in MLflow's words
_IDS = "tracking.json"  # of the run folder: what the run is called there


def mlflow_logger(*, folder: str, experiment_name: str, tracking_uri: str) -> MLFlowLogger:
    """Return a logger to MLflow.

    Args:
        folder: run folder; names the run, and tells a resumed one which entry is its own.
        experiment_name: under which MLflow lists the run.
        tracking_uri: a folder here (file:mlruns), a database (sqlite:///mlflow.db) or a server.

    Raises:
        InputError: MLflow is not installed.
    """
    _require("mlflow")
    if tracking_uri.startswith("file:") or "://" not in tracking_uri:
        # Folders are enough for one person's runs, and safe where many jobs write at once; MLflow wants that confirmed.
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    own = _ids(folder).get("mlflow")
    kind = MLFlowLogger if own is None else _Resumed
    return kind(experiment_name=experiment_name, run_name=folder, tracking_uri=tracking_uri, run_id=own)


def wandb_logger(*, folder: str, project: str, offline: bool = True) -> WandbLogger:
    """Return a logger to Weights & Biases, whose files lie in the run folder.

    Args:
        folder: run folder; names the run, and tells a resumed one which entry is its own.
        project: under which W&B lists the run.
        offline: keep everything here, for `wandb sync` later; False needs an account.

    Raises:
        InputError: W&B is not installed.
    """
    _require("wandb")
    os.environ.setdefault("WANDB_SILENT", "true")  # the screen belongs to the run
    own = _ids(folder).get("wandb")
    again: dict[str, Any] = {} if own is None else {"resume": "allow"}
    return WandbLogger(name=folder, save_dir=folder, project=project, offline=offline, id=own, **again)


def start_tracking(loggers: Iterable[Logger], folder: RunFolder) -> None:
    """Open the entries of a run, and note their names so that a resumed run finds them; in the first process only."""
    ids = {}
    for logger in loggers:
        if isinstance(logger, MLFlowLogger):
            ids["mlflow"] = logger.run_id
        elif isinstance(logger, WandbLogger):
            ids["wandb"] = logger.experiment.id
    if ids:
        write_json(folder.path / _IDS, ids)


def finish_tracking(loggers: Iterable[Logger], folder: RunFolder, status: str) -> None:
    """Hand over what the run leaves behind, and close its entries; in the first process only.

    Args:
        loggers: of the trainer.
        folder: of the run, with its summary written.
        status: completed, stopped or failed.
    """
    kept: tuple[Path, ...] = (
        folder.config,
        folder.overrides,
        folder.environment,
        folder.data_manifest,
        folder.reproducibility,
    )
    kept += (folder.metrics, folder.summary, folder.curves, folder.path / "diagnostics" / "report.md")
    files = [file for file in kept if file.is_file()]
    for logger in loggers:
        if isinstance(logger, MLFlowLogger) and logger.run_id is not None:
            for file in files:
                logger.experiment.log_artifact(logger.run_id, str(file))
            logger.experiment.set_terminated(logger.run_id, _ENDS[status])
        elif isinstance(logger, WandbLogger):
            for file in files:
                logger.experiment.save(str(file), base_path=str(folder.path), policy="now")
            logger.experiment.summary["status"] = status
            logger.experiment.finish(exit_code=1 if status == "failed" else 0)


class _Resumed(MLFlowLogger):
    """Goes on with an entry whose parameters are written: MLflow refuses to change one, such as `resume`."""

    def log_hyperparams(self, params: Any) -> None:
        """Leave them as the run started."""


def _require(package: str) -> None:
    if find_spec(package) is None:
        raise InputError(
            f"logger={package} needs an extra; install it: uv sync --extra tracking, or "
            'pip install "titans-trm[tracking]".'
        )


def _ids(folder: str) -> dict[str, str]:
    try:
        return dict(json.loads((Path(folder) / _IDS).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}
