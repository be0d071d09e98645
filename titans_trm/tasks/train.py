"""`train.py`: make or resume a run, train it, validate the best weights, leave a run folder that explains itself."""

import contextlib
import dataclasses
import gc
import logging
import time
from pathlib import Path
from typing import Any

import lightning
import torch

from titans_trm.config import with_run_dir
from titans_trm.data.load import TaskData, load_data
from titans_trm.errors import InputError
from titans_trm.models.titans_trm import TitansTRM
from titans_trm.profiling.memory import largest_batch, predict_training_peak
from titans_trm.sweeps.objective import check_objective, objective
from titans_trm.tasks.build import build_datamodule, build_model, build_module, build_trainer
from titans_trm.tasks.hardware import card_bytes, on_this_machine, peak_memory_bytes, prepare, training_setup
from titans_trm.tasks.out_of_memory import in_smaller_batches, out_of_memory
from titans_trm.tasks.outcome import conclude, validate_best
from titans_trm.training.callbacks.stopping import StopTraining
from titans_trm.training.checkpoint_io import newest_readable
from titans_trm.training.config import RunConfig
from titans_trm.training.console import format_bytes, format_count, print_header
from titans_trm.training.datamodule import SlotDataModule, affordable_val_examples
from titans_trm.training.disk import disk_trouble_told
from titans_trm.training.module import TRMModule
from titans_trm.training.processes import (
    Start,
    agreed_start,
    dismiss,
    is_first_process,
    join_ranks,
    shared_start,
    told_start,
)
from titans_trm.training.resume import ResumePoint, check_unchanged, continue_command, find_resume_point
from titans_trm.training.run_folder import RunFolder
from titans_trm.training.tracking import finish_tracking, start_tracking

INTERRUPTED = 130  # exit status

logger = logging.getLogger(__name__)


def train(config: RunConfig) -> dict[str, Any]:
    """Run what `config` says and return the summary, with `objective` (of a sweep) and `exit_status`.

    Processes other than the first of a distributed run write nothing, and their status is 0 however training ended:
    whoever started them would take another status for a failure.
    """
    config = _with_affordable_validation(on_this_machine(config))
    from_outside = join_ranks(config.hardware.world_size, config.hardware.accelerator)
    prepare(config)
    try:
        point = find_resume_point(config) if is_first_process() else None
        data = load_data(config.data)
        model = build_model(config.model, data.spec)
        check_objective(config.sweep.metric, data.spec)
    except InputError:
        _drop_if_empty(Path(config.run_dir))
        raise
    config, start = _open_folder(config, point, data, model, from_outside)
    folder = RunFolder(start.run_dir)
    _introduce(config, folder, data, model, start.checkpoint)
    with disk_trouble_told(folder.path, continue_command(config.overrides, config.run_dir)):
        return _carry_out(_Run(config, folder, data, model), start)


def _carry_out(run: "_Run", start: Start) -> dict[str, Any]:
    """Train, validate the best weights, and write the summary, also of a failure."""
    started = time.monotonic()
    try:
        with shared_start(start):
            stop = _fit_as_it_fits(run, start.checkpoint)
        if not is_first_process():
            return {"run_dir": str(run.folder.path), "exit_status": 0}
        summary = _summarise(run, stop, time.monotonic() - started)
    except Exception as error:
        with contextlib.suppress(OSError):  # a full disk is told of as what it is
            _record_failure(run, error, time.monotonic() - started)
        raise
    run.folder.finish(summary)
    finish_tracking(run.trainer.loggers, run.folder, summary["status"])
    conclude(run.config, summary, stop, run.data.spec.headline)
    return summary | {
        "objective": objective(check_objective(run.config.sweep.metric, run.data.spec), summary["val"]),
        "exit_status": INTERRUPTED if stop is not None and stop.by_signal else 0,
    }


