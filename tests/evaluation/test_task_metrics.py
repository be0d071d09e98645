"""Metrics that only some tasks have: several right answers, bits per byte, positions, grids of lengths and depths."""

import math

import pytest
import torch

from titans_trm.data.mqar.config import MqarConfig
from titans_trm.data.mqar.task import MqarTask
from titans_trm.data.niah.config import NiahConfig
from titans_trm.data.niah.task import NiahTask
from titans_trm.data.text.corpus import Document
from titans_trm.data.text.task import TextTask
from titans_trm.evaluation.extrapolation import draw_grids, evaluate_grid
from titans_trm.evaluation.metrics import SolveMetrics
from titans_trm.evaluation.positions import BUCKETS, position_report
from titans_trm.evaluation.solving import Solved, solve_examples
from titans_trm.models.config import BackboneConfig, HaltingConfig, MemoryConfig, RecursionConfig, TitansTRMConfig
from titans_trm.models.inference import solve
from titans_trm.models.titans_trm import TitansTRM

IGNORE = -100


def model(vocab_size: int, seq_len: int, *, unit: str = "sequence", steps: int = 1) -> TitansTRM:
    torch.manual_seed(0)
    config = TitansTRMConfig(
        vocab_size=vocab_size,
        seq_len=seq_len,
        causal=True,
        width=16,
        backbone=BackboneConfig(num_blocks=1, num_heads=2, mlp_hidden=16, num_persistent_tokens=1, window=8),
        memory=MemoryConfig(num_heads=1, expansion=1, chunk_size=8),
        recursion=RecursionConfig(num_latent_steps=1, num_recursions=1),
        halting=HaltingConfig(max_supervision_steps=steps, unit=unit),  # type: ignore[arg-type]
    )
    return TitansTRM(config)


def text(seq_len: int = 32):
    documents = [Document("a", "a", b"The quick brown fox jumps over the lazy dog. " * 5), Document("b", "b", b"short")]
    return TextTask(seq_len).windows("x", documents)


def solved(nats: list[float], scored: list[float]) -> Solved:
    one = torch.zeros(1)
    return Solved(
        exact=one.bool(),
        token_accuracy=one,
        cross_entropy=one,
        steps=one,
        adaptive_exact=one.bool(),
        adaptive_steps=one,
        scored=one,
        valid=one.bool(),
        exact_by_step=one.bool()[:, None],
        right_by_step=one.long()[:, None],
        halting_logits=one[:, None],
        answers=torch.zeros(1, len(nats), dtype=torch.uint8),
        position_nats=torch.tensor(nats, dtype=torch.float64),
        position_scored=torch.tensor(scored, dtype=torch.float64),
        net_calls=1,
        seconds=1.0,
    )


def test_bits_per_byte_counts_every_byte_once_whatever_the_windows():
    net, examples = model(256, 32), text()
    found = solve_examples(net, examples, batch_size=3, ignore_index=IGNORE)
    batch = examples.batch(range(len(examples)))
    log_probs = solve(net, batch.inputs).logits.log_softmax(dim=-1)
    scored = batch.targets != IGNORE
    nats = -log_probs.gather(-1, batch.targets.clamp_min(0)[..., None]).squeeze(-1)[scored]
    assert int(scored.sum()) == 45 * 5 + 5
    assert found.bits_per_byte == pytest.approx(float(nats.mean()) / math.log(2), rel=1e-5)
    assert float(found.scored.sum()) == len(nats)
    metrics = SolveMetrics(IGNORE, bits_per_byte=True)
    for rows in ([0, 1, 2], range(3, len(examples))):
        part = examples.batch(rows)
        metrics.update(solve(net, part.inputs, keep_steps=True), part.targets)
    assert metrics.compute()["bits_per_byte"] == pytest.approx(found.bits_per_byte, rel=1e-5)
    assert metrics.compute()["cross_entropy"] != pytest.approx(found.bits_per_byte * math.log(2), rel=1e-3)


