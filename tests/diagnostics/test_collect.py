"""Signals are what they say: compared with plain computations, and training does not feel that it is watched."""

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from titans_trm.data.batch import Batch
from titans_trm.data.examples import ExampleSet
from titans_trm.diagnostics.collect import Collector
from titans_trm.diagnostics.labels import LabelHistogram
from titans_trm.diagnostics.observation import Observation
from titans_trm.diagnostics.parameters import group_of
from titans_trm.diagnostics.preflight import preflight
from titans_trm.diagnostics.record import SignalLog, read_signals
from titans_trm.diagnostics.signals import Signals
from titans_trm.errors import InputError
from titans_trm.losses.config import LossConfig
from titans_trm.losses.total import compute_loss
from titans_trm.models.config import BackboneConfig, HaltingConfig, MemoryConfig, RecursionConfig, TitansTRMConfig
from titans_trm.models.titans_trm import TitansTRM

BATCH, LENGTH, VOCAB = 8, 5, 7


def make_model(gate: str = "product", carry: str = "reset", causal: bool = False) -> TitansTRM:
    torch.manual_seed(0)
    config = TitansTRMConfig(
        vocab_size=VOCAB,
        seq_len=LENGTH,
        width=16,
        causal=causal,
        backbone=BackboneConfig(num_blocks=2, num_heads=2, mlp_hidden=24, num_persistent_tokens=1, gate=gate),  # type: ignore[arg-type]
        memory=MemoryConfig(num_heads=2, expansion=2, chunk_size=4, carry=carry),  # type: ignore[arg-type]
        recursion=RecursionConfig(num_latent_steps=1, num_recursions=2),
        halting=HaltingConfig(max_supervision_steps=3),
    )
    return TitansTRM(config)


class Run:
    """A few steps of plain training, with all that a collector is told."""

    def __init__(self, model: TitansTRM, **options: Any) -> None:
        self.model = model
        self.collector = Collector(model, probe_examples=4, **options)
        self.optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        generator = torch.Generator().manual_seed(3)
        inputs = torch.randint(1, VOCAB, (BATCH, LENGTH), generator=generator)
        self.batch = Batch(inputs, inputs.clone(), torch.zeros(BATCH).long(), torch.arange(BATCH))
        self.batch.targets[:, 0] = -100
        self.carry = model.initial_carry(BATCH)
        self.seen: list[Observation] = []
        self.norms: list[Tensor] = []
        self.after_update: Callable[[], object] = lambda: None

    def step(self, check: bool = False) -> Signals | None:
        before = self.carry
        output = self.model(self.batch.inputs, self.carry)
        terms = compute_loss(
            output.logits,
            output.halting_logits,
            self.batch.targets,
            LossConfig(diversity="off"),
        )
        self.optimizer.zero_grad()
        terms.total.backward()
        if check:
            self.collector.parameters.before_update()
        norm = torch.stack([p.grad.square().sum() for p in self.model.parameters() if p.grad is not None]).sum().sqrt()
        self.optimizer.step()
        self.after_update()
        self.carry = output.carry
        seen = Observation(
            total=terms.total.detach(),
            cross_entropy=terms.cross_entropy.detach(),
            halting=terms.halting.detach(),
            diversity=terms.diversity.detach(),
            example_cross_entropy=terms.example_cross_entropy,
            right=terms.exactly_right,
            token_accuracy=terms.token_accuracy,
            halting_logits=output.halting_logits.detach(),
            steps=output.carry.steps,
            halted=output.carry.steps >= 3,
            examples=self.batch,
            carry=output.carry,
            wait_seconds=0.25,
            before=before if check else None,
        )
        self.collector.observe(seen, norm, 1.0)
        self.seen.append(seen)
        self.norms.append(norm)
        return self.collector.check(len(self.seen), seen, 0.1, 2) if check else None

    def signals(self, steps: int = 2) -> Signals:
        for _ in range(steps - 1):
            self.step()
        found = self.step(check=True)
        assert found is not None
        return found


def test_means_and_extremes_are_those_of_the_steps() -> None:
    run = Run(make_model())
    signals = run.signals(3)
    values, seen = signals.values, run.seen
    for name in ("total", "cross_entropy", "halting"):
        assert values[f"loss/{name}"] == pytest.approx(sum(float(getattr(s, name)) for s in seen) / 3, rel=1e-4)
    assert values["loss/cross_entropy_max"] == pytest.approx(max(float(s.cross_entropy) for s in seen), rel=1e-4)
    assert values["grad/norm_max"] == pytest.approx(float(max(run.norms)), rel=1e-4)
    logits = torch.stack([s.halting_logits for s in seen])
    assert values["halting/probability"] == pytest.approx(float(logits.sigmoid().mean()), rel=1e-4)
    assert values["halting/logit_std"] == pytest.approx(float(logits.std(dim=1, unbiased=False).mean()), rel=1e-4)
    assert values["halting/cross_entropy"] == pytest.approx(values["loss/halting"], rel=1e-4)
    assert values["solve/first"] == pytest.approx(float(seen[0].example_cross_entropy.mean()), rel=1e-4)
    assert (values["halting/steps"], values["halting/finished"]) == (3.0, BATCH)
    assert (values["time/step"], values["time/wait"]) == (1.0, 0.25)
    assert values["loss/nonfinite"] == 0.0


