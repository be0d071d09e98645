"""Evaluate a run: `python evaluate.py run=latest`; `python evaluate.py --help` lists the options."""

from typing import Any

import hydra
from omegaconf import DictConfig

from titans_trm.cli_entry import launch, run_job


@hydra.main(version_base="1.3", config_path="conf", config_name="evaluate")
def main(composed: DictConfig) -> dict[str, Any]:
    """Score the weights of a finished or stopped run on a split or a file."""

    def task(config: Any) -> dict[str, Any]:
        from titans_trm.tasks.evaluate import evaluate  # heavy: torch and lightning

        return evaluate(config)

    return run_job(composed, "evaluate", task)


if __name__ == "__main__":
    launch(main, "evaluate")