class _Run:
    """What a training consists of; built anew where it goes on in smaller batches."""

    module: TRMModule
    datamodule: SlotDataModule
    trainer: lightning.Trainer

    def __init__(self, config: RunConfig, folder: RunFolder, data: TaskData, model: TitansTRM) -> None:
        self.config, self.folder, self.data = config, folder, data
        self._build(model)

    def _build(self, model: TitansTRM) -> None:
        config, data = self.config, self.data
        self.module = build_module(config, model, data.spec, data.train)
        self.datamodule = build_datamodule(config, data)
        self.trainer = build_trainer(config, self.folder.path, len(data.train), data.spec.headline)
        if is_first_process():
            start_tracking(self.trainer.loggers, self.folder)

    def go_on_in(self, config: RunConfig) -> Path | None:
        """Build everything anew and free what there was; return the checkpoint to go on from, if there is one."""
        trainer = config.trainer
        logger.warning(
            "out of memory: going on with trainer.batch_size=%d trainer.accumulate=%d, %d slots a step as before",
            trainer.batch_size,
            trainer.accumulate,
            trainer.batch_size * trainer.accumulate,
        )
        self.config = config
        changed = [f"trainer.batch_size={trainer.batch_size}", f"trainer.accumulate={trainer.accumulate}"]
        self.folder.write_resume(changed)
        prepare(config)  # the seed of initialisation
        self._build(build_model(config.model, self.data.spec))
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return newest_readable(self.folder.checkpoints)


def _fit_as_it_fits(run: _Run, checkpoint: Path | None) -> StopTraining | None:
    """Train; where memory is short, go on from the last checkpoint in smaller batches.

    Raises:
        InputError: a batch is one example already, or several processes would have to agree: what to set instead.
    """
    while True:
        try:
            return _fit(run.trainer, run.module, run.datamodule, checkpoint)
        except Exception as error:
            message = out_of_memory(error, run.config)
            if message is None:
                raise
            logger.debug("out of memory", exc_info=True)
        smaller = in_smaller_batches(run.config) if run.trainer.world_size == 1 else None
        if smaller is None:
            raise message
        checkpoint = run.go_on_in(smaller)  # out of the handler: the exception held the tensors of the step


def _with_affordable_validation(config: RunConfig) -> RunConfig:
    """Shrink the validation subset until validations take no more than their share of the run."""
    trainer = config.trainer
    affordable = affordable_val_examples(trainer, config.model.recursion, config.model.halting)
    if affordable >= trainer.val_examples:
        return config
    logger.info(
        "validating %d examples, not %d: val_time_share=%g", affordable, trainer.val_examples, trainer.val_time_share
    )
    return dataclasses.replace(config, trainer=dataclasses.replace(trainer, val_examples=affordable))


def _open_folder(
    config: RunConfig, point: ResumePoint | None, data: TaskData, model: TitansTRM, from_outside: bool
) -> tuple[RunConfig, Start]:
    """Return the configuration that names the run's folder, and where it starts; only the first process writes."""
    start = None
    if is_first_process():
        _drop_if_empty(Path(config.run_dir))  # Hydra has made it; a resumed run has a folder already
        folder = point.folder if point is not None else RunFolder.create(config.run_dir)
        config = with_run_dir(config, folder.path)
        with disk_trouble_told(folder.path, continue_command(config.overrides, config.run_dir)):
            if point is not None:
                check_unchanged(folder, config.to_dict())
                folder.write_resume(config.overrides)
            else:
                folder.write_start(config.to_dict(), config.overrides, data.manifest, parameters=model.num_params())
        start = Start(folder.path, point.checkpoint if point is not None else None)
    if from_outside:
        start = agreed_start(start)
    start = start or told_start(config.run_dir)
    return with_run_dir(config, start.run_dir), start


