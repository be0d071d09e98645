"""The diversity term revives a collapsed halting head, leaves a healthy one alone; the variance hinge revives nothing.

A small stand-in for a model in training: features y (B, D) whose loudest directions say nothing, a quiet one that
holds each example's difficulty, token accuracy falling with difficulty, the easier half exactly right. Fresh examples
at every step, judged on a held-out set.
"""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from titans_trm.losses.act import compute_act_loss, diversity_weight
from titans_trm.losses.config import LossConfig
from titans_trm.losses.diversity import logit_std_hinge, variance_hinge
from titans_trm.losses.halting import halting_loss
from titans_trm.models.act_head import ACTHead
from titans_trm.models.config import HaltingConfig

WIDTH = 32
BATCH = 128
OURS = LossConfig(diversity="logit_std")
CONTROL = LossConfig(diversity="variance_hinge")
OFF = LossConfig(diversity="off")


@dataclass(frozen=True)
class Examples:
    y: Tensor  # (n, D)
    difficulty: Tensor  # (n,)
    accuracy: Tensor  # (n,) token accuracy
    right: Tensor  # (n,) bool


def draw(n: int, generator: torch.Generator) -> Examples:
    y = torch.randn(n, WIDTH, generator=generator)
    difficulty = y[:, -1] + 0.3 * torch.randn(n, generator=generator)
    y[:, :4] *= 3.0
    return Examples(y, difficulty, torch.sigmoid(2.0 - difficulty), difficulty < 0.0)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads only wait for each other on tensors this small: minutes on a busy machine instead of seconds."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def held_out() -> Examples:
    return draw(4096, torch.Generator().manual_seed(99))


def make_head(weight_std: float, bias: float) -> ACTHead:
    torch.manual_seed(1)
    return ACTHead(WIDTH, HaltingConfig(weight_init_std=weight_std, bias_init=bias))


def train(
    head: ACTHead, config: LossConfig, steps: int, *, target: float | None = None, lr: float = 0.03, seed: int = 0
) -> ACTHead:
    """Train the head; `target` replaces the cross-entropy's target, as where correctness is not known."""
    optimizer = torch.optim.Adam(head.parameters(), lr=lr)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        batch = draw(BATCH, generator)
        # y is an input here, so that live and detached logits are the same.
        logits = head(batch.y)
        loss = compute_act_loss(logits, batch.right, config, detached_halting_logits=logits, signal=batch.accuracy)
        total = loss.total
        if target is not None:
            uninformed = halting_loss(logits, torch.full_like(logits, target))
            total = config.halting_weight * uninformed + diversity_weight(config, 0) * loss.diversity
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    return head


def correlation(a: Tensor, b: Tensor) -> float:
    return torch.corrcoef(torch.stack((a, b)))[0, 1].item()


COLLAPSED = {
    "zero weights": (0.0, 0.0),
    "zero weights, bias of a fresh head": (0.0, -5.0),
    "tiny weights": (1e-6, 0.0),
    "saturated low": (1e-6, -8.0),
    "saturated high": (1e-6, 8.0),
}


@pytest.mark.parametrize("start", COLLAPSED)
def test_collapsed_head_recovers_with_logit_std_and_stays_collapsed_with_variance_hinge(held_out: Examples, start: str):
    # The target 1/2 for everything is the case in which the variance hinge was published, and the one that tells
    # nothing apart: cross-entropy alone would keep all logits equal, so recovery is the diversity term's doing.
    ours = train(make_head(*COLLAPSED[start]), OURS, 500, target=0.5)
    control = train(make_head(*COLLAPSED[start]), CONTROL, 500, target=0.5)
    logits = ours(held_out.y)
    assert logits.std() >= OURS.diversity_target_std / 2
    assert correlation(logits, -held_out.difficulty) > 0.8
    assert control(held_out.y).sigmoid().var() < 1e-6


@pytest.mark.parametrize("start", COLLAPSED)
def test_collapsed_head_learns_to_tell_right_from_wrong_with_true_targets(held_out: Examples, start: str):
    with_ours = train(make_head(*COLLAPSED[start]), OURS, 500)
    without = train(make_head(*COLLAPSED[start]), OFF, 500)
    nats = [halting_loss(head(held_out.y), held_out.right).item() for head in (with_ours, without)]
    assert nats[0] < 0.4
    assert nats[0] == pytest.approx(nats[1], abs=0.02)


def test_even_a_head_that_was_spread_collapses_under_the_control(held_out: Examples):
    control = train(make_head(0.1, 0.0), CONTROL, 500, target=0.5)
    assert control(held_out.y).sigmoid().var() < 1e-6


def test_recovery_from_exactly_equal_logits_needs_the_anchor(held_out: Examples):
    head = train(make_head(0.0, 0.0), replace(OURS, diversity_anchor=0.0), 100, target=0.5)
    assert head(held_out.y).std() == 0.0


def test_spread_without_meaning_is_turned_into_spread_with_meaning(held_out: Examples):
    head = make_head(0.0, 0.0)
    with torch.no_grad():
        head.weight[0, 0] = 0.5  # logits follow a loud feature that says nothing about difficulty
    plain = train(deepcopy(head), replace(OURS, diversity_anchor=0.0), 200, target=0.5)
    ours = train(head, OURS, 200, target=0.5)
    assert abs(correlation(plain(held_out.y), held_out.difficulty)) < 0.6
    assert correlation(ours(held_out.y), -held_out.difficulty) > 0.8


