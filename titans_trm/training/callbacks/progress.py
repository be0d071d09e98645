"""What a person sees while a model trains: one live display on a terminal, readable lines in a file."""

import math
import time
from collections import deque
from typing import Any

import lightning
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar as Bar
from rich.table import Table
from rich.text import Text

from titans_trm.data.spec import Headline
from titans_trm.evaluation.statistics import wilson_interval
from titans_trm.training.console import format_duration, print_plain

_WINDOW = 50  # steps whose mean duration predicts the time left
_LIVE_SECONDS = 0.5  # between two readings of metrics for the live display; each waits for a GPU
_REDRAWS_PER_SECOND = 4
_LEGEND = "train exact: running mean over the examples that finished since the last report; val: [95 % interval] of n"


class TrainingProgress(ProgressBar):
    """Show step, loss, exact accuracy, thinking steps, speed, time left and the last validation.

    Training accuracy is the running mean over the examples that finished since the report before, and is shown as such.

    Args:
        refresh_seconds: between two lines where the output is not a terminal.
        max_minutes: time limit of this process; the time left is to whichever end comes first.
        console: where to show it; standard output if not given.
    """

    def __init__(
        self,
        *,
        refresh_seconds: float = 30.0,
        max_minutes: float | None = None,
        console: Console | None = None,
        headline: Headline = "exact_accuracy",
    ) -> None:
        super().__init__()
        if not refresh_seconds > 0.0:
            raise ValueError(f"refresh_seconds={refresh_seconds} must be greater than 0.")
        self.headline = headline
        self.refresh_seconds = refresh_seconds
        self.max_seconds = None if max_minutes is None else 60.0 * max_minutes
        self.console = console or Console()
        self.clock = StepClock()
        self._enabled = True
        self._live: Live | None = None
        self._shown_at = -float("inf")
        self._train = ""  # what the last reading of the training metrics said
        self._val = ""
        self._activity = ""

    def enable(self) -> None:
        """Show progress."""
        self._enabled = True

    def disable(self) -> None:
        """Show nothing (ranks other than the first)."""
        self._enabled = False
        self._close()

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print above the live display."""
        self.console.print(*args, **kwargs)

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Start the clock and the display."""
        self.clock.start(trainer.global_step, int(trainer.max_steps))
        if self._enabled:
            print_plain(self.console, _LEGEND)
        if self._enabled and self.console.is_terminal:
            self._live = Live(console=self.console, get_renderable=self._render, refresh_per_second=_REDRAWS_PER_SECOND)
            self._live.start(refresh=True)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Take note of a step; read the metrics only when they are about to be shown."""
        if not self._enabled or not self.clock.step(trainer.global_step):
            return
        now, wait = time.monotonic(), _LIVE_SECONDS if self._live else self.refresh_seconds
        if now - self._shown_at < wait:
            return
        self._shown_at = now
        self._train = _describe_training(trainer.callback_metrics, outputs, self.clock.seconds_per_step)
        if self._live is None:
            print_plain(self.console, f"{self._position()} | {self._train} | {self._times()}")

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Keep validation out of the duration of a step."""
        self._activity = " | validating"
        self.clock.pause()

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Show the result."""
        self._activity = ""
        self.clock.resume(trainer.global_step)
        if self._enabled and not trainer.sanity_checking and "val/exact_accuracy" in trainer.callback_metrics:
            self._val = (
                f"{_describe_validation(trainer.callback_metrics, self.headline)}, at step {trainer.global_step:,}"
            )
            if self._live is None:
                print_plain(self.console, self._val)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Leave the last state on the screen."""
        self._finish(trainer)

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        """Give the terminal back."""
        self._finish(trainer)

    def _finish(self, trainer: lightning.Trainer) -> None:
        if self._enabled and self.clock.steps_done:
            self._train = _describe_training(trainer.callback_metrics, None, self.clock.seconds_per_step)
            if self._live is None:
                elapsed = format_duration(self.clock.elapsed)
                print_plain(self.console, f"{self._position()} | {self._train} | {elapsed} elapsed")
        self._close()

    def _close(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _render(self) -> Group:
        """Return the display; called from the drawing thread too, so it reads plain attributes only."""
        total = self.clock.max_steps
        bar = Table.grid(padding=(0, 1))
        width = max(10, min(40, self.console.width - 50))
        bar.add_row(
            Bar(total=total if total > 0 else None, completed=self.clock.current, width=width),
            Text(f"{self._position()} | {self._times()}{self._activity}", overflow="ellipsis", no_wrap=True),
        )
        lines = [Text(line) for line in (self._train, self._val) if line]
        return Group(bar, *lines)

    def _position(self) -> str:
        total = f"/{self.clock.max_steps:,}" if self.clock.max_steps > 0 else ""
        return f"step {self.clock.current:,}{total}"

    def _times(self) -> str:
        left = self.clock.seconds_left(self.max_seconds)
        text = f"{format_duration(self.clock.elapsed)} elapsed"
        return f"{text}, {format_duration(left)} left" if left is not None else text


class StepClock:
    """Predict when training ends from the duration of its recent steps and of its validations."""

    def __init__(self) -> None:
        self.start(0, -1)

    def start(self, step: int, max_steps: int) -> None:
        """Start at `step`; `max_steps` below 1 means no end."""
        self.max_steps = max_steps
        self.current = self.first = step
        self._started = self._last = time.monotonic()
        self._paused_at: float | None = None
        self._durations: deque[float] = deque(maxlen=_WINDOW)
        self._validations: list[tuple[int, float]] = []  # step, seconds

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._started

    @property
    def steps_done(self) -> int:
        """Steps since the start."""
        return self.current - self.first

    @property
    def seconds_per_step(self) -> float | None:
        """Mean duration of the recent steps, validation left out; None before the first."""
        # The first step compiles and allocates: it counts only as long as there is no other.
        recent = list(self._durations)[1:] if 1 < len(self._durations) == self.steps_done else self._durations
        return sum(recent) / len(recent) if recent else None

    def step(self, step: int) -> bool:
        """Take note that `step` is done; tell whether it is a new one."""
        if step == self.current:  # a batch whose gradients are still being accumulated
            return False
        now = time.monotonic()
        self._durations.append((now - self._last) / (step - self.current))
        self.current, self._last = step, now
        return True

    def pause(self) -> None:
        """Stop counting time towards the step."""
        self._paused_at = time.monotonic()

    def resume(self, step: int) -> None:
        """Count on, after a validation at `step`."""
        if self._paused_at is not None:
            spent = time.monotonic() - self._paused_at
            self._validations.append((step, spent))
            self._last += spent
            self._paused_at = None

    def seconds_left(self, max_seconds: float | None) -> float | None:
        """Return the seconds until the last step or `max_seconds` of this process; None where neither is known."""
        ends = []
        if self.seconds_per_step is not None and self.max_steps > 0:
            steps_left = max(self.max_steps - self.current, 0)
            ends.append(steps_left * self.seconds_per_step + self._validation_seconds(steps_left))
        if max_seconds is not None:
            ends.append(max(max_seconds - self.elapsed, 0.0))
        return min(ends, default=None)

    def _validation_seconds(self, steps_left: int) -> float:
        if not self._validations:
            return 0.0
        steps = [step for step, _ in self._validations]
        spacing = max((steps[-1] - (steps[-2] if len(steps) > 1 else self.first)), 1)
        mean = sum(seconds for _, seconds in self._validations) / len(self._validations)
        return (steps_left // spacing) * mean


def _describe_training(metrics: Any, outputs: Any, seconds_per_step: float | None) -> str:
    """Return the last report in a line; before the first, the loss of the step just done and its duration."""
    loss = metrics.get("train/loss", outputs.get("loss") if isinstance(outputs, dict) else None)
    parts = [f"loss {float(loss):.4g}"] if loss is not None else []
    accuracy, depth, speed = (
        None if (value := metrics.get(f"train/{name}")) is None else float(value)
        for name in ("exact_accuracy", "mean_supervision_steps", "examples_per_second")
    )
    if accuracy is not None and math.isnan(accuracy):
        return " | ".join([*parts, "no example finished since the last report"])
    if accuracy is not None:
        parts.append(f"train exact {100 * accuracy:.1f} % (running mean)")
    if depth is not None:
        parts.append(f"{depth:.1f} thinking steps")
    if speed is not None:
        parts.append(f"{speed:.3g} examples/s")
    elif seconds_per_step is not None:
        parts.append(f"{format_duration(seconds_per_step)} per step")
    return " | ".join(parts)


def _describe_validation(metrics: Any, headline: Headline) -> str:
    """Return `val exact 97.3 % [95.1, 98.6] of 256`: the share, its 95 % interval, the number of examples.

    What the task calls its headline comes first where it is another metric.
    """
    if headline == "bits_per_byte":
        return f"val {float(metrics['val/bits_per_byte']):.3f} bits per byte"
    share = float(metrics["val/exact_accuracy"])
    text = f"val exact {100 * share:.1f} %"
    if headline != "exact_accuracy":
        text = f"val {headline.replace('_', ' ')} {100 * float(metrics[f'val/{headline}']):.1f} %, {text}"
    if "val/num_examples" in metrics:
        count = round(float(metrics["val/num_examples"]))
        low, high = wilson_interval(min(share * count, count), count)
        text += f" [{100 * low:.1f}, {100 * high:.1f}] of {count:,}"
    if "val/mean_supervision_steps_adaptive" in metrics:
        text += f", {float(metrics['val/mean_supervision_steps_adaptive']):.1f} thinking steps when adaptive"
    return text
