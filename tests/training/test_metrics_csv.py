import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader

from titans_trm.errors import InputError
from titans_trm.training.callbacks.metrics_csv import INDEX_COLUMNS, TIME_COLUMNS, MetricsCSV, read_metrics

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),  # raised by torch inside Lightning 2.6
]


class Ticks(DataLoader[Any]):
    """An endless loader that has nothing to save: what a step sees is a function of the step."""

    def __init__(self) -> None:
        super().__init__(range(10**6), batch_size=None)  # type: ignore[arg-type]

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


def data(seed: int) -> Tensor:
    return torch.randn(4, 3, generator=torch.Generator().manual_seed(seed))


class Tiny(lightning.LightningModule):
    """Counts five examples finished a step, and logs what its step makes of the data."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 1)
        self.slots = SimpleNamespace(examples_finished=0)

    def training_step(self, batch: int, batch_idx: int) -> Tensor:
        loss = self.layer(data(self.global_step)).square().mean()
        self.slots.examples_finished += 5
        self.log_dict({"train/loss": loss, "train/examples_per_second": torch.rand(())})
        return loss

    def validation_step(self, batch: int, batch_idx: int) -> None:
        values = {"val/exact_accuracy": self.layer(data(-1 - batch)).sigmoid().mean(), "val/num_examples": 256.0}
        self.log_dict(values, batch_size=4)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["finished"] = self.slots.examples_finished

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.slots.examples_finished = checkpoint["finished"]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.05)


class Interrupt(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any, **__: Any) -> None:
        if trainer.global_step == self.step:
            raise RuntimeError("killed")


def fit(
    path: Path,
    *callbacks: Callback,
    max_steps: int = 12,
    ckpt_path: Path | None = None,
    sanity: int = 1,
    accumulate: int = 1,
    every: int = 2,
) -> MetricsCSV:
    torch.manual_seed(0)
    model = Tiny()
    metrics = MetricsCSV(path, log_every_steps=every, train_examples=20)
    trainer = lightning.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        max_steps=max_steps,
        max_epochs=-1,
        num_sanity_val_steps=sanity,
        val_check_interval=3 * accumulate,
        accumulate_grad_batches=accumulate,
        check_val_every_n_epoch=None,
        callbacks=[metrics, *callbacks],
    )
    validation: DataLoader[Any] = DataLoader(range(2), batch_size=None)  # type: ignore[arg-type]
    trainer.fit(model, Ticks(), validation, ckpt_path=ckpt_path, weights_only=True if ckpt_path else None)
    return metrics


def untimed(path: Path) -> dict[str, list[Any]]:
    return {name: column for name, column in read_metrics(path).items() if name not in TIME_COLUMNS}


def test_training_and_validation_rows_are_written_where_they_are_due(tmp_path: Path) -> None:
    fit(tmp_path / "m.csv")
    read = read_metrics(tmp_path / "m.csv")
    rows = list(zip(read["step"], read["split"], strict=True))
    train, val = [(s, "train") for s in (2, 4, 6, 8, 10, 12)], [(s, "val") for s in (3, 6, 9, 12)]
    assert sorted(rows) == sorted(train + val)
    assert rows == sorted(rows, key=lambda row: row[0])
    assert read["examples_finished"] == [5.0 * step for step in read["step"]]
    assert read["epoch"] == [0.25 * step for step in read["step"]]
    for split, loss, right, n in zip(
        read["split"], read["loss"], read["exact_accuracy"], read["num_examples"], strict=True
    ):
        assert (loss is None, right is None) == (split == "val", split == "train")
        assert n == (256.0 if split == "val" else None)
    assert read["grad_norm"] == [None] * len(rows)
    assert read["wall_seconds"] == sorted(read["wall_seconds"])


def test_one_row_a_report_when_gradients_are_accumulated(tmp_path: Path) -> None:
    fit(tmp_path / "m.csv", accumulate=2, max_steps=4, sanity=0)
    read = read_metrics(tmp_path / "m.csv")
    assert [s for s, split in zip(read["step"], read["split"], strict=True) if split == "train"] == [2, 4]


@pytest.mark.parametrize(("saved", "killed"), [(3, 5), (4, 8), (6, 7), (5, 12)])
def test_an_interrupted_and_resumed_run_has_the_rows_of_an_uninterrupted_one(
    tmp_path: Path, saved: int, killed: int
) -> None:
    fit(tmp_path / "whole.csv")
    checkpoint = ModelCheckpoint(
        dirpath=tmp_path / "saved", filename="{step}", every_n_train_steps=saved, save_top_k=-1
    )
    with pytest.raises(RuntimeError, match="killed"):
        fit(tmp_path / "parts.csv", checkpoint, Interrupt(killed))
    before = read_metrics(tmp_path / "parts.csv")
    assert max(before["step"]) > saved or killed == 7
    fit(tmp_path / "parts.csv", ckpt_path=tmp_path / "saved" / f"step={saved}.ckpt")
    assert untimed(tmp_path / "parts.csv") == untimed(tmp_path / "whole.csv")


def test_a_run_killed_before_its_first_checkpoint_starts_the_file_anew(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="killed"):
        fit(tmp_path / "m.csv", Interrupt(7))
    fit(tmp_path / "m.csv")
    fit(tmp_path / "whole.csv")
    assert untimed(tmp_path / "m.csv") == untimed(tmp_path / "whole.csv")


def test_wall_seconds_go_on_after_a_resume(tmp_path: Path) -> None:
    first = MetricsCSV(tmp_path / "m.csv", log_every_steps=1, train_examples=1)
    first.start(0)
    first._earlier_seconds = 100.0
    first.append(1, "train", {"loss": 1.0})
    second = MetricsCSV(tmp_path / "m.csv", log_every_steps=1, train_examples=1)
    second.start(1)
    assert second.wall_seconds >= 100.0
    second.append(2, "train", {"loss": 1.0})
    assert read_metrics(tmp_path / "m.csv")["wall_seconds"][1] >= 100.0


def test_a_row_that_is_there_is_not_written_again_but_a_different_one_of_the_step_is(tmp_path: Path) -> None:
    metrics = MetricsCSV(tmp_path / "m.csv", log_every_steps=1, train_examples=1)
    metrics.append(6, "val", {"exact_accuracy": 0.5, "num_examples": 100})
    metrics.append(6, "val", {"exact_accuracy": 0.5, "num_examples": 100, "examples_per_second": 3.0})
    metrics.append(6, "val", {"exact_accuracy": 0.5, "num_examples": 1000})
    metrics.append(9, "val", {"exact_accuracy": 0.5, "num_examples": 1000})
    assert read_metrics(tmp_path / "m.csv")["num_examples"] == [100.0, 1000.0, 1000.0]


def test_nan_is_written_as_nan_and_infinity_as_infinity(tmp_path: Path) -> None:
    metrics = MetricsCSV(tmp_path / "m.csv", log_every_steps=1, train_examples=1)
    metrics.append(1, "train", {"loss": float("nan"), "grad_norm": float("inf")})
    assert ",nan," in (tmp_path / "m.csv").read_text() and ",inf," in (tmp_path / "m.csv").read_text()
    assert read_metrics(tmp_path / "m.csv")["grad_norm"] == [float("inf")]


def test_fp32_values_survive_the_file(tmp_path: Path) -> None:
    metrics = MetricsCSV(tmp_path / "m.csv", log_every_steps=1, train_examples=1)
    values = torch.rand(50) * 10.0 ** torch.randint(-8, 8, (50,))
    for step, value in enumerate(values.tolist(), start=1):
        metrics.append(step, "train", {"loss": value})
    assert torch.equal(torch.tensor(read_metrics(tmp_path / "m.csv")["loss"]), values)


def test_unknown_metrics_are_named_once_and_written_when_asked_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plain = MetricsCSV(tmp_path / "a.csv", log_every_steps=1, train_examples=1)
    with caplog.at_level(logging.WARNING):
        plain.append(1, "train", {"loss": 1.0, "bleu": 0.5})
        plain.append(2, "train", {"loss": 1.0, "bleu": 0.5})
    assert [record.getMessage() for record in caplog.records] == [
        "a.csv has no column for bleu; give MetricsCSV extra_columns to keep it."
    ]
    more = MetricsCSV(tmp_path / "b.csv", log_every_steps=1, train_examples=1, extra_columns=("bleu",))
    more.append(1, "train", {"bleu": 0.5})
    assert read_metrics(tmp_path / "b.csv")["bleu"] == [0.5]
    assert tuple(read_metrics(tmp_path / "b.csv"))[:5] == INDEX_COLUMNS


def test_a_resumed_file_takes_new_columns_and_refuses_to_lose_old_ones(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    MetricsCSV(path, log_every_steps=1, train_examples=1).append(1, "train", {"loss": 1.0})
    MetricsCSV(path, log_every_steps=1, train_examples=1, extra_columns=("more",)).start(1)
    assert read_metrics(path)["more"] == [None] and read_metrics(path)["loss"] == [1.0]
    with pytest.raises(InputError, match=r"m\.csv has columns this run does not write \(more\)"):
        MetricsCSV(path, log_every_steps=1, train_examples=1).start(1)


def test_a_last_line_cut_short_is_left_out_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    metrics = MetricsCSV(path, log_every_steps=1, train_examples=1)
    metrics.append(1, "train", {"loss": 1.0})
    with path.open("a") as file:
        file.write("2,train,1")
    assert read_metrics(path)["step"] == [1]
    metrics.start(1)
    metrics.append(2, "train", {"loss": 2.0})
    assert read_metrics(path)["loss"] == [1.0, 2.0]


def test_an_empty_run_has_columns_without_values(tmp_path: Path) -> None:
    MetricsCSV(tmp_path / "m.csv", log_every_steps=1, train_examples=1).start(0)
    read = read_metrics(tmp_path / "m.csv")
    assert read["step"] == [] and "loss" in read


def test_files_of_another_form_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read_metrics(tmp_path / "none.csv")
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="first columns are not step and split"):
        read_metrics(tmp_path / "other.csv")
    for row in ("1,train", "1,train,2,3", "x,train,2"):
        (tmp_path / "bad.csv").write_text(f"step,split,loss\n1,train,1\n{row}\n")
        with pytest.raises(InputError, match=r"bad\.csv, line 3 does not fit the 3 columns"):
            read_metrics(tmp_path / "bad.csv")


def test_impossible_settings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="log_every_steps=0"):
        MetricsCSV(tmp_path / "m.csv", log_every_steps=0, train_examples=1)
    with pytest.raises(ValueError, match=r"extra_columns=\['loss'\] repeats a column"):
        MetricsCSV(tmp_path / "m.csv", log_every_steps=1, train_examples=1, extra_columns=["loss"])