@pytest.mark.parametrize("spread", [0.0, 1e-6, 1e-3])
@pytest.mark.parametrize("bias", [0.0, -5.0, 12.0])
def test_gradient_near_collapse_is_of_order_one_for_ours_and_vanishes_for_the_control(spread: float, bias: float):
    n = 64
    generator = torch.Generator().manual_seed(3)
    logits = (bias + spread * torch.randn(n, generator=generator, dtype=torch.float64)).requires_grad_()
    accuracy = torch.rand(n, generator=generator, dtype=torch.float64)
    ours = logit_std_hinge(logits, target_std=0.5, signal=accuracy, anchor=0.5)
    (grad,) = torch.autograd.grad(ours, logits)
    # Norm 1 / sqrt(n), since the gradient of a standard deviation is a unit vector over sqrt(n).
    assert grad.norm().item() == pytest.approx(n**-0.5, rel=1e-3)
    assert correlation(-grad, accuracy) > 0.99
    (control,) = torch.autograd.grad(variance_hinge(logits), logits)
    assert control.norm() <= 2 * spread * n**-0.5
    assert bias == 0.0 or control.norm() <= 2e-2 * spread


def test_gradient_ratio_grows_without_bound_as_the_head_collapses():
    generator = torch.Generator().manual_seed(4)
    deviation, accuracy = torch.randn(2, 64, generator=generator, dtype=torch.float64)
    ratios = []
    for spread in (1e-1, 1e-3, 1e-5):
        logits = (spread * deviation).requires_grad_()
        ours = logit_std_hinge(logits, target_std=0.5, signal=accuracy, anchor=0.5)
        norms = [torch.autograd.grad(loss, logits)[0].norm() for loss in (ours, variance_hinge(logits))]
        ratios.append((norms[0] / norms[1]).item())
    assert ratios[1] > 50 * ratios[0]
    assert ratios[2] > 50 * ratios[1]


def test_healthy_head_gets_exactly_no_gradient(held_out: Examples):
    logits = train(make_head(0.02, -5.0), OFF, 400)(held_out.y).detach().requires_grad_()
    assert logits.std() > OURS.diversity_target_std
    loss = compute_act_loss(logits, held_out.right, OURS, detached_halting_logits=logits, signal=held_out.accuracy)
    assert loss.diversity == 0.0
    assert torch.autograd.grad(loss.diversity, logits)[0].abs().max() == 0.0


def test_healthy_head_trains_on_bit_for_bit_the_same():
    heads = [train(train(make_head(0.02, -5.0), OFF, 400), config, 50, seed=1) for config in (OFF, OURS)]
    assert torch.equal(heads[0].weight, heads[1].weight)
    assert torch.equal(heads[0].bias, heads[1].bias)


def test_calibration_of_a_fresh_head_is_unchanged_by_the_diversity_term(held_out: Examples):
    logits = [train(make_head(0.02, -5.0), config, 600)(held_out.y).detach() for config in (OFF, OURS)]
    nats = [halting_loss(values, held_out.right).item() for values in logits]
    assert nats[1] == pytest.approx(nats[0], rel=0.02)
    assert [calibration_error(values, held_out.right) < 0.06 for values in logits] == [True, True]


def calibration_error(logits: Tensor, right: Tensor, num_bins: int = 10) -> float:
    """Mean gap between stated and observed probability over equally filled bins."""
    q, order = logits.sigmoid().sort()
    bins = zip(q.chunk(num_bins), right[order].float().chunk(num_bins), strict=True)
    return sum((stated.mean() - seen.mean()).abs().item() for stated, seen in bins) / num_bins


def test_diversity_term_sends_no_gradient_into_the_representation(held_out: Examples):
    head = make_head(1e-3, -5.0)
    y = held_out.y.clone().requires_grad_()
    loss = compute_act_loss(
        head(y), held_out.right, OURS, detached_halting_logits=head(y.detach()), signal=held_out.accuracy
    )
    assert torch.autograd.grad(loss.diversity, y, allow_unused=True, retain_graph=True) == (None,)
    assert torch.autograd.grad(loss.diversity, head.weight, retain_graph=True)[0].norm() > 0.1
    without = compute_act_loss(head(y), held_out.right, OFF)
    assert torch.equal(*(torch.autograd.grad(term.total, y)[0] for term in (loss, without)))


@pytest.mark.parametrize("right", [torch.zeros(64, dtype=torch.bool), torch.ones(64, dtype=torch.bool)])
def test_term_is_off_where_all_examples_deserve_the_same_logit(right: Tensor):
    logits = torch.zeros(64, requires_grad=True)
    loss = compute_act_loss(logits, right, OURS, detached_halting_logits=logits, signal=torch.rand(64))
    assert loss.diversity == 0.0
    assert torch.autograd.grad(loss.diversity, logits)[0].abs().max() == 0.0


def test_only_undecided_examples_are_spread():
    logits = torch.zeros(64, requires_grad=True)
    undecided = torch.arange(64) < 40
    right = torch.arange(64) % 2 == 0
    loss = compute_act_loss(
        logits, right, OURS, detached_halting_logits=logits, signal=torch.rand(64), undecided=undecided
    )
    (grad,) = torch.autograd.grad(loss.diversity, logits)
    assert grad[:40].abs().min() > 0.0
    assert grad[40:].abs().max() == 0.0