def test_the_tasks_own_judgement_is_reported_beside_the_target():
    net, examples = model(256, 32), text()

    def even(inputs: torch.Tensor, answers: torch.Tensor) -> torch.Tensor:
        assert inputs.shape == answers.shape
        return inputs[:, 1] % 2 == 0

    batch = examples.batch(range(len(examples)))
    expected = (batch.inputs[:, 1] % 2 == 0).float().mean()
    found = solve_examples(net, examples, batch_size=4, ignore_index=IGNORE, valid=even)
    assert found.valid.float().mean() == expected
    metrics = SolveMetrics(IGNORE, valid=even)
    solution = solve(net, batch.inputs, keep_steps=True)
    metrics.update(solution, batch.targets, batch.inputs)
    assert metrics.compute()["valid_optimal"] == pytest.approx(float(expected))
    with pytest.raises(ValueError, match="pass inputs"):
        metrics.update(solution, batch.targets)
    without = solve_examples(net, examples, batch_size=4, ignore_index=IGNORE)
    assert (without.valid == without.exact).all()
    assert "valid_optimal" not in SolveMetrics(IGNORE).means


def test_the_parts_of_a_window_add_up_to_the_whole():
    net, examples = model(256, 32), text()
    found = solve_examples(net, examples, batch_size=3, ignore_index=IGNORE)
    report = position_report(found, 8)
    buckets = report["buckets"]
    assert len(buckets) == BUCKETS
    assert (buckets[0]["from"], buckets[-1]["to"]) == (0, 32)
    assert sum(bucket["scored"] for bucket in buckets) == 230
    total = sum(bucket["bits_per_byte"] * bucket["scored"] for bucket in buckets) / 230
    assert total == pytest.approx(found.bits_per_byte, rel=1e-6)


def test_a_spike_at_chunk_boundaries_shows_and_a_flat_curve_has_ratio_one():
    flat = position_report(solved([2.0] * 32, [1.0] * 32), 8)["chunk_boundary"]
    assert flat["ratio"] == pytest.approx(1.0)
    assert flat["bits_per_byte"] == pytest.approx(2.0 / math.log(2))
    spike = [4.0 if t in (8, 16, 24) else 2.0 for t in range(32)]
    assert position_report(solved(spike, [1.0] * 32), 8)["chunk_boundary"]["ratio"] == pytest.approx(2.0)
    assert position_report(solved([2.0] * 32, [1.0] * 32), None)["chunk_boundary"] is None
    assert position_report(solved([2.0] * 8, [1.0] * 8), 8)["chunk_boundary"] is None
    empty = position_report(solved([2.0] * 4 + [0.0] * 4, [1.0] * 4 + [0.0] * 4), None)["buckets"][-1]
    assert math.isnan(empty["bits_per_byte"])


def test_a_model_is_tested_beyond_its_training_length_and_the_grid_is_drawn(tmp_path):
    task = MqarTask(MqarConfig(seq_len=32, num_pairs=4, vocab_size=64))
    told = []
    grid = evaluate_grid(model(64, 32), task, (32, 128), (4, 16), examples=8, seed=0, on_cell=told.append)
    assert [(cell["length"], cell["depth"]) for cell in grid] == [(32, 4), (128, 4), (128, 16)]
    assert told == grid
    assert all(0.0 <= cell["token_accuracy"] <= 1.0 and cell["n"] == 8 for cell in grid)
    needles = evaluate_grid(model(256, 96), NiahTask(NiahConfig(seq_len=96)), (96, 192), (0.0, 1.0), examples=4, seed=0)
    assert len(needles) == 4
    path = tmp_path / "deep" / "grid.png"
    draw_grids({"MAG": grid, "twin": grid}, path, title="t", depth_label="pairs", trained_length=32)
    assert path.stat().st_size > 10_000


@pytest.mark.parametrize("unit", ["sequence", "token"])
def test_a_causal_model_halts_by_sequence_or_by_token(unit):
    net, examples = model(256, 32, unit=unit, steps=3), text()
    batch = examples.batch(range(4))
    output = net(batch.inputs, net.initial_carry(4, 32))
    assert output.halting_logits.shape == ((4,) if unit == "sequence" else (4, 32))
    found = solve_examples(net, examples, batch_size=4, ignore_index=IGNORE, adaptive=True)
    assert (found.steps == 3).all()
    with torch.no_grad():
        net.act_head.bias.fill_(50.0)
    assert (solve_examples(net, examples, batch_size=4, ignore_index=IGNORE, adaptive=True).steps == 1).all()


def test_bits_depend_on_the_past_only():
    net, examples = model(256, 32), text()
    inputs = examples.batch([0]).inputs
    changed = inputs.clone()
    changed[0, 20:] = ord("x")
    assert torch.equal(solve(net, inputs).logits[0, :20], solve(net, changed).logits[0, :20])
