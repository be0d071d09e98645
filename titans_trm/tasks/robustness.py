"""`titans-trm robustness RUN`: attacks, corrupted clues, other data, distribution shift, forgetting."""

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import yaml
from rich.console import Console
from rich.progress import Progress

from titans_trm import schema
from titans_trm.config import load_config
from titans_trm.data.config import DataConfig
from titans_trm.data.examples import ExampleSet
from titans_trm.data.load import TaskData, load_data
from titans_trm.data.splits import shared_groups
from titans_trm.errors import InputError
from titans_trm.evaluation.forgetting import Forgetting, Material, learn_next
from titans_trm.evaluation.robustness import (
    ATTACKS,
    CORRUPTIONS,
    RobustnessTest,
    attack_embeddings,
    corrupt_clues,
    score_sets,
)
from titans_trm.evaluation.shift import Shift, detect_shift
from titans_trm.models.titans_trm import TitansTRM
from titans_trm.tasks.build import build_model
from titans_trm.tasks.report import write_report
from titans_trm.training.checkpoint_io import load_model_weights
from titans_trm.training.config import RunConfig
from titans_trm.training.datamodule import seeded_subset
from titans_trm.training.run_folder import RunFolder, write_json

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RobustnessSettings:
    """What `titans-trm robustness RUN key=value ...` takes; words that start with `data.` describe the other data."""

    __pydantic_config__ = {"extra": "forbid"}

    examples: int = 200  # of the validation split, a fixed, seeded subset
    epsilons: list[float] = field(default_factory=lambda: [0.0, 0.1, 0.2, 0.5])  # largest change of a component
    cells: list[int] = field(default_factory=lambda: [0, 1, 2, 4])  # clues corrupted
    pgd_steps: int = 5  # gradient steps of PGD
    batch_size: int = 64  # examples solved at once
    forget_steps: int = 0  # optimiser steps on the other data; 0 = forgetting is not measured
    forget_lr: float = 5e-4  # peak learning rate of these steps
    replay: float = 0.25  # share of old examples in a batch of the replay variant
    l2_sp: float = 0.05  # weight of the L2-SP variant
    alpha: float = 0.05  # chance of flagging a shift where there is none
    confidence: float = 0.95  # level of the intervals
    seed: int = 0  # of subset, noise and corrupted cells

    def __post_init__(self) -> None:
        for key in ("examples", "pgd_steps", "batch_size"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key}={getattr(self, key)} is too small; choose 1 or more.")
        for key in ("forget_steps", "l2_sp", "seed"):
            if getattr(self, key) < 0:
                raise ValueError(f"{key}={getattr(self, key)} is negative; choose 0 or more.")
        for key in ("replay", "alpha", "confidence"):
            if not 0.0 < getattr(self, key) < 1.0:
                raise ValueError(f"{key}={getattr(self, key)} is outside (0, 1); choose a share.")
        if min([*self.epsilons, *self.cells], default=-1) < 0:
            raise ValueError(f"epsilons={self.epsilons} and cells={self.cells} must be 0 or more.")


def robustness(run: str, settings: RobustnessSettings, other: Sequence[str] = ()) -> dict[str, Any]:
    """Measure a run and write `evaluation/robustness.json` and `report.html`; return the former.

    Args:
        run: run folder.
        settings: strengths and sizes.
        other: `data.key=value` words: how the other data differ from the run's own.

    Raises:
        InputError: no such run, no checkpoint, or other data that the model cannot read.
    """
    folder = RunFolder.open(run)
    if not folder.has_checkpoint:
        raise InputError(f"run={folder.path} has no checkpoint yet; wait for its first one, or choose another run.")
    if settings.forget_steps and not other:
        raise InputError("forget_steps needs other data to learn next; add words such as data.clues=[4,6].")
    config = load_config(folder.path)
    data = load_data(config.data)
    elsewhere = _other_data(config, data, other) if other else None
    model = build_model(config.model, data.spec)
    checkpoint = folder.best_checkpoint if folder.best_checkpoint.is_file() else folder.last_checkpoint
    step = int(load_model_weights(model, checkpoint)["global_step"])
    examples = seeded_subset(data.val, settings.examples, settings.seed)
    tests = _tests(model, examples, settings, data.spec.ignore_index)
    if elsewhere is not None:
        theirs = seeded_subset(elsewhere.val, settings.examples, settings.seed)
        tests.append(
            score_sets(
                model,
                [examples, theirs],
                title="Other data",
                note=f"0: the run's own validation; 1: {' '.join(other)}, groups of the training set left out.",
                batch_size=settings.batch_size,
                ignore_index=data.spec.ignore_index,
                confidence=settings.confidence,
            )
        )
    shifts = {"validation": detect_shift(data.train, data.val, alpha=settings.alpha)}
    if elsewhere is not None:
        shifts["other data"] = detect_shift(data.train, elsewhere.val, alpha=settings.alpha)
    forgetting = []
    if settings.forget_steps and elsewhere is not None:
        forgetting = _forgetting(model, config, data, elsewhere, settings)
    result = {
        "split": "val",
        "n": len(examples),
        "checkpoint": checkpoint.name,
        "global_step": step,
        "other_data": list(other),
        "settings": dataclasses.asdict(settings),
        "tests": [dataclasses.asdict(test) for test in tests],
        "shift": {name: dataclasses.asdict(shift) for name, shift in shifts.items()},
        "forgetting": [dataclasses.asdict(one) for one in forgetting],
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
    }
    write_json(folder.evaluation("robustness"), result)
    _tell(tests, shifts, forgetting)
    logger.info("%s", write_report(folder))
    return result


