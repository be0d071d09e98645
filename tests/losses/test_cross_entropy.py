import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from titans_trm.losses.cross_entropy import log_stablemax, token_cross_entropy

IGNORE = -100


def sample(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(4, 7, 11, generator=generator, dtype=torch.float64)
    targets = torch.randint(11, (4, 7), generator=generator)
    targets[0, 2:] = IGNORE
    targets[3, 0] = IGNORE
    return logits.to(dtype), targets


def oracle(log_p: Tensor, targets: Tensor, smoothing: float = 0.0, gamma: float = 0.0) -> Tensor:
    """Token by token, as the definition reads."""
    losses = []
    for row, target in zip(log_p, targets, strict=True):
        terms = []
        for token, t in zip(row, target.tolist(), strict=True):
            if t != IGNORE:
                smooth = torch.full_like(token, smoothing / len(token))
                smooth[t] += 1 - smoothing
                terms.append((1 - token[t].exp()) ** gamma * -(smooth * token).sum())
        losses.append(torch.stack(terms).mean())
    return torch.stack(losses)


def stablemax(x: Tensor) -> Tensor:
    s = torch.where(x >= 0, x + 1, 1 / (1 - x))
    return s / s.sum(-1, keepdim=True)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_softmax_equals_torch(smoothing: float):
    logits, targets = sample()
    ours = token_cross_entropy(logits, targets, kind="softmax", label_smoothing=smoothing)
    for row in range(4):
        expected = F.cross_entropy(logits[row], targets[row], label_smoothing=smoothing)
        torch.testing.assert_close(ours[row], expected)


@pytest.mark.parametrize("kind", ["softmax", "stablemax"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_every_variant_equals_its_definition(kind: str, smoothing: float, gamma: float):
    logits, targets = sample()
    log_p = (stablemax(logits) if kind == "stablemax" else logits.softmax(-1)).log()
    ours = token_cross_entropy(logits, targets, kind=kind, label_smoothing=smoothing, focal_gamma=gamma)
    torch.testing.assert_close(ours, oracle(log_p, targets, smoothing, gamma))


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4])
def test_float32_stablemax_agrees_with_the_definition_in_float64(scale: float):
    logits = scale * torch.randn(64, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(log_stablemax(logits.float()).double(), stablemax(logits).log(), rtol=2e-6, atol=2e-6)


def test_stablemax_gradient_is_right_everywhere_zero_included():
    logits = torch.tensor([[0.0, 2.0, -3.0, 0.0]], dtype=torch.float64, requires_grad=True)
    (ours,) = torch.autograd.grad(log_stablemax(logits)[0, 0], logits)
    # d log p_0 / d x_k = [k = 0] s'(x_0) / s(x_0) - s'(x_k) / sum s, with s' = 1 above 0 and s^2 below.
    s, slope = torch.tensor([1.0, 3.0, 0.25, 1.0]), torch.tensor([1.0, 1.0, 0.0625, 1.0])
    expected = -slope / s.sum()
    expected[0] += 1.0
    torch.testing.assert_close(ours[0], expected.double())


@pytest.mark.parametrize("kind", ["softmax", "stablemax"])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_loss_and_gradient_are_finite_at_extreme_logits(kind: str, gamma: float, dtype: torch.dtype):
    logits = torch.tensor([[[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4], [0.0, 0.0, 0.0]]], dtype=dtype, requires_grad=True)
    loss = token_cross_entropy(
        logits, torch.zeros(1, 3, dtype=torch.int64), kind=kind, label_smoothing=0.1, focal_gamma=gamma
    )
    assert loss.dtype == torch.float32
    (grad,) = torch.autograd.grad(loss.sum(), logits)
    assert loss.isfinite().all()
    assert grad.isfinite().all()


@pytest.mark.parametrize("kind", ["softmax", "stablemax"])
def test_bfloat16_logits_lose_only_their_own_rounding(kind: str):
    logits, targets = sample(torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = token_cross_entropy(logits, targets, kind=kind)
    torch.testing.assert_close(
        ours.double(), token_cross_entropy(logits.double(), targets, kind=kind), rtol=1e-5, atol=1e-5
    )


def test_example_without_scored_token_gives_zero_and_no_gradient():
    logits = torch.randn(2, 3, 5, requires_grad=True)
    targets = torch.tensor([[IGNORE] * 3, [1, 2, 3]])
    loss = token_cross_entropy(logits, targets, kind="stablemax")
    assert loss[0] == 0.0
    (grad,) = torch.autograd.grad(loss.sum(), logits)
    assert grad[0].abs().max() == 0.0
    assert grad[1].abs().min() > 0.0


def test_shapes_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"\(2, 3, 5\) do not fit targets \(2, 4\)"):
        token_cross_entropy(torch.zeros(2, 3, 5), torch.zeros(2, 4, dtype=torch.int64))


def test_class_weights_equal_torch_up_to_the_divisor():
    logits, targets = sample()
    weights = torch.linspace(0.2, 3.0, 11, dtype=torch.float64)
    ours = token_cross_entropy(logits, targets, class_weights=weights)
    for row in range(4):
        scored = targets[row] != IGNORE
        expected = F.cross_entropy(logits[row], targets[row], weight=weights, reduction="sum") / scored.sum()
        torch.testing.assert_close(ours[row], expected)


@pytest.mark.parametrize("kind", ["softmax", "stablemax"])
def test_equal_class_weights_change_nothing_whatever_else_is_on(kind: str):
    logits, targets = sample()
    options = {"kind": kind, "label_smoothing": 0.1, "focal_gamma": 2.0}
    plain = token_cross_entropy(logits, targets, **options)
    torch.testing.assert_close(token_cross_entropy(logits, targets, class_weights=torch.ones(11), **options), plain)


def test_class_weights_of_another_vocabulary_are_named():
    logits, targets = sample()
    with pytest.raises(ValueError, match=r"class_weights \(10,\) do not fit logits \(4, 7, 11\)"):
        token_cross_entropy(logits, targets, class_weights=torch.ones(10))