def test_the_gain_of_a_step_compares_each_unsolved_example_with_itself() -> None:
    run = Run(make_model())
    signals = run.signals(3)
    gains, count = 0.0, 0
    for old, new in zip(run.seen, run.seen[1:], strict=False):
        for row in range(BATCH):
            if not old.right[row]:
                was, now = float(old.example_cross_entropy[row]), float(new.example_cross_entropy[row])
                gains, count = gains + (was - now) / was, count + 1
    assert signals.values["solve/unsolved"] == count
    assert signals.values["solve/gain"] == pytest.approx(gains / count, rel=1e-3)


def test_sums_begin_anew_after_a_check() -> None:
    run = Run(make_model())
    run.signals(4)
    again = run.signals(1)
    assert again.values["loss/total"] == pytest.approx(float(run.seen[-1].total), rel=1e-4)


def test_norms_of_groups_are_those_of_their_parameters() -> None:
    run = Run(make_model())
    run.step()
    before = {name: p.detach().clone() for name, p in run.model.named_parameters()}
    signals = run.step(check=True)
    assert signals is not None
    for group in ("embedding", "block0.attention", "block1.memory", "head", "act_head"):
        members = [(name, p) for name, p in run.model.named_parameters() if group_of(name) == group]
        assert members
        weight = math.sqrt(sum(float(p.detach().square().sum()) for _, p in members))
        moved = math.sqrt(sum(float((p.detach() - before[name]).square().sum()) for name, p in members))
        grad = math.sqrt(sum(float(p.grad.square().sum()) for _, p in members if p.grad is not None))
        assert signals.values[f"weight/{group}"] == pytest.approx(weight, rel=1e-4)
        assert signals.values[f"update/{group}"] == pytest.approx(moved / weight, rel=1e-3)
        assert signals.values[f"grad/{group}"] == pytest.approx(grad, rel=1e-4)
    assert signals.names == {"no_grad": [], "no_update": [], "not_finite": []}


def test_parameters_without_gradient_or_update_are_named() -> None:
    run = Run(make_model())
    frozen = run.model.recursion.net.blocks[0].mlp.down.weight
    run.optimizer.param_groups[0]["params"] = [p for p in run.optimizer.param_groups[0]["params"] if p is not frozen]
    memory = run.model.recursion.net.blocks[1].memory
    assert memory is not None
    memory.register_forward_hook(lambda layer, inputs, out: (out[0].detach(), out[1]))
    run.step()
    run.after_update = lambda: run.model.head.weight.data[0, 0].fill_(torch.inf)
    names = run.signals(1).names
    assert "recursion.net.blocks.0.mlp.down.weight" in names["no_update"]
    assert {group_of(name) for name in names["no_grad"]} >= {"block1.memory"}
    assert names["not_finite"] == ["head.weight"]


def test_a_step_that_is_not_finite_is_counted() -> None:
    run = Run(make_model())
    with torch.no_grad():
        run.model.head.weight.fill_(torch.nan)
    assert run.signals(2).values["loss/nonfinite"] == 2.0


@pytest.mark.parametrize(("gate", "carry"), [("product", "reset"), ("convex", "cycles"), ("product", "steps")])
def test_the_probe_sees_every_block_and_changes_nothing(gate: str, carry: str) -> None:
    watched, alone = Run(make_model(gate, carry)), Run(make_model(gate, carry))
    signals = watched.signals(3)
    for _ in range(3):
        alone.step()
    for name, value in watched.model.state_dict().items():
        assert torch.equal(value, alone.model.state_dict()[name]), name
    for block in ("block0", "block1"):
        assert 0.0 < signals.values[f"gate/{block}/std"] < 0.5
        assert 0.0 < signals.values[f"memory/{block}/theta"] < 1.0
        assert signals.values[f"memory/{block}/write"] > 0.0
        assert 0.0 <= signals.values[f"mlp/{block}/dead"] <= 1.0
    assert signals.values["latent/z_rms"] == pytest.approx(1.0, rel=0.05)
    assert signals.values["latent/change"] > 0.0
    assert signals.values["latent/reset"] == 0.0
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in watched.model.modules())


@pytest.mark.parametrize("gate", ["attention_only", "memory_only"])
def test_models_without_a_gate_are_watched_too(gate: str) -> None:
    values = Run(make_model(gate)).signals().values
    assert not any(name.startswith("gate/") for name in values)
    assert any(name.startswith("memory/") for name in values) == (gate == "memory_only")


