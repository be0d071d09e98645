import io
import re
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from torch import Tensor, nn
from torch.utils.data import DataLoader

from titans_trm.training.callbacks import progress
from titans_trm.training.callbacks.progress import StepClock, TrainingProgress
from titans_trm.training.console import format_bytes, format_count, format_duration, print_header

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),  # raised by torch inside Lightning 2.6
]


class Tiny(lightning.LightningModule):
    def __init__(self, *, reports: bool = True, fail_at: int | None = None) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 1)
        self.reports = reports
        self.fail_at = fail_at

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        if self.global_step == self.fail_at:
            raise RuntimeError("broken")
        loss = self.layer(batch).square().mean()
        if self.reports:
            values = {"exact_accuracy": 0.812, "mean_supervision_steps": 4.25, "examples_per_second": 123.4}
            self.log_dict({f"train/{name}": value for name, value in values.items()} | {"train/loss": loss})
        return loss

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("val/exact_accuracy", 249 / 256)
        if self.reports:
            self.log_dict({"val/num_examples": 256.0, "val/mean_supervision_steps_adaptive": 3.5})

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(model: Tiny, *callbacks: Callback, accumulate: int = 1, max_steps: int = 6, validate: bool = True) -> None:
    loader: DataLoader[Any] = DataLoader(torch.randn(6 * accumulate, 4, 3), batch_size=None)  # type: ignore[arg-type]
    trainer = lightning.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        max_steps=max_steps,
        max_epochs=-1,
        val_check_interval=3 * accumulate if validate else None,
        limit_val_batches=1.0 if validate else 0,
        accumulate_grad_batches=accumulate,
        callbacks=list(callbacks),
    )
    trainer.fit(model, loader, loader)


def plain_console() -> tuple[Console, io.StringIO]:
    text = io.StringIO()
    return Console(file=text, width=80), text


def terminal() -> tuple[Console, io.StringIO]:
    text = io.StringIO()
    return Console(file=text, force_terminal=True, width=100, height=30, color_system=None), text


def test_a_file_gets_readable_lines_with_the_numbers_a_person_wants() -> None:
    console, text = plain_console()
    fit(Tiny(), TrainingProgress(refresh_seconds=1e-9, console=console))
    lines = text.getvalue().splitlines()
    assert "\x1b" not in text.getvalue()
    assert lines[0].startswith("train exact: running mean over the examples that finished")
    assert re.fullmatch(
        r"step 1/6 \| loss \S+ \| train exact 81\.2 % \(running mean\) \| 4\.2 thinking steps \| 123 examples/s "
        r"\| 0\.\d s elapsed, \d+\.\d s left",
        lines[1],
    )
    assert "val exact 97.3 % [94.5, 98.7] of 256, 3.5 thinking steps when adaptive, at step 3" in lines
    assert [line.split(" | ")[0] for line in lines if line.startswith("step")] == [
        f"step {n}/6" for n in (*range(1, 7), 6)
    ]
    assert lines[-1].endswith("elapsed")


def test_a_file_is_not_flooded() -> None:
    console, text = plain_console()
    fit(Tiny(), TrainingProgress(refresh_seconds=3600.0, console=console), max_steps=30)
    steps = [line.split(" | ")[0] for line in text.getvalue().splitlines() if line.startswith("step")]
    assert steps == ["step 1/30", "step 30/30"]


def test_before_the_first_report_loss_and_duration_of_a_step_are_shown() -> None:
    console, text = plain_console()
    fit(Tiny(reports=False), TrainingProgress(refresh_seconds=1e-9, console=console))
    lines = text.getvalue().splitlines()
    assert re.search(r"^step 1/6 \| loss \S+ \| 0\.\d s per step \|", lines[1])
    assert "val exact 97.3 %, at step 3" in lines


def test_a_terminal_gets_a_live_display_that_stays_when_training_ends() -> None:
    console, text = terminal()
    fit(Tiny(), TrainingProgress(console=console))
    last = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text.getvalue()).splitlines()[-3:]
    assert re.search(r"━+ step 6/6 \| 0\.\d s elapsed, 0\.0 s left", last[0])
    assert "train exact 81.2 % (running mean)" in last[1]
    assert last[2].startswith("val exact 97.3 % [94.5, 98.7] of 256")
    assert text.getvalue().endswith("\x1b[?25h")  # the cursor is back


def test_a_failure_gives_the_terminal_back() -> None:
    console, text = terminal()
    bar = TrainingProgress(console=console)
    with pytest.raises(RuntimeError, match="broken"):
        fit(Tiny(fail_at=2), bar)
    assert bar._live is None
    assert "\x1b[?25h" in text.getvalue()


