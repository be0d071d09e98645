"""What a training came to: the best weights validated, and the words at its end."""

import logging
from pathlib import Path
from typing import Any

import torch

from titans_trm.data.load import TaskData
from titans_trm.data.spec import Headline, TaskSpec
from titans_trm.evaluation.solving import Solved, solve_examples
from titans_trm.evaluation.statistics import wilson_interval
from titans_trm.profiling.training_step import autocast
from titans_trm.training.callbacks.stopping import StopTraining
from titans_trm.training.checkpoint_io import load_model_weights
from titans_trm.training.config import RunConfig
from titans_trm.training.console import format_bytes, format_duration, print_header
from titans_trm.training.datamodule import SlotDataModule
from titans_trm.training.module import TRMModule
from titans_trm.training.resume import continue_command

logger = logging.getLogger(__name__)


def validate_best(
    config: RunConfig, checkpoint: Path, data: TaskData, module: TRMModule, datamodule: SlotDataModule, seconds: float
) -> dict[str, Any]:
    """Validate the selected weights: the fixed subset, and the whole set where that takes no more than its share.

    The adaptive numbers are read off the full run's halting logits, at no extra cost.
    """
    load_model_weights(module.model, checkpoint)
    options: dict[str, Any] = {
        "batch_size": datamodule.val_batch_size,
        "ignore_index": data.spec.ignore_index,
        "valid": data.spec.valid,
        "autocast": autocast(module.device.type, config.trainer.precision),  # type: ignore[arg-type]
    }
    examples = datamodule.val_subset
    solved = solve_examples(module.model, examples, **options)
    per_example = solved.seconds / len(solved)
    if len(data.val) > len(examples) and per_example * len(data.val) <= config.trainer.val_time_share * seconds:
        examples = data.val
        estimate = format_duration(per_example * len(examples))
        logger.info("validating the best weights on all %d examples, about %s", len(examples), estimate)
        solved = solve_examples(module.model, examples, **options)
    right = int(solved.exact.sum())
    low, high = wilson_interval(right, len(solved))
    return {
        "num_examples": len(solved),
        "of": len(data.val),
        "weights": "ema" if config.trainer.ema_decay is not None else "raw",
        **_task_metrics(data.spec, solved),
        "exact_accuracy": right / len(solved),
        "ci_low": low,
        "ci_high": high,
        "token_accuracy": float(solved.token_accuracy.mean()),
        "cross_entropy": float(solved.cross_entropy.mean()),
        "exact_accuracy_adaptive": float(solved.adaptive_exact.float().mean()),
        "mean_supervision_steps_adaptive": float(solved.adaptive_steps.float().mean()),
        "net_calls": solved.net_calls,
        "net_calls_adaptive": int(solved.adaptive_steps.sum()) * module.model.net_calls_per_step,
    }


def conclude(config: RunConfig, summary: dict[str, Any], stop: StopTraining | None, headline: Headline) -> None:
    """Say what came out and what to type next."""
    val = summary["val"]
    lines = {"training": f"{summary['global_step']:,} steps in {format_duration(summary['wall_seconds'])}"}
    if stop is not None:
        lines["stopped"] = stop.reason
        if not stop.pruned:
            lines["continue"] = continue_command(config.overrides, config.run_dir)
    if "ci_low" in val:
        lines["validation"] = (
            f"{_told(val, headline)} on {val['num_examples']:,} of {val['of']:,} examples with {val['weights']} weights"
        )
        if config.model.halting.max_supervision_steps > 1:
            lines["validation"] += (
                f"; halting by itself {100 * val['exact_accuracy_adaptive']:.1f} % exact in "
                f"{val['mean_supervision_steps_adaptive']:.1f} steps"
            )
        lines["next"] = f"python evaluate.py run={summary['run_dir']}"
    of = "on the card" if torch.cuda.is_available() else "in all, libraries and data included"
    lines["memory"] = f"{format_bytes(summary['peak_memory_bytes'])} at the peak, {of}"
    print_header(f"{config.experiment}: {summary['status']}", lines)


def _task_metrics(spec: TaskSpec, solved: Solved) -> dict[str, float]:
    """Return the metric that only this kind of task has, by name."""
    found = {} if spec.valid is None else {"valid_optimal": float(solved.valid.float().mean())}
    return found | ({"bits_per_byte": solved.bits_per_byte} if spec.headline == "bits_per_byte" else {})


def _told(val: dict[str, Any], headline: Headline) -> str:
    """Return the headline metric in words, with exact accuracy where the headline is another one."""
    exact = f"{100 * val['exact_accuracy']:.1f} % exact [{100 * val['ci_low']:.1f}, {100 * val['ci_high']:.1f}]"
    if headline == "exact_accuracy":
        return exact
    if headline == "bits_per_byte":
        return f"{val['bits_per_byte']:.3f} bits per byte"
    words = {"valid_optimal": "valid and optimal", "token_accuracy": "of the scored tokens right"}[headline]
    return f"{100 * val[headline]:.1f} % {words}, {exact}"
