import pytest
import torch
from torch.nn import functional as F

from titans_trm.models.norm import RMS_EPS, rms_norm
from titans_trm.models.rotary import apply_rotary, rotary_tables


@pytest.mark.parametrize("with_gain", [False, True])
def test_rms_norm_and_its_gradients_equal_pytorchs(with_gain):
    torch.manual_seed(0)
    x = (3 * torch.randn(2, 5, 8, dtype=torch.float64)).requires_grad_()
    gain = torch.rand(8, dtype=torch.float64).requires_grad_() if with_gain else None
    cotangent = torch.randn(2, 5, 8, dtype=torch.float64)
    inputs = [t for t in (x, gain) if t is not None]
    ours, theirs = rms_norm(x, gain), F.rms_norm(x, (8,), gain, RMS_EPS)
    torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=1e-14)
    for mine, other in zip(
        torch.autograd.grad(ours, inputs, cotangent), torch.autograd.grad(theirs, inputs, cotangent), strict=True
    ):
        torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-13)


def test_gradient_of_rms_norm_is_right_also_near_zero():
    x = torch.tensor([[1e-4, -2e-4, 3e-4], [1.0, 2.0, -0.5]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(rms_norm, (x,))


def test_rms_norm_of_a_row_of_zeros_is_zero_with_a_finite_gradient():
    x = torch.zeros(1, 4, requires_grad=True)
    normed = rms_norm(x)
    normed.sum().backward()
    assert not normed.any() and torch.isfinite(x.grad).all()


def test_second_derivatives_of_rms_norm_are_refused_rather_than_wrong():
    x = torch.randn(2, 4, requires_grad=True)
    (grad,) = torch.autograd.grad(rms_norm(x).square().sum() + rms_norm(x).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_rotation_keeps_lengths_and_equals_complex_multiplication():
    torch.manual_seed(0)
    x = torch.randn(2, 3, 7, 8, dtype=torch.float64)
    cos, sin = (table.double() for table in rotary_tables(torch.arange(7), 8, 10_000.0))
    turned = apply_rotary(x, cos, sin)
    expected = torch.complex(x[..., :4], x[..., 4:]) * torch.complex(cos, sin)
    torch.testing.assert_close(turned, torch.cat((expected.real, expected.imag), -1), rtol=1e-13, atol=1e-14)
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1), rtol=1e-6, atol=0.0)
