"""Metrics of solved examples against values computed by hand and against a real adaptive run."""

import math

import pytest
import torch

from titans_trm.data.examples import ExampleSet
from titans_trm.evaluation.metrics import SolveMetrics, adaptive_steps
from titans_trm.evaluation.solving import solve_examples
from titans_trm.models.config import BackboneConfig, HaltingConfig, MemoryConfig, RecursionConfig, TitansTRMConfig
from titans_trm.models.inference import Solution, solve
from titans_trm.models.titans_trm import TitansTRM

IGNORE = -100


def model() -> TitansTRM:
    """Halts some examples early and others not at all."""
    torch.manual_seed(3)
    config = TitansTRMConfig(
        vocab_size=4,
        seq_len=3,
        width=8,
        backbone=BackboneConfig(num_blocks=1, num_heads=2, mlp_hidden=12, num_persistent_tokens=1),
        memory=MemoryConfig(num_heads=1, expansion=2, chunk_size=4),
        recursion=RecursionConfig(num_latent_steps=1, num_recursions=1),
        halting=HaltingConfig(max_supervision_steps=5, bias_init=-0.3),
    )
    made = TitansTRM(config)
    torch.nn.init.normal_(made.act_head.weight, std=2.0)
    logits = solve(made, examples().batch(range(40)).inputs).halting_logits
    with torch.no_grad():
        made.act_head.bias -= logits.quantile(0.8)  # a fifth of the steps want to halt
    return made


def examples(count: int = 40) -> ExampleSet:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randint(1, 4, (count, 3), generator=generator).to(torch.uint8)
    targets = torch.randint(0, 4, (count, 3), generator=generator).to(torch.uint8)
    targets[:, 0] = 1  # at least one scored token each; 0 is not scored
    names = [str(i) for i in range(count)]
    return ExampleSet("val", inputs, targets, names, names, torch.zeros(count, dtype=torch.int64))


def test_values_equal_a_computation_by_hand() -> None:
    targets = torch.tensor([[1, 2, IGNORE], [0, 1, 2]])
    steps = torch.tensor([[[1, 0, 9], [1, 2, 9], [1, 2, 0]], [[0, 1, 2], [0, 1, 1], [0, 0, 0]]])  # (B, S, N)
    halting = torch.tensor([[-1.0, 2.0, 3.0], [-1.0, -2.0, -3.0]])
    logits = torch.zeros(2, 3, 3)
    logits[0, 0, 1] = math.log(2.0)  # p(1) = 1/2; all others 1/3
    metrics = SolveMetrics(IGNORE)
    metrics.update(Solution(steps[:, -1], logits, torch.tensor([3, 3]), halting, steps, 0), targets)
    assert metrics.compute() == pytest.approx(
        {
            "exact_accuracy": 1 / 2,
            "token_accuracy": (1 + 1 / 3) / 2,
            "cross_entropy": ((math.log(2) + math.log(3)) / 2 + math.log(3)) / 2,
            "exact_accuracy_adaptive": 1 / 2,
            "mean_supervision_steps_adaptive": (2 + 3) / 2,
            "exact_accuracy_step_1": 1 / 2,
            "num_examples": 2,
        }
    )


def test_adaptive_steps_are_up_to_the_first_positive_logit() -> None:
    nan = math.nan
    logits = torch.tensor([[1.0, -1.0, 1.0], [-1.0, 0.0, 1.0], [-1.0, -1.0, -1.0], [nan, nan, 1.0]])
    assert adaptive_steps(logits).tolist() == [1, 3, 3, 3]


def test_a_full_run_tells_what_an_adaptive_run_would_do() -> None:
    net, batch = model(), examples().batch(range(40))
    full = solve(net, batch.inputs, keep_steps=True)
    adaptive = solve(net, batch.inputs, adaptive=True)
    assert 1 < adaptive.steps.float().mean() < 5  # the case is not trivial
    metrics = SolveMetrics(IGNORE)
    metrics.update(full, batch.targets)
    values = metrics.compute()
    scored = batch.targets != IGNORE
    right = ((adaptive.answers == batch.targets) | ~scored).all(dim=1)
    assert values["exact_accuracy_adaptive"] == pytest.approx(float(right.float().mean()))
    assert values["mean_supervision_steps_adaptive"] == pytest.approx(float(adaptive.steps.float().mean()))
    assert torch.equal(adaptive_steps(full.halting_logits), adaptive.steps)


def test_batches_of_any_size_add_up_to_one() -> None:
    net, batch = model(), examples().batch(range(40))
    whole, parts = SolveMetrics(IGNORE), SolveMetrics(IGNORE)
    whole.update(solve(net, batch.inputs, keep_steps=True), batch.targets)
    for rows in (range(0, 7), range(7, 40)):
        part = batch.select(torch.tensor(list(rows)))
        parts.update(solve(net, part.inputs, keep_steps=True), part.targets)
    assert parts.compute() == pytest.approx(whole.compute(), abs=1e-6)
    parts.reset()
    parts.update(solve(net, batch.inputs, keep_steps=True), batch.targets)
    assert parts.compute() == pytest.approx(whole.compute(), abs=1e-6)


def test_a_solution_without_its_steps_is_refused() -> None:
    net, batch = model(), examples(4).batch(range(4))
    with pytest.raises(ValueError, match="solve with keep_steps=True"):
        SolveMetrics(IGNORE).update(solve(net, batch.inputs), batch.targets)


@pytest.mark.parametrize("adaptive", [False, True])
def test_solving_a_set_equals_solving_it_at_once(adaptive: bool) -> None:
    net, data = model().train(), examples()
    seen: list[int] = []
    solved = solve_examples(net, data, batch_size=16, ignore_index=IGNORE, adaptive=adaptive, on_batch=seen.append)
    assert (len(solved), seen, net.training) == (40, [16, 16, 8], True)
    batch = data.batch(range(40))
    scored = batch.targets != IGNORE
    at_once = solve(net, batch.inputs, adaptive=adaptive)
    right = (at_once.answers == batch.targets) & scored
    assert torch.equal(solved.exact, right.sum(1) == scored.sum(1))
    torch.testing.assert_close(solved.token_accuracy, right.sum(1) / scored.sum(1))
    assert torch.equal(solved.steps, at_once.steps)
    assert solved.net_calls == at_once.net_calls == int(at_once.steps.sum()) * net.net_calls_per_step
    assert solved.seconds > 0
    log_probs = at_once.logits.log_softmax(-1).gather(-1, batch.targets.clamp_min(0)[..., None])[..., 0]
    torch.testing.assert_close(solved.cross_entropy, -(log_probs * scored).sum(1) / scored.sum(1))


def test_adaptive_solving_costs_fewer_net_calls() -> None:
    net, data = model(), examples()
    full = solve_examples(net, data, batch_size=40, ignore_index=IGNORE)
    adaptive = solve_examples(net, data, batch_size=40, ignore_index=IGNORE, adaptive=True)
    assert adaptive.net_calls < full.net_calls == 40 * 5 * net.net_calls_per_step