def parse_settings(words: Sequence[str]) -> tuple[RobustnessSettings, list[str]]:
    """Return settings and the words on the other data."""
    other = [word for word in words if word.startswith("data.")]
    values = {key: yaml.safe_load(value) for key, _, value in (w.partition("=") for w in words if w not in other)}
    return schema.build(RobustnessSettings, values), other


def _other_data(config: RunConfig, data: TaskData, words: Sequence[str]) -> TaskData:
    """Load the other data, without examples whose group the model was trained on."""
    values = dataclasses.asdict(config.data)
    for word in words:
        key, _, value = word.removeprefix("data.").partition("=")
        values[key] = yaml.safe_load(value)
    other = load_data(schema.build(DataConfig, values, "data"))
    if (other.spec.seq_len, other.spec.vocab_size) != (data.spec.seq_len, data.spec.vocab_size):
        raise InputError(
            f"{' '.join(words)} gives {other.spec.seq_len} tokens out of {other.spec.vocab_size}, the model was built "
            f"for {data.spec.seq_len} out of {data.spec.vocab_size}; choose data of the same shape."
        )
    known = shared_groups(other.val, data.train)
    rows = [row for row, key in enumerate(other.val.keys) if key not in known]
    if not rows:
        raise InputError(f"{' '.join(words)}: every validation example is of a group the model was trained on.")
    return dataclasses.replace(other, val=other.val.select(rows))


def _tests(
    model: TitansTRM, examples: ExampleSet, settings: RobustnessSettings, ignore_index: int
) -> list[RobustnessTest]:
    options: dict[str, Any] = {
        "batch_size": settings.batch_size,
        "ignore_index": ignore_index,
        "seed": settings.seed,
        "confidence": settings.confidence,
    }
    tests: list[RobustnessTest] = []
    total = len(examples) * (len(ATTACKS) * len(settings.epsilons) + len(CORRUPTIONS) * len(settings.cells))
    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("disturbing", total=total)
        options["on_batch"] = lambda count: progress.advance(bar, count)
        for attack in ATTACKS:
            tests.append(
                attack_embeddings(model, examples, attack, settings.epsilons, pgd_steps=settings.pgd_steps, **options)
            )
        tests += [corrupt_clues(model, examples, name, settings.cells, **options) for name in CORRUPTIONS]
    return [test for test in tests if test.points]


def _forgetting(
    model: TitansTRM, config: RunConfig, data: TaskData, elsewhere: TaskData, settings: RobustnessSettings
) -> list[Forgetting]:
    old = Material(
        train=data.train, probe=seeded_subset(data.val, settings.examples, settings.seed), augment=data.augment
    )
    new = Material(
        train=_without(elsewhere.train, data.val),
        probe=seeded_subset(elsewhere.val, settings.examples, settings.seed),
        augment=elsewhere.augment,
    )
    variants = [("plain", 0.0, 0.0), ("replay", settings.replay, 0.0), ("L2-SP", 0.0, settings.l2_sp)]
    found = []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("learning the other data", total=len(variants) * settings.forget_steps)
        for name, replay, l2_sp in variants:
            found.append(
                learn_next(
                    model,
                    old,
                    new,
                    name=name,
                    steps=settings.forget_steps,
                    watch_every=max(1, settings.forget_steps // 4),
                    replay=replay,
                    l2_sp=l2_sp,
                    lr=settings.forget_lr,
                    batch_size=settings.batch_size,
                    ignore_index=data.spec.ignore_index,
                    loss=config.loss,
                    seed=settings.seed,
                    confidence=settings.confidence,
                    on_step=lambda: progress.advance(bar),
                )[0]
            )
    return found


def _without(examples: ExampleSet, probe: ExampleSet) -> ExampleSet:
    """Return the examples whose group is not watched."""
    watched = shared_groups(examples, probe)
    return examples.select([row for row, key in enumerate(examples.keys) if key not in watched])


def _tell(tests: Sequence[RobustnessTest], shifts: dict[str, Shift], forgetting: Sequence[Forgetting]) -> None:
    for test in tests:
        values = ", ".join(f"{p.strength:g}: {100 * (p.exact_accuracy.value or 0):.1f} %" for p in test.points)
        logger.info("%s (%s): %s", test.title, test.unit, values)
    for name, shift in shifts.items():
        worst = shift.features[0] if shift.features else None
        detail = f"; {worst.feature} p = {worst.p_holm:.2g}" if worst is not None else ""
        logger.info("shift, training against %s: %s%s", name, "flagged" if shift.flagged else "none", detail)
    for one in forgetting:
        ends = [one.points[0], one.points[-1]]
        before, after = ((p.old.value or 0.0, p.new.value or 0.0) for p in ends)
        logger.info(
            "learning the other data, %s: old %.1f -> %.1f %%, new %.1f -> %.1f %%",
            one.name, 100 * before[0], 100 * after[0], 100 * before[1], 100 * after[1],
        )  # fmt: skip
