"""Training under Lightning's automatic optimisation: steps, rates, clipping, precision, compilation, metrics."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from training_cases import WARNINGS, Fitted, fit, last, tiny_config

from titans_trm.data.load import load_data
from titans_trm.models.inference import solve
from titans_trm.tasks.build import build_model, build_module
from titans_trm.training.callbacks.curves import LearningCurves
from titans_trm.training.callbacks.metrics_csv import read_metrics

pytestmark = [pytest.mark.filterwarnings(warning) for warning in WARNINGS]

CLIP = 0.01


class Record(Callback):
    def __init__(self) -> None:
        self.rates: list[list[float]] = []
        self.norms: list[float] = []
        self.steps: list[int] = []
        self.device_at_start = ""

    def on_train_batch_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        self.rates.append([group["lr"] for group in trainer.optimizers[0].param_groups])

    def on_train_batch_end(self, trainer: lightning.Trainer, module: Any, *_: Any) -> None:
        squares = [p.grad.square().sum() for p in module.parameters() if p.grad is not None]
        self.norms.append(float(torch.stack(squares).sum().sqrt()))
        self.steps.append(trainer.global_step)


@pytest.fixture(autouse=True, scope="module")
def _no_pictures() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LearningCurves, "_draw", lambda *_: None)
        yield


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("module")


@pytest.fixture(scope="module")
def run(root: Path) -> tuple[Fitted, Record]:
    record = Record()
    overrides = (f"trainer.gradient_clip_val={CLIP}", "optimizer=muon", "optimizer.lr=1e-3", "optimizer.muon_lr=1e-2")
    return fit(tiny_config(root / "runs" / "muon", *overrides), record), record


def test_global_step_counts_optimiser_steps(run: tuple[Fitted, Record]) -> None:
    fitted, record = run
    assert fitted.module.automatic_optimization
    assert record.steps == list(range(1, 13))
    assert fitted.trainer.global_step == 12 == last(fitted.folder)["global_step"]


def test_every_group_follows_the_schedule_with_its_own_peak(run: tuple[Fitted, Record]) -> None:
    """Linear rise over 4 steps, then half a cosine to a tenth at step 12."""
    fitted, record = run
    peaks = [group["initial_lr"] for group in fitted.trainer.optimizers[0].param_groups]
    assert set(peaks) == {1e-3, 1e-2}
    for step, rates in enumerate(record.rates):
        cosine = 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * (step - 4) / 8))
        share = (step + 1) / 4 if step < 4 else cosine
        assert rates == pytest.approx([peak * share for peak in peaks], rel=1e-9), f"step {step}"


def test_gradients_are_clipped_and_their_norm_before_it_is_reported(run: tuple[Fitted, Record]) -> None:
    fitted, record = run
    assert max(record.norms) <= CLIP * 1.001
    norms = [norm for norm in read_metrics(fitted.folder / "metrics.csv")["grad_norm"] if norm is not None]
    assert len(norms) == 4 and min(norms) > 2 * CLIP


def test_hyperparameters_are_plain_and_hold_the_whole_run(run: tuple[Fitted, Record]) -> None:
    stored = last(run[0].folder)["hyper_parameters"]  # read with weights_only=True

    def plain(value: Any) -> bool:
        if isinstance(value, dict):
            return type(value) is dict and all(type(key) is str and plain(item) for key, item in value.items())
        return all(map(plain, value)) if type(value) is list else type(value) in (str, int, float, bool, type(None))

    assert plain(stored["run"]) and plain(stored["model"])
    assert stored["run"]["optimizer"]["name"] == "muon"
    assert stored["model"]["width"] == 16


def test_metrics_are_means_over_the_examples_that_finished(run: tuple[Fitted, Record]) -> None:
    columns = read_metrics(run[0].folder / "metrics.csv")
    train = [i for i, split in enumerate(columns["split"]) if split == "train"]
    for name in ("loss", "cross_entropy", "halting_loss", "learning_rate", "examples_per_second", "epoch"):
        assert all(columns[name][i] is not None for i in train), name
    finished = [columns["examples_finished"][i] for i in train]
    assert finished == sorted(finished) and finished[-1] == run[0].module.slots.examples_finished  # type: ignore[union-attr]
    depths = [columns["mean_supervision_steps"][i] for i in train]
    assert all(1 <= depth <= 3 for depth in depths if not math.isnan(depth))


def test_validation_metrics_equal_a_solve_of_the_subset_with_the_validated_weights(run: tuple[Fitted, Record]) -> None:
    fitted = run[0]
    columns = read_metrics(fitted.folder / "metrics.csv")
    row = columns["split"].index("val")
    assert columns["num_examples"][row] == len(fitted.datamodule.val_subset) == 4
    best = torch.load(fitted.folder / "checkpoints" / "best.ckpt", weights_only=True)
    row = next(i for i, s in enumerate(columns["step"]) if s == best["global_step"] and columns["split"][i] == "val")
    model = build_model(fitted.config.model, fitted.data.spec)
    model.load_state_dict(
        {k.removeprefix("model."): v for k, v in best["state_dict"].items() if k.startswith("model.")}
    )
    batch = fitted.datamodule.val_subset.batch(range(4))
    answers = solve(model, batch.inputs).answers
    scored = batch.targets != fitted.data.spec.ignore_index
    right = ((answers == batch.targets) & scored).sum(1) / scored.sum(1)
    assert columns["token_accuracy"][row] == pytest.approx(float(right.mean()), abs=1e-6)


def test_accumulation_counts_optimiser_steps_and_saves_between_them(root: Path) -> None:
    record = Record()
    overrides = ("trainer.accumulate=2", "trainer.batch_size=3", "trainer.max_steps=6", "trainer.val_every_steps=3")
    fitted = fit(tiny_config(root / "runs" / "accumulate", *overrides, "trainer.checkpoint_every_steps=2"), record)
    assert record.steps == [0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6]
    assert len(last(fitted.folder)["titans_trm"]["slots"]["groups"]) == 2
    columns = read_metrics(fitted.folder / "metrics.csv")
    rows = list(zip(columns["step"], columns["split"], strict=True))
    assert rows == [(3, "train"), (3, "val"), (6, "train"), (6, "val")]


def test_half_precision_trains_with_a_finite_loss_and_full_precision_weights(root: Path) -> None:
    fitted = fit(tiny_config(root / "runs" / "bf16", "trainer.precision=bf16-mixed", "trainer.max_steps=5"))
    losses = [loss for loss in read_metrics(fitted.folder / "metrics.csv")["loss"] if loss is not None]
    assert losses and all(map(math.isfinite, losses))
    assert {p.dtype for p in fitted.module.parameters()} == {torch.float32}


@pytest.mark.parametrize(("precision", "fused"), [("16-mixed", False), ("bf16-mixed", False), ("32-true", True)])
def test_gradients_that_lightning_scales_or_clips_get_an_unfused_optimiser(
    root: Path, precision: str, fused: bool
) -> None:
    config = tiny_config(root / "runs" / "scaler")
    data = load_data(config.data)
    module = build_module(config, build_model(config.model, data.spec), data.spec)
    module.trainer = SimpleNamespace(precision=precision)  # type: ignore[assignment]
    assert module.configure_optimizers()["optimizer"].defaults["fused"] is fused


def test_the_net_is_compiled_on_its_device_in_place(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compilation comes after Lightning has moved the module, and leaves the names of the weights alone."""
    calls: list[str] = []

    def watch(module: Any) -> None:
        monkeypatch.setattr(lightning.pytorch.strategies.SingleDeviceStrategy, "model_to_device", moved)
        monkeypatch.setattr(module.model.recursion.net, "compile", lambda: calls.append("compile"))

    def moved(strategy: Any) -> None:
        calls.append("device")
        strategy.model.to(strategy.root_device)

    fitted = fit(tiny_config(root / "runs" / "compiled", "trainer.compile=true", "trainer.max_steps=1"), before=watch)
    assert calls == ["device", "compile"]
    assert not any("_orig_mod" in name for name in last(fitted.folder)["state_dict"])


# Dynamo looks at .grad of every tensor it traces.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_a_compiled_net_trains_like_an_eager_one(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def compile_without_code_generation(module: Any) -> None:
        net = module.model.recursion.net
        monkeypatch.setattr(net, "compile", lambda: type(net).compile(net, backend="eager"))

    folders = []
    for name, before in (("eager", None), ("graphs", compile_without_code_generation)):
        config = tiny_config(root / "runs" / name, f"trainer.compile={name == 'graphs'}", "trainer.max_steps=3")
        folders.append(fit(config, before=before).folder)
    eager, graphs = (last(folder)["state_dict"] for folder in folders)
    assert list(eager) == list(graphs)
    torch.testing.assert_close(graphs, eager, rtol=1e-4, atol=1e-5)
