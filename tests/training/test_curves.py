import math
import random
import time
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from matplotlib.image import imread
from torch import Tensor, nn
from torch.utils.data import DataLoader

from titans_trm.errors import InputError
from titans_trm.training.callbacks import curves
from titans_trm.training.callbacks.curves import LearningCurves, draw_curves, points
from titans_trm.training.callbacks.metrics_csv import MetricsCSV, read_metrics

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),  # raised by torch inside Lightning 2.6
]


def write_run(path: Path, *, steps: int = 3000, log: int = 10, val: int = 250, full: bool = True) -> None:
    """Write the metrics of a plausible run: loss falls, accuracy rises, thinking gets shorter."""
    metrics = MetricsCSV(path, log_every_steps=log, train_examples=800)
    metrics.start(0)
    draw = random.Random(0)
    for step in range(log, steps + 1, log):
        share = 1 / (1 + math.exp(-(step - 1200) / 250))
        accuracy = min(1.0, max(0.0, share + draw.gauss(0, 0.04)))
        depth = 16 - 12 * share + draw.gauss(0, 0.4)
        train = {
            "loss": 2.0 * (1 - share) + 0.02 + abs(draw.gauss(0, 0.02)),
            "cross_entropy": 1.8 * (1 - share) + 0.01 + abs(draw.gauss(0, 0.02)),
            "halting_loss": 0.2 * math.exp(-(((step - 1200) / 500) ** 2)) + 0.01,
            "exact_accuracy": accuracy,
            "mean_supervision_steps": depth,
            "halting_std": 3 * share + abs(draw.gauss(0, 0.1)),
            "learning_rate": 1e-3 * min(1.0, step / 200) * (0.5 + 0.5 * math.cos(math.pi * step / steps)),
            "examples_per_second": 120 + draw.gauss(0, 5),
        }
        metrics.append(step, "train", train)
        if step % val == 0:
            adaptive = {"exact_accuracy_adaptive": max(0.0, share - 0.05), "mean_supervision_steps_adaptive": depth}
            values = {"exact_accuracy": share * 0.97, "num_examples": 256, "cross_entropy": 1.9 * (1 - share) + 0.02}
            metrics.append(step, "val", values | adaptive)
    if full:
        metrics.append(steps, "val", {"exact_accuracy": 0.95, "num_examples": 1000, "cross_entropy": 0.05})