def test_causal_models_are_watched_too() -> None:
    assert Run(make_model(causal=True)).signals().values["memory/block0/norm"] > 0.0


def test_examples_that_break_the_rules_are_reported_with_the_reason() -> None:
    def validate(inputs: Tensor, targets: Tensor) -> None:
        assert inputs.dtype == targets.dtype == torch.uint8 and inputs.shape == (2, LENGTH)
        if (targets[:, 0] == 0).all() and (inputs[:, 1:] == targets[:, 1:]).all():
            raise InputError("example 0 is bad.")

    signals = Run(make_model(), validate=validate, audit_examples=2).signals()
    assert signals.values["labels/invalid"] == 1.0
    assert signals.names["invalid"] == ["example 0 is bad."]
    fine = Run(make_model(), validate=lambda inputs, targets: None, audit_examples=2).signals()
    assert fine.values["labels/invalid"] == 0.0


def test_a_restored_collector_gives_the_same_signals() -> None:
    whole, cut = Run(make_model()), Run(make_model())
    for run in (whole, cut):
        run.step()
        run.step()
    state = copy.deepcopy(cut.collector.state_dict())
    cut.collector = Collector(cut.model, probe_examples=4)
    cut.collector.load_state_dict(state, torch.device("cpu"))
    first, second = whole.step(check=True), cut.step(check=True)
    assert first is not None and second is not None

    def timeless(signals: Signals) -> dict[str, float]:
        return {name: value for name, value in signals.values.items() if not name.startswith("time/")}

    assert timeless(first) == timeless(second)


def test_labels_that_stay_as_they_are_are_within_chance_and_others_are_not() -> None:
    generator = torch.Generator().manual_seed(0)
    histogram = LabelHistogram(VOCAB)
    beyond = 0
    for check in range(205):
        labels = torch.randint(1, VOCAB, (64, 1), generator=generator)
        values = histogram.values(histogram.count(labels).tolist(), 64)
        if check >= 5:
            beyond += values["labels/shift"] > values["labels/shift_limit"]
    assert beyond <= 8, "a limit that chance crosses once in a hundred checks"
    labels = torch.randint(1, VOCAB, (64, 1), generator=generator).clamp(min=4)
    values = histogram.values(histogram.count(labels).tolist(), 64)
    assert values["labels/shift"] > 2.0 * values["labels/shift_limit"]
    assert histogram.values([0.0] * VOCAB, 64) == {}


def example_set(name: str, rows: list[list[int]], keys: list[str]) -> ExampleSet:
    tokens = torch.tensor(rows, dtype=torch.uint8)
    return ExampleSet(name, tokens, tokens.clone(), keys, [""] * len(keys), torch.zeros(len(keys)).long())


def test_shared_examples_are_found_by_key_and_by_tokens() -> None:
    train = example_set("train", [[1, 2], [3, 4], [3, 4]], ["a", "b", "c"])
    val = example_set("val", [[5, 6], [3, 4], [6, 5], [6, 6]], ["a", "x", "y", "z"])
    values = preflight(train, val).values
    assert (values["data/leak"], values["data/leaked"]) == (0.5, 2.0)
    assert values["data/duplicates"] == pytest.approx(1 / 3, rel=1e-3)
    assert values["data/imbalance"] == pytest.approx(2.0)
    assert preflight(train, example_set("val", [[5, 6]], ["q"])).values["data/leak"] == 0.0


def test_signals_survive_their_file_and_a_resume_drops_what_comes_again(tmp_path: Any) -> None:
    log = SignalLog(tmp_path / "diagnostics" / "signals.jsonl")
    log.start(0)
    rows = [Signals(0, {"data/leak": 0.0}), Signals(10, {"loss/total": math.inf}, {"no_grad": ["a"]}), Signals(20, {})]
    for row in rows:
        log.append(row)
    assert list(read_signals(log.path)) == rows
    with log.path.open("a", encoding="utf-8") as file:
        file.write('{"step": 30, "val')
    assert list(read_signals(log.path)) == rows
    log.start(10)
    assert [one.step for one in read_signals(log.path)] == [0, 10]
    log.start(0)
    assert list(read_signals(log.path)) == []


def test_slots_that_begin_a_further_step_anew_are_counted() -> None:
    run = Run(make_model())
    run.step()
    new = run.model.initial_carry(BATCH)
    kept = torch.arange(BATCH) % 4 == 0  # a quarter of the slots goes on as it should
    mixed = {name: torch.where(kept[:, None, None], getattr(run.carry, name), getattr(new, name)) for name in "yz"}
    run.carry = replace(run.carry, **mixed)
    signals = run.step(check=True)
    assert signals is not None and signals.values["latent/reset"] == pytest.approx(1.0 - kept.float().mean().item())


def test_where_no_slot_is_beyond_its_first_step_nothing_is_said_of_the_carry() -> None:
    signals = Run(make_model()).step(check=True)
    assert signals is not None and not {"latent/reset", "latent/change"} & set(signals.values)
