import pytest
import torch

from titans_trm.models.act_head import ACTHead, draw_min_steps, halting_decision
from titans_trm.models.config import HaltingConfig

CONFIG = HaltingConfig(max_supervision_steps=4)


def test_fresh_head_says_not_yet_and_tells_examples_apart():
    head = ACTHead(64, HaltingConfig())
    logits = head(torch.randn(32, 64))
    assert logits.shape == (32,)
    assert logits.max() < -3.0
    assert logits.std() > 0.0
    assert "width=64" in repr(head)


def test_logits_are_the_linear_map_of_the_features():
    head = ACTHead(8, HaltingConfig()).double()
    features = torch.randn(3, 5, 8, dtype=torch.float64)
    expected = torch.nn.functional.linear(features, head.weight, head.bias).squeeze(-1)
    torch.testing.assert_close(head(features), expected)
    assert head(features).dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_stay_in_float32_under_autocast_and_for_half_precision_features(dtype: torch.dtype):
    head = ACTHead(64, HaltingConfig())
    features = torch.randn(4, 64).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = head(features)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, features.float() @ head.weight[0] + head.bias)


def test_training_halts_on_positive_logit_after_the_minimum_or_at_the_last_step():
    logits = torch.tensor([1.0, 1.0, -1.0, -1.0, 1.0, float("nan"), 0.0])
    steps = torch.tensor([1, 1, 3, 4, 3, 2, 2])
    minimum = torch.tensor([1, 2, 1, 1, 3, 1, 1])
    halted = halting_decision(logits, steps, minimum, CONFIG, training=True)
    assert halted.tolist() == [True, False, False, True, True, False, False]


def test_inference_ignores_exploration():
    logits, steps, minimum = torch.tensor([1.0, -1.0]), torch.tensor([1, 1]), torch.tensor([4, 4])
    assert halting_decision(logits, steps, minimum, CONFIG, training=False).tolist() == [True, False]
    assert halting_decision(logits, steps, None, CONFIG, training=True).tolist() == [True, False]


def test_example_with_token_logits_halts_when_every_token_wants_to():
    logits = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
    assert halting_decision(logits, torch.tensor([1, 1]), None, CONFIG, training=True).tolist() == [True, False]


def test_minimum_steps_follow_the_exploration_probability():
    config = HaltingConfig(max_supervision_steps=16, exploration=0.25)
    minimum = draw_min_steps(20_000, config, torch.Generator().manual_seed(0))
    explored = minimum[minimum > 1]
    assert minimum.dtype == torch.int64
    assert len(explored) / len(minimum) == pytest.approx(0.25, abs=0.02)
    assert explored.unique().tolist() == list(range(2, 17))
    assert torch.bincount(explored)[2:].float().std() < 0.2 * len(explored) / 15


@pytest.mark.parametrize(("most", "exploration", "expected"), [(1, 1.0, {1}), (2, 1.0, {2}), (16, 0.0, {1})])
def test_minimum_steps_at_the_edges(most: int, exploration: float, expected: set[int]):
    config = HaltingConfig(max_supervision_steps=most, exploration=exploration)
    assert set(draw_min_steps(100, config, torch.Generator().manual_seed(0)).tolist()) == expected


def test_draws_resume_from_the_generator_state():
    generator = torch.Generator().manual_seed(0)
    draw_min_steps(7, CONFIG, generator)
    state = generator.get_state()
    expected = draw_min_steps(100, HaltingConfig(exploration=0.5), generator)
    generator.set_state(state)
    assert torch.equal(draw_min_steps(100, HaltingConfig(exploration=0.5), generator, "cpu"), expected)