def labels(path: Path, png: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Return the legend of each panel of the picture that `draw_curves` draws."""
    found: list[list[str]] = []
    original = curves._legend

    def legend(*axes: Any) -> None:
        original(*axes)
        shown = axes[-1].get_legend()
        found.append([text.get_text() for text in shown.get_texts()] if shown else [])

    with monkeypatch.context() as patch:
        patch.setattr(curves, "_legend", legend)
        draw_curves(path, png)
    return found


def test_the_picture_names_every_curve_and_the_size_of_each_validation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run(tmp_path / "m.csv")
    loss, accuracy, halting, speed = labels(tmp_path / "m.csv", tmp_path / "c.png", monkeypatch)
    assert loss == ["train, total", "train, cross-entropy", "train, halting", "validation, cross-entropy"]
    assert set(accuracy) == {
        "train (mean of examples as they finish)",
        "validation, 256 examples, 95 % interval",
        "validation, 1,000 examples, 95 % interval",
        "validation, adaptive halting",
    }
    assert len(halting) == 3 and len(speed) == 2
    image = imread(tmp_path / "c.png")
    assert image.shape[0] > 600 and image.shape[1] > 900
    assert len(np.unique(image.reshape(-1, image.shape[2]), axis=0)) > 100
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".csv"] == ["c.png"]


def test_a_run_without_rows_is_drawn_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    MetricsCSV(tmp_path / "m.csv", log_every_steps=1, train_examples=1).start(0)
    assert labels(tmp_path / "m.csv", tmp_path / "c.png", monkeypatch) == [[], [], [], []]
    assert (tmp_path / "c.png").stat().st_size > 1000


def test_a_diverged_run_and_one_validation_without_its_size_are_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = MetricsCSV(tmp_path / "m.csv", log_every_steps=1, train_examples=1)
    metrics.append(1, "train", {"loss": -0.5, "exact_accuracy": 0.0})
    metrics.append(2, "train", {"loss": float("nan"), "exact_accuracy": float("inf")})
    metrics.append(2, "val", {"exact_accuracy": 0.25})
    read = read_metrics(tmp_path / "m.csv")
    assert points(read, "train", "loss") == ([1], [-0.5])
    assert points(read, "train", "exact_accuracy") == ([1], [0.0])
    assert labels(tmp_path / "m.csv", tmp_path / "c.png", monkeypatch)[1] == [
        "train (mean of examples as they finish)",
        "validation",
    ]


def test_a_running_mean_is_centred_and_shrinks_at_the_ends() -> None:
    assert curves._running_mean([1.0, 3.0, 5.0, 7.0], 1) == [2.0, 3.0, 5.0, 6.0]


def test_a_curve_leaves_out_validations_of_other_sizes(tmp_path: Path) -> None:
    write_run(tmp_path / "m.csv", steps=500)
    read = read_metrics(tmp_path / "m.csv")
    assert points(read, "val", "exact_accuracy")[0] == [250, 500, 500]
    assert points(read, "val", "exact_accuracy", of_subset=True)[0] == [250, 500]
    assert points(read, "val", "no_such_metric") == ([], [])


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"m\.csv does not exist"):
        draw_curves(tmp_path / "m.csv", tmp_path / "c.png")


class Tiny(lightning.LightningModule):
    def __init__(self, fail_at: int | None = None) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 1)
        self.fail_at = fail_at

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        if self.global_step == self.fail_at:
            raise RuntimeError("broken")
        loss = self.layer(batch).square().mean()
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("val/exact_accuracy", self.layer(batch).sigmoid().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(model: Tiny, *callbacks: Callback) -> None:
    loader: DataLoader[Any] = DataLoader(torch.randn(8, 4, 3), batch_size=None)  # type: ignore[arg-type]
    trainer = lightning.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        max_steps=8,
        max_epochs=-1,
        val_check_interval=2,
        callbacks=list(callbacks),
    )
    trainer.fit(model, loader, loader)


class CountingCurves(LearningCurves):
    drawings = 0

    def _draw(self, trainer: lightning.Trainer) -> None:
        self.drawings += 1
        super()._draw(trainer)


def test_curves_are_drawn_at_most_every_so_often_and_at_the_end(tmp_path: Path) -> None:
    metrics = MetricsCSV(tmp_path / "m.csv", log_every_steps=1, train_examples=8)
    often = CountingCurves(tmp_path / "m.csv", tmp_path / "often.png", every_seconds=0.0)
    seldom = CountingCurves(tmp_path / "m.csv", tmp_path / "seldom.png", every_seconds=3600.0)
    fit(Tiny(), metrics, often, seldom)
    assert (often.drawings, seldom.drawings) == (5, 2)
    assert (tmp_path / "often.png").is_file() and (tmp_path / "seldom.png").is_file()


def test_curves_of_a_failed_run_are_drawn(tmp_path: Path) -> None:
    metrics = MetricsCSV(tmp_path / "m.csv", log_every_steps=1, train_examples=8)
    with pytest.raises(RuntimeError, match="broken"):
        fit(Tiny(fail_at=1), metrics, LearningCurves(tmp_path / "m.csv", tmp_path / "c.png"))
    assert (tmp_path / "c.png").is_file()


def test_a_picture_that_cannot_be_written_does_not_end_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    metrics = MetricsCSV(tmp_path / "m.csv", log_every_steps=1, train_examples=8)
    fit(Tiny(), metrics, LearningCurves(tmp_path / "m.csv", tmp_path / "no" / "such" / "c.png"))
    assert "c.png could not be written" in caplog.text
    assert read_metrics(tmp_path / "m.csv")["step"][-1] == 8


def test_drawing_a_long_run_takes_seconds_at_most(tmp_path: Path) -> None:
    write_run(tmp_path / "m.csv", steps=20_000)
    begin = time.process_time()
    draw_curves(tmp_path / "m.csv", tmp_path / "c.png")
    assert time.process_time() - begin < 10
