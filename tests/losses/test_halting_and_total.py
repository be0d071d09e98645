from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from titans_trm.losses.act import compute_act_loss, diversity_weight
from titans_trm.losses.config import LossConfig
from titans_trm.losses.cross_entropy import token_cross_entropy
from titans_trm.losses.diversity import logit_std_hinge, share_right, variance_hinge
from titans_trm.losses.halting import exactly_right, halting_loss
from titans_trm.losses.total import compute_loss

IGNORE = -100


def logits_for(answers: list[list[int]], vocab: int = 5) -> Tensor:
    return 4.0 * F.one_hot(torch.tensor(answers), vocab).double()


TARGETS = torch.tensor([[1, 2, IGNORE], [1, 2, 3], [IGNORE, IGNORE, IGNORE], [4, IGNORE, 4]])
LOGITS = logits_for([[1, 2, 0], [1, 2, 4], [1, 1, 1], [4, 4, 4]])


def test_exactly_right_looks_at_scored_tokens_only_and_is_false_without_any():
    assert exactly_right(LOGITS, TARGETS).tolist() == [True, False, False, True]


def test_halting_loss_is_cross_entropy_in_float32_from_logits():
    logits = torch.tensor([0.5, -2.0, 100.0, -100.0], requires_grad=True)
    right = torch.tensor([True, False, False, True])
    q = logits.double().sigmoid()
    expected = torch.stack((-q[0].log(), -(1 - q[1]).log(), logits[2].double(), -logits[3].double())).mean()
    loss = halting_loss(logits, right)
    torch.testing.assert_close(loss.double(), expected)
    assert torch.autograd.grad(loss, logits)[0].abs().min() > 0.02
    assert halting_loss(logits.bfloat16(), right).dtype == torch.float32


def test_halting_loss_counts_scored_entries_only():
    logits, right = torch.randn(6), torch.arange(6) % 2 == 0
    scored = torch.tensor([True, True, True, False, False, False])
    torch.testing.assert_close(halting_loss(logits, right, scored), halting_loss(logits[:3], right[:3]))
    assert halting_loss(logits, right, torch.zeros(6, dtype=torch.bool)) == 0.0


def test_halting_loss_names_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match=r"\(3,\) do not fit targets \(2,\)"):
        halting_loss(torch.zeros(3), torch.zeros(2))


def test_diversity_losses_equal_their_definitions_on_the_masked_examples():
    generator = torch.Generator().manual_seed(0)
    logits, signal = torch.randn(2, 20, generator=generator, dtype=torch.float64)
    mask = torch.arange(20) < 13
    x, c = logits[:13], signal[:13]
    c = (c - c.mean()) / c.std(correction=0)
    plain = logit_std_hinge(logits, mask, target_std=3.0, eps=1e-12)
    torch.testing.assert_close(plain, 3.0 - x.std(correction=0))
    anchored = logit_std_hinge(logits, mask, target_std=3.0, signal=signal, anchor=0.5, eps=1e-12)
    torch.testing.assert_close(anchored, 3.0 - ((x + 0.5 * c).std(correction=0) - 0.5))
    assert anchored >= plain
    control = variance_hinge(logits, mask, target=0.2)
    torch.testing.assert_close(control, 0.2 - x.sigmoid().var(correction=0))
    assert variance_hinge(10 * logits, mask) == 0.0


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_examples_have_no_spread_to_lose(count: int):
    logits = torch.randn(4, requires_grad=True)
    mask = torch.arange(4) < count
    for loss in (logit_std_hinge(logits, mask, target_std=0.5, signal=torch.rand(4), anchor=0.5),
                 variance_hinge(logits, mask)):  # fmt: skip
        assert loss == 0.0
        assert torch.autograd.grad(loss, logits)[0].abs().max() == 0.0


def test_constant_signal_is_no_signal():
    logits = torch.randn(8)
    with_signal = logit_std_hinge(logits, target_std=5.0, signal=torch.full((8,), 0.7), anchor=0.5)
    assert with_signal == logit_std_hinge(logits, target_std=5.0)


def test_gradients_averaged_over_ranks_equal_those_of_one_process():
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(5, generator=generator, dtype=torch.float64, requires_grad=True)
    y = torch.randn(2, 6, 5, generator=generator, dtype=torch.float64)
    signal, right = torch.rand(2, 6, generator=generator), torch.rand(2, 6, generator=generator) < 0.4
    mask = torch.rand(2, 6, generator=generator) < 0.8
    options = {"target_std": 9.0, "anchor": 0.5}
    whole = logit_std_hinge((y @ weight).flatten(), mask.flatten(), signal=signal.flatten(), **options)

    # A differentiable gather hands each rank the sum over ranks of the gradients of its rows; evaluating both ranks'
    # loss on the same live rows and averaging is that sum.
    rows = torch.stack((y @ weight, mask.double(), signal.double()), dim=1)
    ranks = [
        logit_std_hinge(y[r] @ weight, mask[r], signal=signal[r], all_gather=lambda _: rows, **options) for r in (0, 1)
    ]
    expected, ours = (torch.autograd.grad(loss, weight, retain_graph=True)[0] for loss in (whole, sum(ranks) / 2))
    torch.testing.assert_close(ours, expected)
    share = share_right(right[0], mask[0], lambda _: torch.stack((right.float(), mask.float()), dim=1))
    torch.testing.assert_close(share, share_right(right.flatten(), mask.flatten()))


