"""The specialist in a training: remedies turn real levers, rollbacks bring weights back, failures change nothing."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from training_cases import WARNINGS, Fitted, fit, last, tiny_config

from titans_trm.diagnostics import remedies
from titans_trm.diagnostics.alert import Remedy as Suggestion
from titans_trm.diagnostics.config import DiagnosticsConfig
from titans_trm.diagnostics.engine import Engine
from titans_trm.diagnostics.events import read_events
from titans_trm.diagnostics.rule import Finding, Rule
from titans_trm.diagnostics.signals import Signals
from titans_trm.errors import InputError
from titans_trm.specialist.config import SpecialistConfig
from titans_trm.specialist.desk import Desk
from titans_trm.specialist.outcome import Outcome
from titans_trm.specialist.protocol import ContextPackage, ExpectedEffect, Remedy, ResultsPackage
from titans_trm.tasks.build import build_trainer
from titans_trm.training.callbacks.diagnostics import Diagnostics
from titans_trm.training.callbacks.specialist import SpecialistOnCall
from titans_trm.training.config import RunConfig
from titans_trm.training.levers import Levers

pytestmark = [pytest.mark.filterwarnings(warning) for warning in WARNINGS]

SETTINGS = SpecialistConfig(
    watch_steps=4, cooldown_steps=0, rule_cooldown_steps=0, max_remedies_per_rule=1, max_harm=9.0
)


class FromTheStart(Rule):
    """Stands until a step; suggests what it is told to."""

    id = "act_collapse"
    title = "scripted"
    needed, window, clear = 1, 1, 1
    warm_up = False
    watches = ("loss/cross_entropy",)
    until = 4
    suggests: tuple[Suggestion, ...] = (remedies.MORE_DIVERSITY,)

    def look(self, signals: Signals) -> Finding | None:
        return Finding("scripted") if signals.step <= self.until else None

    def remedies(self, finding: Finding) -> tuple[Suggestion, ...]:
        return self.suggests


class Asking:
    """Wants one remedy."""

    name, instant = "asking", True

    def __init__(self, identity: str, value: float | None, *, direction: str = "up", reach: float = -1e9) -> None:
        effect = ExpectedEffect(metric="halting/logit_std", direction=direction, reach=reach, within_steps=4)  # type: ignore[arg-type]
        self.remedy = Remedy(id=identity, value=value, expected_effect=effect)

    def consult(self, context: ContextPackage) -> Outcome:
        return Outcome("answered", ResultsPackage(status="diagnosed", remedies=[self.remedy]))


class Scripted(Callback):
    """Puts a scripted rule and specialist in place once everything is built."""

    def __init__(self, specialist: Any, *suggestions: Suggestion) -> None:
        self.specialist = specialist
        self.suggestions = suggestions or FromTheStart.suggests

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        diagnostics = next(one for one in trainer.callbacks if isinstance(one, Diagnostics))  # type: ignore[attr-defined]
        rule = type("Rule", (FromTheStart,), {"suggests": self.suggestions})(diagnostics.facts)
        diagnostics.engine = Engine([rule], diagnostics.facts, diagnostics.config)
        on_call = next(one for one in trainer.callbacks if isinstance(one, SpecialistOnCall)).on_call  # type: ignore[attr-defined]
        on_call._desk = Desk(self.specialist)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    """A run in which nobody did anything."""
    return fit(config(tmp_path_factory.mktemp("trained"), max_remedies=0))


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    """A run whose halting loss was raised to stay."""
    scripted = Scripted(Asking("act_loss_weight", 0.9), remedies.MORE_HALTING_LOSS)
    return fit(config(tmp_path_factory.mktemp("kept")), scripted)


def config(tmp_path: Path, *, val_every: int = 5, **changes: Any) -> RunConfig:
    words = (f"trainer.val_every_steps={val_every}", "loss.halting_weight=0.5")
    found = tiny_config(tmp_path / "runs" / "run", *words)
    diagnostics = DiagnosticsConfig(every_steps=2, settle_checks=0, cooldown_steps=100)
    return dataclasses.replace(found, diagnostics=diagnostics, specialist=dataclasses.replace(SETTINGS, **changes))


def events(fitted: Fitted, *names: str) -> list[dict[str, Any]]:
    found = read_events(fitted.folder / "diagnostics" / "events.jsonl")
    return [event for event in found if event["event"] in names]


def on_call(fitted: Fitted) -> SpecialistOnCall:
    return next(one for one in fitted.trainer.callbacks if isinstance(one, SpecialistOnCall))  # type: ignore[attr-defined]


LEVERS = {
    "act_diversity_weight": (0.7, lambda f: f.module.loss_config.diversity_weight),
    "act_loss_weight": (0.9, lambda f: f.module.loss_config.halting_weight),
    "halt_exploration_prob": (0.3, lambda f: f.module.model.config.halting.exploration),
    "grad_clip": (0.5, lambda f: f.trainer.gradient_clip_val),
    "memory_max_grad_norm": (2.0, lambda f: f.module.model.recursion.net.blocks[0].memory.config.max_inner_grad),
    "memory_lr_scale": (0.5, lambda f: f.module.model.config.memory.max_step_size),
}


def test_every_setting_can_be_turned_and_turned_back(trained: Fitted) -> None:
    levers = Levers(trained.trainer, trained.module, trained.folder / "checkpoints")
    before = levers.settings()
    for identity, (value, read) in LEVERS.items():
        levers.pull(identity, value)
        assert read(trained) == value == levers.levels()[identity]
    assert trained.module.loss_config.diversity == "logit_std"
    levers.restore(before)
    assert levers.settings() == before
    assert all(read(trained) != value for value, read in LEVERS.values())


def test_a_kept_remedy_is_in_force_and_on_record(kept: Fitted) -> None:
    assert [event["event"] for event in events(kept, "remedy_applied", "remedy_verified")] == [
        "remedy_applied",
        "remedy_verified",
    ]
    assert kept.module.loss_config.halting_weight == 0.9
    assert (kept.folder / "checkpoints" / "before_remedy.ckpt").is_file()


def test_rates_are_scaled_and_the_schedule_goes_on(tmp_path: Path, trained: Fitted) -> None:
    halved = fit(config(tmp_path), Scripted(Asking("lr_scale", 0.5), remedies.LOWER_RATE))
    rates = [fitted.trainer.optimizers[0].param_groups[0]["lr"] for fitted in (trained, halved)]
    assert rates[1] == pytest.approx(0.5 * rates[0])


def test_a_remedy_that_did_not_help_is_taken_back(tmp_path: Path, trained: Fitted) -> None:
    back = fit(config(tmp_path), Scripted(Asking("lr_scale", 0.1, reach=1e9), remedies.LOWER_RATE))
    (event,) = events(back, "remedy_rolled_back")
    assert "not past" in event["reason"] and event["step"] == 6
    rates = [fitted.trainer.optimizers[0].param_groups[0]["lr"] for fitted in (trained, back)]
    assert rates[1] == pytest.approx(rates[0])
    assert on_call(back)._changed == {}


class Sabotage(Callback):
    """Ruins the weights after a step, as a bad remedy would."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.good: dict[str, torch.Tensor] = {}

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: Any, *_: Any) -> None:
        if trainer.global_step == self.step:
            with torch.no_grad():
                for parameter in pl_module.parameters():
                    parameter.mul_(float("nan"))


