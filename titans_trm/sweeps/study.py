"""The Optuna study of a search: kept in a journal file that all its processes append to, local or on other machines."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from titans_trm.errors import InputError
from titans_trm.training.sweep_config import OptunaConfig, lower_is_better

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial, Trial

_NAME = "sweep"


def open_study(journal: Path, config: OptunaConfig, metric: str) -> "Study":
    """Return the study in `journal`, a new one if there is none.

    Raises:
        InputError: Optuna is not installed.
    """
    optuna = _import_optuna()
    storage = _storage(journal)
    study = optuna.create_study(
        storage=storage,
        study_name=_NAME,
        direction="minimize" if lower_is_better(metric) else "maximize",
        load_if_exists=True,
        pruner=_pruner(config),
    )
    # Its seed moves with the trials there are: a sampler that starts anew would draw its first values again.
    seed = config.sampler_seed + len(study.trials)
    if config.sampler == "random":
        study.sampler = optuna.samplers.RandomSampler(seed=seed)
    else:
        # constant_liar: trials that still run count as bad, so that those asked for together differ.
        study.sampler = optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=config.startup_trials, constant_liar=config.jobs > 1
        )
    return study


class TrialReporter:
    """Tells the study how a trial goes, from within its job.

    Args:
        journal: of the study.
        config: of the search.
        number: of the trial, which is that of the job.
    """

    def __init__(self, journal: Path, config: OptunaConfig, number: int) -> None:
        optuna = _import_optuna()
        self.study: Study = optuna.load_study(study_name=_NAME, storage=_storage(journal), pruner=_pruner(config))
        self.number = number
        self._trial: Trial = optuna.trial.Trial(self.study, self._frozen()._trial_id)

    def __call__(self, value: float, step: int) -> bool:
        """Report a validation after `step` optimiser steps; return whether the trial is to end."""
        if step not in self._frozen().intermediate_values:  # a resumed run may come by once more
            self._trial.report(value, step)
        return self._trial.should_prune()

    def _frozen(self) -> "FrozenTrial":
        return self.study.get_trials(deepcopy=False)[self.number]


def _import_optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise InputError(
            'sweep=optuna needs Optuna; install the extra: uv sync --extra sweep, or pip install "titans-trm[sweep]".'
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _storage(journal: Path) -> Any:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    return JournalStorage(JournalFileBackend(str(journal)))


def _pruner(config: OptunaConfig) -> Any:
    import optuna

    if config.pruner == "off":
        return optuna.pruners.NopPruner()
    return optuna.pruners.MedianPruner(
        n_startup_trials=config.startup_trials, n_warmup_steps=config.pruner_warmup_steps
    )
