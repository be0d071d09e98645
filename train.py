"""Train a model: `python train.py experiment=trm_25m`; `python train.py --help` lists the options."""

from typing import Any

import hydra
from omegaconf import DictConfig

from titans_trm.cli_entry import launch, run_job
from titans_trm.sweeps.job import as_job


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(composed: DictConfig) -> float | None:
    """Train what the composed configuration says; the run folder is the last line printed.

    Returns the objective of a sweep (`sweep.metric`, on validation), for any sweeper of Hydra.
    """

    def task(config: Any) -> dict[str, Any]:
        from titans_trm.tasks.train import train  # heavy: torch and lightning
        from titans_trm.training.processes import is_first_process

        with as_job(config.sweep.folder, config.sweep.job):
            result = train(config)
        if is_first_process():
            print(result["run_dir"], flush=True)
        return result

    return run_job(composed, "train", task).get("objective")


if __name__ == "__main__":
    launch(main, "train")
