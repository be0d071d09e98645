"""Objects from a run's configuration, in one place: model, module, data module, callbacks, trainer."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
from hydra.utils import instantiate
from lightning.pytorch.callbacks import Callback, EarlyStopping, LearningRateMonitor
from lightning.pytorch.loggers import Logger
from rich.markup import escape

from titans_trm.data.examples import ExampleSet
from titans_trm.data.fitted import ClassWeights, SampleWeights
from titans_trm.data.load import TaskData
from titans_trm.data.registry import make_task
from titans_trm.data.spec import LOWER_IS_BETTER, Headline, TaskSpec
from titans_trm.diagnostics.facts import run_facts
from titans_trm.errors import InputError
from titans_trm.models.titans_trm import TitansTRM
from titans_trm.specialist.expert import check_reachable
from titans_trm.specialist.on_call import OnCall
from titans_trm.sweeps.folder import SweepFolder
from titans_trm.sweeps.study import TrialReporter
from titans_trm.tasks.strategy import build_strategy
from titans_trm.training.callbacks.checkpoints import RunCheckpoints
from titans_trm.training.callbacks.curves import LearningCurves
from titans_trm.training.callbacks.diagnostics import Diagnostics
from titans_trm.training.callbacks.ema import EMA
from titans_trm.training.callbacks.metrics_csv import MetricsCSV
from titans_trm.training.callbacks.pace import Pace
from titans_trm.training.callbacks.progress import TrainingProgress
from titans_trm.training.callbacks.pruning import TrialPruning
from titans_trm.training.callbacks.report import TrainingReport
from titans_trm.training.callbacks.same_run import SameRun
from titans_trm.training.callbacks.specialist import SpecialistOnCall
from titans_trm.training.callbacks.stopping import StopCleanly
from titans_trm.training.checkpoint_io import AtomicCheckpointIO
from titans_trm.training.config import ModelSettings, RunConfig
from titans_trm.training.datamodule import SlotDataModule
from titans_trm.training.module import TRMModule
from titans_trm.training.resume import continue_command
from titans_trm.training.sweep_config import OptunaConfig


def build_model(settings: ModelSettings, spec: TaskSpec) -> TitansTRM:
    """Build the model of `settings` for a task; a size outside its budget is an `InputError`."""
    config = settings.build(
        vocab_size=spec.vocab_size,
        seq_len=spec.seq_len,
        causal=spec.causal,
        num_puzzle_ids=spec.num_puzzle_ids,
        grid_shape=spec.grid_shape,
    )
    try:
        return TitansTRM(config)
    except ValueError as error:
        raise InputError(f"model={settings.name}: {error}") from error


def build_module(config: RunConfig, model: TitansTRM, spec: TaskSpec, train: ExampleSet | None = None) -> TRMModule:
    """Wrap `model` for training; class weights (`loss.class_weight_power`) are fitted on `train`."""
    weights = None
    if config.loss.class_weight_power > 0.0:
        if train is None:
            raise ValueError("loss.class_weight_power is above 0, so class weights are needed; pass the training set.")
        power, largest = config.loss.class_weight_power, config.loss.class_weight_max
        weights = ClassWeights.fit(train, vocab_size=spec.vocab_size, power=power, largest=largest).values
    return TRMModule(
        model,
        spec,
        loss=config.loss,
        optimizer=config.optimizer,
        scheduler=config.scheduler,
        max_steps=config.trainer.max_steps,
        config=config.to_dict(),
        compile_net=config.trainer.compile or config.hardware.compile,
        class_weights=weights,
    )


def build_datamodule(config: RunConfig, data: TaskData) -> SlotDataModule:
    """Serve `data` as slots and validation batches, training examples balanced as `data.balance` says."""
    by, weights = config.data.balance, None
    if by != "off":
        weights = SampleWeights.fit(data.train, by=by, power=config.data.balance_power).values
    return SlotDataModule(
        data,
        batch_size=config.trainer.batch_size,
        accumulate=config.trainer.accumulate,
        val_examples=config.trainer.val_examples,
        val_batch_size=config.trainer.val_batch_size or config.trainer.batch_size,
        seed=config.seed,
        weights=weights,
    )


def build_trainer(
    config: RunConfig, folder: Path, train_examples: int, headline: Headline = "exact_accuracy"
) -> lightning.Trainer:
    """Build Lightning's trainer with this run's callbacks and loggers, writing into `folder`.

    `headline` is the task's metric by which weights are chosen and results told.
    """
    trainer = config.trainer
    return lightning.Trainer(
        accelerator=config.hardware.accelerator,
        devices=config.hardware.devices,
        num_nodes=config.hardware.num_nodes,
        strategy=build_strategy(config.hardware),
        use_distributed_sampler=False,  # the slots and the validation loader share examples themselves
        precision=trainer.precision,  # type: ignore[arg-type]
        max_steps=trainer.max_steps,
        max_epochs=-1,
        val_check_interval=trainer.val_every_steps * trainer.accumulate,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        accumulate_grad_batches=trainer.accumulate,
        gradient_clip_val=trainer.gradient_clip_val,
        deterministic=trainer.deterministic,
        log_every_n_steps=trainer.log_every_steps,
        callbacks=_callbacks(config, folder, train_examples, headline),
        logger=[_instantiate(f"logger.{name}", node, Logger) for name, node in config.logger.items() if node],
        plugins=[AtomicCheckpointIO()],
        default_root_dir=folder,
        enable_model_summary=False,
    )


def _callbacks(config: RunConfig, folder: Path, train_examples: int, headline: Headline) -> list[Callback]:
    trainer = config.trainer
    checkpoints = RunCheckpoints(
        folder / "checkpoints",
        every_steps=trainer.checkpoint_every_steps,
        val_every_steps=trainer.val_every_steps,
        headline=headline,
    )
    progress = TrainingProgress(max_minutes=trainer.max_time, headline=headline)
    # Order matters: the average is updated first, the report is made from it, checkpoints see everything.
    found: list[Callback] = [SameRun(folder, config.to_dict())]
    if trainer.ema_decay is not None:
        found.append(EMA(trainer.ema_decay))
    found += [
        TrainingReport(every_steps=trainer.log_every_steps, train_examples=train_examples),
        MetricsCSV(folder / "metrics.csv", log_every_steps=trainer.log_every_steps, train_examples=train_examples),
        progress,
        Pace(progress, max_minutes=trainer.max_time, command=continue_command(config.overrides, config.run_dir)),
        LearningCurves(folder / "metrics.csv", folder / "curves.png", title=config.experiment, headline=headline),
    ]
    if config.diagnostics != "off":

        def tell(line: str) -> None:
            progress.print(escape(line), highlight=False, soft_wrap=True)

        diagnostics = Diagnostics(
            folder / "diagnostics",
            config.diagnostics,
            run_facts(config.to_dict()),
            validate=make_task(config.data).validate,
            tell=tell,
        )
        found.append(diagnostics)
        if config.specialist.kind != "off":
            found.append(_specialist(config, folder, diagnostics, tell))
    if trainer.early_stopping_patience is not None:
        found.append(
            EarlyStopping(
                f"val/{headline}",
                mode="min" if headline in LOWER_IS_BETTER else "max",
                patience=trainer.early_stopping_patience,
                check_on_train_epoch_end=False,
            )
        )
    if isinstance(config.sweep, OptunaConfig) and config.sweep.job is not None and config.sweep.pruner != "off":
        report = TrialReporter(SweepFolder(config.sweep.folder).journal, config.sweep, config.sweep.job)
        found.append(TrialPruning(config.sweep.metric or f"val/{headline}", report))
    extra = [_instantiate(f"callbacks.{name}", node, Callback) for name, node in config.callbacks.items() if node]
    # Its curve needs a logger; without one (~logger) the rate is still in metrics.csv.
    found += [one for one in extra if any(config.logger.values()) or not isinstance(one, LearningRateMonitor)]
    return [*found, checkpoints, StopCleanly(checkpoints, max_minutes=trainer.max_time)]


def _specialist(
    config: RunConfig, folder: Path, diagnostics: Diagnostics, tell: Callable[[str], None]
) -> SpecialistOnCall:
    """Put the specialist on call; one that cannot be reached is an `InputError` now, not in the middle of a run."""
    check_reachable(config.specialist)
    facts = {"experiment": config.experiment, "device": config.hardware.name}
    on_call = OnCall(folder, config.specialist, config.to_dict(), diagnostics.events, facts=facts, tell=tell)
    return SpecialistOnCall(folder, on_call, lambda: (diagnostics.engine, diagnostics.latest))


def _instantiate(key: str, node: Any, kind: type) -> Any:
    """Call the node's `_target_`; what goes wrong is the user's to fix."""
    try:
        built = instantiate(node)
    except Exception as error:
        raise InputError(f"{key} cannot be built: {error.__cause__ or error}") from error
    if not isinstance(built, kind):
        raise InputError(f"{key}._target_={node['_target_']} is a {type(built).__name__}, not a {kind.__name__}.")
    return built