def test_ruined_weights_come_back_finite_average_and_all(tmp_path: Path) -> None:
    scripted = Scripted(Asking("act_diversity_weight", 0.7, reach=1e9))
    fitted = fit(config(tmp_path, val_every=50), scripted, Sabotage(4))
    assert len(events(fitted, "remedy_rolled_back")) == 1
    assert all(torch.isfinite(parameter).all() for parameter in fitted.module.parameters())
    saved = last(fitted.folder)
    for state in (saved["state_dict"], saved["current_model_state"]):
        assert all(torch.isfinite(value).all() for value in state.values() if value.is_floating_point())
    assert fitted.module.loss_config.diversity_weight == 0.1


def test_the_last_good_weights_are_found(trained: Fitted) -> None:
    fitted = trained
    levers = Levers(fitted.trainer, fitted.module, fitted.folder / "checkpoints")
    with torch.no_grad():
        fitted.module.model.head.weight.fill_(float("nan"))
    levers.pull("rollback_last_good", None)
    assert torch.isfinite(fitted.module.model.head.weight).all()
    assert all(bool(group.halted.all()) for group in fitted.module.slots.groups)
    with pytest.raises(FileNotFoundError, match="no checkpoint with finite weights"):
        Levers(fitted.trainer, fitted.module, fitted.folder / "nothing").pull("rollback_last_good", None)


def test_a_perturbed_head_differs_and_the_run_draws_as_before(trained: Fitted) -> None:
    fitted = trained
    levers = Levers(fitted.trainer, fitted.module, fitted.folder / "checkpoints")
    before, state = fitted.module.model.act_head.weight.clone(), torch.get_rng_state()
    levers.pull("q_head_perturb", None)
    assert 0.0 < (fitted.module.model.act_head.weight - before).std() < 0.1
    assert torch.equal(torch.get_rng_state(), state)


def test_a_remedy_that_cannot_be_applied_is_rolled_back_and_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Levers, remedy: str, value: float | None) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Levers, "pull", refuse)
    fitted = fit(config(tmp_path), Scripted(Asking("act_diversity_weight", 0.7)))
    assert fitted.trainer.global_step == 12
    assert "OSError: disk full" in events(fitted, "remedy_rolled_back")[0]["reason"]


def test_a_bug_in_the_desk_does_not_end_a_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("titans_trm.specialist.on_call.OnCall._ask", fail)
    fitted = fit(config(tmp_path), Scripted(Asking("act_diversity_weight", 0.7)))
    assert fitted.trainer.global_step == 12
    assert events(fitted, "specialist_failed")[0]["reason"] == "ZeroDivisionError: a bug"


def test_a_healthy_run_computes_the_same_with_and_without_a_specialist(tmp_path: Path, trained: Fitted) -> None:
    without = fit(config(tmp_path, kind="off"))
    first, second = (last(fitted.folder)["current_model_state"] for fitted in (without, trained))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_kept_remedy_is_still_in_force_after_a_resume(kept: Fitted, tmp_path: Path) -> None:
    state = json.loads(json.dumps(on_call(kept).state_dict()))
    again = build_trainer(config(tmp_path), tmp_path / "again", 64)
    callback = next(one for one in again.callbacks if isinstance(one, SpecialistOnCall))  # type: ignore[attr-defined]
    callback.load_state_dict(state)
    kept.module.loss_config = dataclasses.replace(kept.module.loss_config, halting_weight=0.5)
    callback.on_train_start(kept.trainer, kept.module)
    assert kept.module.loss_config.halting_weight == 0.9


def test_a_missing_program_is_reported_before_the_run_starts(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="specialist.command"):
        build_trainer(config(tmp_path, kind="command", command=("/no/such/program",)), tmp_path, 64)
