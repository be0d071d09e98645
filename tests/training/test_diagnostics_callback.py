"""A watched run trains as an unwatched one, to the bit, and leaves a record of what was seen."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from training_cases import TINY, WARNINGS, Fitted, differences, fit, tiny_config

from titans_trm.cli import main
from titans_trm.config import compose
from titans_trm.diagnostics.alert import Alert
from titans_trm.diagnostics.events import broken_lines, read_events
from titans_trm.diagnostics.record import read_signals
from titans_trm.errors import InputError
from titans_trm.training.callbacks.diagnostics import Diagnostics
from titans_trm.training.config import RunConfig
from titans_trm.training.module import TRMModule
from titans_trm.training.run_folder import RunFolder

pytestmark = [pytest.mark.filterwarnings(warning) for warning in WARNINGS]


def watched(folder: Path, every: int = 2, *overrides: str) -> RunConfig:
    return tiny_config(folder, f"diagnostics.every_steps={every}", *overrides)


def as_run_folder(fitted: Fitted) -> str:
    """Give what `fit` left the configuration that makes it a run folder."""
    config = dataclasses.replace(fitted.config, logger={}, callbacks={})
    RunFolder(fitted.folder).write_start(config.to_dict(), [], fitted.data.manifest)
    return str(fitted.folder)


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    return fit(watched(tmp_path_factory.mktemp("healthy") / "a" / "run"))


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose embedding turns into NaN when it starts: no remedy can help, and it goes on to its end."""

    def poison(module: TRMModule) -> None:
        with torch.no_grad():
            module.model.embedding.weight.fill_(torch.nan)

    folder = tmp_path_factory.mktemp("broken") / "a" / "run"
    fit(watched(folder), before=poison)
    return folder


def test_training_is_the_same_to_the_bit_with_and_without(healthy: Fitted, tmp_path: Path) -> None:
    without = fit(tiny_config(tmp_path / "a" / "run", "diagnostics=off"))
    assert not (without.folder / "diagnostics").exists()
    assert list(differences(healthy.module.state_dict(), without.module.state_dict())) == []
    optimizers = [run.trainer.optimizers[0].state_dict() for run in (healthy, without)]
    assert list(differences(*optimizers)) == []
    assert healthy.module.slots is not None and without.module.slots is not None
    assert list(differences(healthy.module.slots.state_dict(), without.module.slots.state_dict())) == []


@pytest.mark.parametrize("overrides", [("trainer.accumulate=2",), ("model.memory.carry=steps", "optimizer=muon")])
def test_so_are_other_ways_to_train(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    runs = [
        fit(tiny_config(tmp_path / name / "run", *overrides, own, cache=tmp_path / "cache"))
        for name, own in (("with", "diagnostics.every_steps=1"), ("without", "diagnostics=off"))
    ]
    assert list(differences(*(run.module.state_dict() for run in runs))) == []


def test_a_healthy_run_leaves_signals_events_report_and_picture(healthy: Fitted) -> None:
    folder = healthy.folder / "diagnostics"
    signals = list(read_signals(folder / "signals.jsonl"))
    assert [one.step for one in signals] == [0, 2, 4, 5, 6, 8, 10, 10, 12]
    assert "data/leak" in signals[0].values and "val/exact_accuracy" in signals[3].values
    assert {"loss/cross_entropy", "grad/head", "update/median", "memory/block0/write"} <= set(signals[1].values)
    events = read_events(folder / "events.jsonl")
    assert [event["event"] for event in events] == ["started", "finished"]
    assert broken_lines(folder / "events.jsonl") == []
    assert "Nothing wrong was found" in (folder / "report.md").read_text(encoding="utf-8")
    assert (folder / "signals.png").stat().st_size > 10_000


def test_a_broken_run_is_told_at_once_and_its_report_names_the_cause(broken: Path, capsys: Any) -> None:
    events = read_events(broken / "diagnostics" / "events.jsonl")
    alerts = [event for event in events if event["event"] == "alert"]
    assert [(event["rule"], event["severity"], event["step"]) for event in alerts] == [("nonfinite", "fatal", 2)]
    assert Alert.from_dict(alerts[0]).remedies[0].action == "rollback"
    report = (broken / "diagnostics" / "report.md").read_text(encoding="utf-8")
    assert "First cause: numbers that are not finite, since step 2." in report
    assert events[-1]["event"] == "finished"


def test_listeners_hear_of_alerts(tmp_path: Path) -> None:
    listener = Listener()
    fit(watched(tmp_path / "a" / "run"), listener)
    assert ("alert", "nonfinite") in listener.heard


class Listener(Callback):
    """Break the model when training starts, and listen."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, str]] = []

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        with torch.no_grad():
            pl_module.model.embedding.weight.fill_(torch.nan)
        (watch,) = (one for one in trainer.callbacks if isinstance(one, Diagnostics))
        watch.subscribe(lambda event, alert: self.heard.append((event, alert.rule)))


def test_diagnose_gives_a_clean_bill_in_words(healthy: Fitted, capsys: pytest.CaptureFixture[str]) -> None:
    folder = as_run_folder(healthy)
    assert main(["diagnose", folder, "--strict"]) == 0
    told = capsys.readouterr().out
    assert "Nothing wrong was found" in told and "halting head: in order" in told
    assert "signals.jsonl" in told


def test_diagnose_reads_metrics_where_there_are_no_signals(
    healthy: Fitted, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.write_start(healthy.config.to_dict(), [], healthy.data.manifest)
    with pytest.raises(InputError, match="neither diagnostics/signals.jsonl nor metrics.csv"):
        from titans_trm.commands.diagnose import diagnose

        diagnose(folder)
    folder.metrics.write_bytes((healthy.folder / "metrics.csv").read_bytes())
    assert main(["diagnose", str(folder.path)]) == 0
    told = capsys.readouterr().out
    assert "read from metrics.csv" in told and "memory: not measured in this run" in told


def test_diagnose_names_the_cause_and_what_to_do(broken: Path, healthy: Fitted, capsys: Any) -> None:
    RunFolder(broken).write_start(healthy.config.to_dict(), [], healthy.data.manifest)
    assert main(["diagnose", str(broken), "--strict", "--write"]) == 3
    told = capsys.readouterr().out
    assert "1. numbers that are not finite (nonfinite, fatal)" in told
    assert "try: go back to the last checkpoint" in told
    assert "numbers: numbers that are not finite" in told
    assert main(["diagnose", str(broken), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["rule"] == "nonfinite"


def test_settings_are_checked_and_can_be_given_on_the_command_line() -> None:
    assert compose("train", [*TINY, "diagnostics=off"]).diagnostics == "off"
    config = compose(
        "train", [*TINY, "+diagnostics.limits.act_collapse.std=0.05", "diagnostics.disabled=[loss_plateau]"]
    )
    assert config.diagnostics != "off"
    assert config.diagnostics.limits == {"act_collapse": {"std": 0.05}}
    with pytest.raises(InputError, match=r"diagnostics.every_stepz is not a key. Did you mean diagnostics.every_steps"):
        compose("train", [*TINY, "+diagnostics.every_stepz=3"])
    with pytest.raises(InputError, match=r"diagnostics.every_steps=0 is too small"):
        compose("train", [*TINY, "diagnostics.every_steps=0"])