def test_the_display_tells_that_it_validates() -> None:
    console, _ = plain_console()
    bar, seen = TrainingProgress(console=console), []

    class Look(Callback):
        def on_validation_batch_end(self, *_: Any, **__: Any) -> None:
            table = next(iter(bar._render().renderables))
            capture, text = plain_console()
            capture.print(table)
            seen.append(text.getvalue())

    fit(Tiny(), bar, Look())
    assert seen and all("validating" in line for line in seen[2:])


def test_accumulated_batches_are_not_steps() -> None:
    console, text = plain_console()
    fit(Tiny(), TrainingProgress(refresh_seconds=1e-9, console=console), accumulate=2, max_steps=3, validate=False)
    steps = [line.split(" | ")[0] for line in text.getvalue().splitlines() if line.startswith("step")]
    assert steps == ["step 1/3", "step 2/3", "step 3/3", "step 3/3"]


def test_a_disabled_bar_is_silent_and_print_goes_to_its_console() -> None:
    console, text = plain_console()
    bar = TrainingProgress(refresh_seconds=1e-9, console=console)
    bar.disable()
    fit(Tiny(), bar)
    assert text.getvalue() == ""
    bar.enable()
    bar.print("hello")
    assert text.getvalue() == "hello\n"


def test_refresh_must_be_positive() -> None:
    with pytest.raises(ValueError, match="refresh_seconds=0"):
        TrainingProgress(refresh_seconds=0)


class FakeTime:
    """A clock that a test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(progress.time, "monotonic", lambda: self.now)


def test_time_left_counts_steps_and_validations_but_not_a_slow_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    time = FakeTime(monkeypatch)
    clock = StepClock()
    clock.start(0, 100)
    assert clock.seconds_left(None) is None
    time.now += 60.0
    assert clock.step(1)
    assert clock.seconds_left(None) == pytest.approx(99 * 60.0)
    for step in range(2, 11):
        time.now += 2.0
        assert clock.step(step)
    assert not clock.step(10)
    assert clock.seconds_per_step == pytest.approx(2.0)
    clock.pause()
    time.now += 30.0
    clock.resume(10)
    assert clock.seconds_left(None) == pytest.approx(90 * 2.0 + 9 * 30.0)
    time.now += 2.0
    clock.step(11)
    assert clock.seconds_per_step == pytest.approx(2.0)
    assert clock.elapsed == pytest.approx(60 + 18 + 30 + 2)


def test_time_left_is_to_whichever_end_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    time = FakeTime(monkeypatch)
    clock = StepClock()
    clock.start(500, 1000)
    time.now += 3.0
    clock.step(501)
    assert clock.seconds_left(60.0) == pytest.approx(57.0)
    assert clock.seconds_left(1e6) == pytest.approx(499 * 3.0)
    time.now += 1000.0
    assert clock.seconds_left(60.0) == 0.0
    clock.start(0, -1)
    assert clock.seconds_left(None) is None
    assert clock.seconds_left(10.0) == pytest.approx(10.0)


def test_recent_steps_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    time = FakeTime(monkeypatch)
    clock = StepClock()
    clock.start(0, 1000)
    for step in range(1, 300):
        time.now += 5.0 if step < 200 else 1.0
        clock.step(step)
    assert clock.seconds_per_step == pytest.approx(1.0)


def test_the_header_is_a_frame_on_a_terminal_and_plain_lines_in_a_file() -> None:
    lines = {"model": "trm_nano, [812 k] parameters " + "x" * 100, "data": "sudoku"}
    console, text = plain_console()
    print_header("quickstart", lines, console)
    assert text.getvalue() == f"run: quickstart\nmodel: {lines['model']}\ndata: sudoku\n"
    console, text = terminal()
    print_header("quickstart", lines, console)
    assert "─ quickstart ─" in text.getvalue() and "[812 k]" in text.getvalue()
    assert max(len(line) for line in text.getvalue().splitlines()) <= 100


def test_the_header_goes_to_standard_output_by_default(capsys: pytest.CaptureFixture[str]) -> None:
    print_header("quickstart", {})
    assert capsys.readouterr().out == "run: quickstart\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0.0 s"),
        (4.24, "4.2 s"),
        (9.97, "10 s"),
        (59.7, "1 min 0 s"),
        (185, "3 min 5 s"),
        (3599.8, "1 h 0 min"),
        (7830, "2 h 10 min"),
        (86399, "1 d 0 h"),
        (100 * 3600, "4 d 4 h"),
    ],
)
def test_durations_are_readable(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_counts_and_sizes_are_readable() -> None:
    assert [format_count(n) for n in (812, 25_149_440, 999_999, 1_500, 4e9)] == ["812", "25.1 M", "1 M", "1.5 k", "4 G"]
    assert [format_bytes(n) for n in (12, 2048, 5 * 2**20, 6 * 2**30)] == ["12 B", "2.0 KiB", "5.0 MiB", "6.0 GiB"]
