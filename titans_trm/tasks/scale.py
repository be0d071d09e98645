"""`titans-trm scale RUN`: the curve of accuracy against compute of a trained model, without training it again."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from titans_trm import schema
from titans_trm.config import compose, load_config
from titans_trm.data.registry import make_task
from titans_trm.errors import InputError
from titans_trm.evaluation.plots import draw_scaling
from titans_trm.evaluation.results import Estimate
from titans_trm.evaluation.scaling import METHODS, ScalingPoint, Spending, Symmetric, scale_compute
from titans_trm.tasks.evaluate import find_weights, open_examples
from titans_trm.tasks.hardware import on_this_machine
from titans_trm.tasks.scoring import Subject
from titans_trm.training.environment import git_state
from titans_trm.training.run_folder import write_json, write_text

_TIMES_TRAINED = (0.25, 0.5, 1, 2, 4)  # default steps, in trained steps


@dataclass(frozen=True, kw_only=True)
class ScaleSettings:
    """What `titans-trm scale RUN key=value ...` takes."""

    __pydantic_config__ = {"extra": "forbid"}

    split: Literal["val", "test"] = "val"
    final: bool = False  # unlocks the test split, as in evaluate.py
    reason: str | None = None  # why a test split is used again
    examples: int | None = 200  # a fixed, seeded subset of the split; null = all
    steps: list[int] = field(default_factory=list)  # supervision steps; none: 1/4, 1/2, 1, 2 and 4 times the trained
    patience: list[int] = field(default_factory=lambda: [1, 2])  # steps unchanged before convergence ends an example
    rollouts: list[int] = field(default_factory=lambda: [2, 4, 8])  # K; none: left out
    noise: float = 0.5  # standard deviation added to initial y and z, whose entries are of order 1
    views: list[int] = field(default_factory=lambda: [2, 4, 8])  # V; none: left out
    batch_size: int = 64  # examples solved at once
    confidence: float = 0.95  # level of the intervals
    seed: int = 0  # of subset, noise, views and resampling

    def __post_init__(self) -> None:
        for key in ("steps", "patience", "rollouts", "views"):
            if min(getattr(self, key), default=1) < 1:
                raise ValueError(f"{key}={getattr(self, key)} must hold numbers of 1 or more.")
        if self.noise <= 0.0:
            raise ValueError(f"noise={self.noise} makes all rollouts equal; choose more than 0.")


def scale(run: str, settings: ScaleSettings) -> dict[str, Any]:
    """Spend compute on a run's examples in every way; write `evaluation/scaling.json`, `.md` and `.png`.

    On the test split the files are called `scaling_test`.

    Args:
        run: run folder, or `latest`.
        settings: what is tried, on which examples.

    Raises:
        InputError: as `evaluate.py`: no such run, changed data, training examples, or a test split that is locked.
    """
    config = dataclasses.replace(
        on_this_machine(compose("evaluate", [])),
        run=run,
        split=settings.split,
        final=settings.final,
        reason=settings.reason,
        max_examples=settings.examples,
        batch_size=settings.batch_size,
        confidence=settings.confidence,
        seed=settings.seed,
    )
    folder, checkpoint = find_weights(config)
    subject, name, examples, guard = open_examples(config, folder, load_config(folder.path), checkpoint)
    trained = subject.model.config.halting.max_supervision_steps
    steps = settings.steps or sorted({max(1, round(times * trained)) for times in _TIMES_TRAINED})
    task = make_task(subject.run.data)
    symmetric = task if isinstance(task, Symmetric) and settings.views else None
    spending = Spending(
        steps=steps,
        patience=settings.patience,
        rollouts=settings.rollouts,
        noise=settings.noise,
        views=settings.views if symmetric is not None else [],
    )
    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("solving", total=len(examples) * _passes(spending, trained))
        points = scale_compute(
            subject.model,
            examples,
            subject.data.spec,
            spending,
            symmetric=symmetric,
            batch_size=settings.batch_size,
            autocast=subject.autocast(),
            confidence=settings.confidence,
            seed=settings.seed,
            on_batch=lambda count: progress.advance(bar, count),
        )
    result = {
        "split": name,
        "n": len(examples),
        "groups": len(set(examples.keys)),
        "trained_supervision_steps": trained,
        "points": [dataclasses.asdict(point) for point in points],
        "settings": dataclasses.asdict(settings) | {"steps": steps},
        **_origin(subject),
        "guard": dataclasses.asdict(guard),
    }
    base = folder.evaluation("scaling" if name == "val" else f"scaling_{name}")
    title = f"{subject.run.experiment}, {name}, n = {len(examples):,}, trained for {trained} supervision steps"
    write_json(base, result)
    write_text(base.with_suffix(".md"), _markdown(points, title, settings))
    draw_scaling(base.with_suffix(".png"), points, title)
    _show(points, title, trained, settings, [base.with_suffix(ending) for ending in (".json", ".md", ".png")])
    return result


def parse_settings(words: Sequence[str]) -> ScaleSettings:
    """Return the settings of `key=value` words."""
    bare = [word for word in words if "=" not in word]
    if bare:
        raise InputError(f"{bare[0]} is no setting; write KEY=VALUE, such as steps=[4,8,16].")
    return schema.build(
        ScaleSettings, {key: yaml.safe_load(value) for key, _, value in (w.partition("=") for w in words)}
    )


def _passes(spending: Spending, trained: int) -> int:
    """Return how often every example is solved."""
    halting = len({number for number in (*spending.steps, trained) if number >= trained})
    longest = [max(numbers, default=0) for numbers in (spending.rollouts, spending.views)]
    return 1 + halting + len(set(spending.patience)) + sum(longest)


def _origin(subject: Subject) -> dict[str, Any]:
    state = git_state(Path(__file__).resolve().parents[2])
    device = next(subject.model.parameters()).device
    return {
        "run": str(subject.folder.path),
        "experiment": subject.run.experiment,
        "checkpoint": subject.checkpoint.name,
        "checkpoint_sha256": subject.checkpoint_sha256,
        "global_step": subject.global_step,
        "weights": subject.weights,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
        "commit": state["commit"] if state else None,
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
    }


_COLUMNS = ("way", "right %", "interval", "gain", "best %", "steps", "net calls", "CPU-ms", "frontier")
_ON_SCREEN = ("way", "right %", "gain", "best %", "net calls", "CPU-ms", "frontier")


def _cells(one: ScalingPoint) -> dict[str, str]:
    """Return what the tables say of a point, by column."""
    gain = one.gain
    cells = (
        METHODS[one.method].format(one.setting),
        _percent(one.accuracy.value),
        _interval(one.accuracy),
        f"{_points(gain.value)} [{_points(gain.ci_low)}, {_points(gain.ci_high)}]",
        "" if one.best_possible is None else _percent(one.best_possible.value),
        f"{one.supervision_steps:.2f}",
        f"{one.net_calls:.1f}",
        f"{1e3 * one.cpu_seconds:.1f}",
        "*" if one.frontier else "",
    )
    return dict(zip(_COLUMNS, cells, strict=True))


def _markdown(points: Sequence[ScalingPoint], title: str, settings: ScaleSettings) -> str:
    lines = [f"| {' | '.join(_COLUMNS)} |", "|---" + "|---:" * (len(_COLUMNS) - 1) + "|"]
    lines += [f"| {' | '.join(_cells(one).values())} |" for one in points]
    return f"# {title}\n\n" + "\n".join(lines) + f"\n\n{_caption(settings)}\n"


def _caption(settings: ScaleSettings) -> str:
    return (
        "Right: share of examples. Gain: points over the trained number of supervision steps on the same examples, "
        f"with its {100 * settings.confidence:g} % interval. Best: one of the rollouts or views is right. "
        "Net calls and CPU-milliseconds are of one example. *: nothing is better for as few net calls. "
        f"Noise {settings.noise:g}, seed {settings.seed}."
    )


def _show(
    points: Sequence[ScalingPoint], title: str, trained: int, settings: ScaleSettings, files: Sequence[Path]
) -> None:
    console = Console()
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, caption_justify="left")
    table.caption = _caption(settings)
    for column in _ON_SCREEN:
        table.add_column(
            column.replace(" ", "\n").replace("-", "\n") if column != "frontier" else "",
            justify="left" if column == "way" else "right",
            no_wrap=True,  # 80 columns hold them all
        )
    last = None
    for point in points:
        if last not in (None, point.method):
            table.add_section()
        cells = _cells(point)
        base = (point.method, point.setting) == ("steps", trained)
        table.add_row(*(cells[column] for column in _ON_SCREEN), style="bold" if base else None)
        last = point.method
    console.print(table)
    for file in files:
        console.print(str(file), soft_wrap=True, highlight=False)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _interval(estimate: Estimate) -> str:
    if estimate.ci_low is None or estimate.ci_high is None:
        return ""
    return f"{100 * estimate.ci_low:.1f} to {100 * estimate.ci_high:.1f}"


def _points(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:+.1f}"
