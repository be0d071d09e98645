"""Train a model: `python train.py experiment=trm_25m`; `python train.py --help` lists the options."""

from typing import Any

import hydra
from omegaconf import DictConfig

from titans_trm.cli_entry import launch, run_job


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(composed: DictConfig) -> dict[str, Any]:
    """Train what the composed configuration says; the run folder is the last line printed."""

    def task(config: Any) -> dict[str, Any]:
        from titans_trm.tasks.train import train  # heavy: torch and lightning
        from titans_trm.training.processes import is_first_process

        result = train(config)
        if is_first_process():
            print(result["run_dir"], flush=True)
        return result

    return run_job(composed, "train", task)


if __name__ == "__main__":
    launch(main, "train")
