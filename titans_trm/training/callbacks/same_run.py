"""All ranks train the same run, checked before the first step and written down."""

import hashlib
import json
import logging
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback

from titans_trm.errors import InputError
from titans_trm.training.ranks import Ranks
from titans_trm.training.resume import differences
from titans_trm.training.run_folder import write_json

# May differ between processes: what was typed, where data lie, and the name of a sweep, which has a time in it.
_OWN = ("overrides", "debug", "resume", "data.cache_dir", "sweep")

logger = logging.getLogger(__name__)


class SameRun(Callback):
    """Compare configuration and data of all ranks; `ranks.json` records what each of them trains.

    Args:
        folder: the run folder.
        config: this process's configuration.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        self.folder = folder
        self.config = config

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Compare; alone there is nothing to compare.

        Raises:
            InputError: a rank has another configuration or other data.
        """
        if trainer.world_size == 1:
            return
        mine = {name: value for name, value in self.config.items() if name not in _OWN}
        examples: str = trainer.datamodule.data.train.sha256  # type: ignore[attr-defined]
        about = {"host": platform.node(), "process": os.getpid(), "training_data": examples, "config": mine}
        ranks = Ranks(trainer.global_rank, trainer.world_size).objects(about)
        for rank, other in enumerate(ranks):
            found = [f"{key}: {a} and {b}" for key, a, b in differences(ranks[0]["config"], other["config"])]
            found = [line for line in found if not line.startswith(_OWN)]
            if other["training_data"] != ranks[0]["training_data"]:
                found.append("the training examples")
            if found:
                raise InputError(
                    f"processes 0 and {rank} of this run differ ({'; '.join(found)}); start all of them with the same "
                    "command and data."
                )
        if trainer.is_global_zero:
            write_json(self.folder / "ranks.json", [_record(rank, other) for rank, other in enumerate(ranks)])
            logger.info("%d processes train the same configuration on the same data", len(ranks))


def _record(rank: int, about: Mapping[str, Any]) -> dict[str, Any]:
    text = json.dumps(about["config"], sort_keys=True)
    known = {name: value for name, value in about.items() if name != "config"}
    return {"rank": rank, **known, "config_sha256": hashlib.sha256(text.encode()).hexdigest()}