def test_diversity_weight_anneals_linearly_to_zero():
    config = LossConfig(diversity_weight=0.2, diversity_anneal_steps=100)
    assert [diversity_weight(config, step) for step in (0, 50, 100, 500)] == [0.2, 0.1, 0.0, 0.0]
    assert diversity_weight(LossConfig(diversity_weight=0.2), 10**6) == 0.2
    assert diversity_weight(LossConfig(diversity="off"), 0) == 0.0
    # Once annealed away, the second set of logits is not needed either.
    compute_act_loss(torch.zeros(4), torch.arange(4) < 2, config, step=100)


def test_logit_std_without_detached_logits_is_an_error_that_says_what_to_pass():
    with pytest.raises(ValueError, match="halting_features.detach"):
        compute_act_loss(torch.zeros(4), torch.arange(4) < 2, LossConfig())


def test_total_is_the_weighted_sum_of_its_terms_over_scored_examples():
    config = LossConfig(diversity_weight=0.3, halting_weight=0.7, cross_entropy="softmax")
    halting_logits = torch.tensor([0.1, -0.2, 0.05, 0.0], dtype=torch.float64)
    terms = compute_loss(LOGITS, halting_logits, TARGETS, config, detached_halting_logits=halting_logits)
    torch.testing.assert_close(terms.total, terms.cross_entropy + 0.7 * terms.halting + 0.3 * terms.diversity)
    assert terms.diversity > 0.0
    scored = torch.tensor([0, 1, 3])
    torch.testing.assert_close(terms.cross_entropy, token_cross_entropy(LOGITS, TARGETS)[scored].mean())
    exact = torch.tensor([True, False, True])
    torch.testing.assert_close(terms.halting, halting_loss(halting_logits[scored], exact))
    assert terms.exactly_right.tolist() == [True, False, False, True]
    torch.testing.assert_close(terms.token_accuracy, torch.tensor([1.0, 2 / 3, 0.0, 1.0]))


def test_control_acts_on_live_logits_and_needs_no_second_set():
    halting_logits = torch.zeros(4, requires_grad=True)
    config = LossConfig(diversity="variance_hinge")
    terms = compute_loss(LOGITS.float(), halting_logits, TARGETS, config)
    torch.testing.assert_close(terms.diversity, torch.tensor(0.1))
    torch.testing.assert_close(terms.total, terms.cross_entropy + 0.5 * terms.halting + 0.01 * 0.1)


def test_token_unit_compares_each_scored_token_with_its_own_answer():
    halting_logits = 0.1 * torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    undecided = torch.tensor([True, True, False, True])
    terms = compute_loss(
        LOGITS, halting_logits, TARGETS, LossConfig(), detached_halting_logits=halting_logits, undecided=undecided
    )
    scored = TARGETS != IGNORE
    right = LOGITS.argmax(-1) == TARGETS
    torch.testing.assert_close(terms.halting, halting_loss(halting_logits[scored], right[scored]))
    assert terms.diversity > 0.0


def test_batch_without_a_scored_token_gives_zero_not_nan():
    halting_logits = torch.zeros(2, requires_grad=True)
    logits = torch.randn(2, 3, 5, requires_grad=True)
    targets = torch.full((2, 3), IGNORE)
    terms = compute_loss(logits, halting_logits, targets, LossConfig(), detached_halting_logits=halting_logits)
    assert terms.total == 0.0
    terms.total.backward()
    assert logits.grad is not None
    assert logits.grad.abs().max() == 0.0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"cross_entropy": "hinge"}, "loss.cross_entropy='hinge' is not one of stablemax, softmax"),
        ({"diversity": "entropy"}, "is not one of off, logit_std, variance_hinge"),
        ({"label_smoothing": 1.0}, "loss.label_smoothing=1.0"),
        ({"diversity_guard": 0.5}, "loss.diversity_guard=0.5"),
        ({"halting_weight": -1.0}, "loss.halting_weight=-1.0 is negative"),
        ({"variance_hinge_target": float("nan")}, "loss.variance_hinge_target=nan"),
        ({"diversity_target_std": 0.0}, "loss.diversity=off"),
    ],
)
def test_bad_configuration_is_named(values: dict, message: str):
    with pytest.raises(ValueError, match=message):
        replace(LossConfig(), **values)