def _drop_if_empty(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.rmdir()


def _introduce(config: RunConfig, folder: RunFolder, data: TaskData, model: TitansTRM, checkpoint: Path | None) -> None:
    """Say what is about to happen, before it happens."""
    if not is_first_process():
        return
    trainer, hardware = config.trainer, config.hardware
    test = data.manifest["splits"]["test"]["count"]
    limit = f", at most {trainer.max_time:g} minutes" if trainer.max_time is not None else ""
    lines = {
        "model": f"{config.model.name}, {format_count(model.num_params())} parameters, "
        f"{model.net_calls_per_step} net calls a step, "
        f"up to {model.config.halting.max_supervision_steps} steps an example",
        "data": f"{data.spec.name} ({data.manifest['source']}): {len(data.train):,} train, "
        f"{len(data.val):,} validation, {test:,} test (untouched)",
        "device": f"{hardware.name}, {trainer.precision}, {torch.get_num_threads()} CPU threads",
        "memory": _memory_line(config, model),
        "training": f"{trainer.max_steps:,} steps of {_slots(config)}{limit}; "
        f"{trainer.val_examples} examples validated every {trainer.val_every_steps:,} steps",
        "folder": str(folder.path),
    }
    if checkpoint is not None:
        lines["resuming"] = str(checkpoint)
    print_header(config.experiment, lines)


def _memory_line(config: RunConfig, model: TitansTRM) -> str:
    """Say what training will take and, where the card is too small for it, the largest batch that fits."""
    setup, card = training_setup(config), card_bytes(config)
    predicted = predict_training_peak(model.config, setup)
    line = f"{format_bytes(predicted.total_bytes)} predicted for training"
    if card is None:
        return line
    line += f", the card has {format_bytes(card)}"
    if predicted.total_bytes <= card:
        return line
    fitting = largest_batch(model.config, card, setup, known=predicted)
    if not fitting:
        return f"{line}: not even a batch of 1 fits; set model.recursion.checkpointing=true or take a smaller model"
    accumulate = -(-setup.batch_size * setup.accumulate // fitting)
    return f"{line}: too little; trainer.batch_size={fitting} trainer.accumulate={accumulate} fits"


def _slots(config: RunConfig) -> str:
    """Return how many slots a step has, and how they are spread over processes."""
    count, world_size = config.trainer.batch_size * config.trainer.accumulate, config.hardware.world_size
    if world_size == 1:
        return f"{count} slots"
    return (
        f"{count * world_size} slots, {count} on each of {world_size} processes"
        if world_size
        else f"{count} slots a process"
    )


def _fit(
    trainer: lightning.Trainer, module: TRMModule, datamodule: SlotDataModule, checkpoint: Path | None
) -> StopTraining | None:
    """Train; return why training ended before its last step, if it did."""
    try:
        trainer.fit(module, datamodule=datamodule, ckpt_path=checkpoint, weights_only=True)
    except StopTraining as stop:
        return stop
    except SystemExit as error:  # what Lightning makes of Ctrl-C, with a status of its own
        raise KeyboardInterrupt from error
    finally:
        dismiss(getattr(trainer.strategy.launcher, "procs", []))
    return None


def _summarise(run: _Run, stop: StopTraining | None, seconds: float) -> dict[str, Any]:
    config, folder, module, trainer = run.config, run.folder, run.module, run.trainer
    train_metrics = _logged(trainer, "train")
    best = folder.best_checkpoint if folder.best_checkpoint.is_file() else folder.last_checkpoint
    if stop is not None and (stop.by_signal or stop.pruned):
        val = _logged(trainer, "val")  # whoever stops a run is not kept waiting, and a pruned trial is not worth more
    else:
        val = validate_best(config, best, run.data, module, run.datamodule, seconds)
    assert module.slots is not None
    return {
        "status": "completed" if stop is None else "stopped",
        "experiment": config.experiment,
        "run_dir": str(folder.path),
        "parameters": module.model.num_params(),
        "global_step": trainer.global_step,
        "examples_finished": module.slots.examples_finished,
        "wall_seconds": seconds,
        "train": train_metrics,
        "val": val,
        "best_checkpoint": str(best.relative_to(folder.path)),
        "peak_memory_bytes": peak_memory_bytes(),
        "seed": config.seed,
        "tags": config.tags,
        **({} if stop is None else {"stopped_by": stop.by}),
    }


def _logged(trainer: lightning.Trainer, split: str) -> dict[str, float]:
    prefix = f"{split}/"
    return {
        name.removeprefix(prefix): float(value)
        for name, value in trainer.callback_metrics.items()
        if name.startswith(prefix)
    }


def _record_failure(run: _Run, error: Exception, seconds: float) -> None:
    """Leave a summary that says why; the error itself goes on to the entry point."""
    if not is_first_process():
        return
    config, folder, trainer = run.config, run.folder, run.trainer
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    folder.finish(
        {
            "status": "failed",
            "experiment": config.experiment,
            "run_dir": str(folder.path),
            "parameters": run.module.model.num_params(),
            "global_step": trainer.global_step,
            "examples_finished": None,
            "wall_seconds": seconds,
            "train": _logged(trainer, "train"),
            "val": _logged(trainer, "val"),
            "best_checkpoint": None,
            "peak_memory_bytes": peak_memory_bytes(),
            "seed": config.seed,
            "tags": config.tags,
            "error": reason if isinstance(error, InputError) else f"{type(error).__name__}: {reason}",
        }
    )
    finish_tracking(trainer.loggers, folder, "failed")
