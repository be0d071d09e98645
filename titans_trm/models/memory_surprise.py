"""The surprise of a memory at some weights, and the gradient of a loss through it, both in closed form.

`M(x) = x + LN(W2 gelu(W1 x)) gain`, loss of a token `1/2 |M(k) - v|^2`; the gradient for a weight matrix is the outer
product of the matrix's input `a` and the error `g` at its output. States are packed as in `memory_kernel`: the first
matrix as `(H, B, M, d, w)`, the second transposed alike, or None at depth 1.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from titans_trm.models.memory_products import add_outer, add_product, dot, product, scale

LAYER_NORM_EPS = 1e-5
_TINY = 1e-12  # keeps a division by a vanishing gradient norm finite


@dataclass
class Surprise:
    """Rows of all tokens (H, B, T, .); `wide` ones are at least float32."""

    inputs: tuple[Tensor, ...]  # a, per matrix
    errors: tuple[Tensor, ...]  # g, per matrix
    hidden: Tensor | None  # before GELU
    hidden_error: Tensor | None  # g of the second matrix, seen behind it
    out: Tensor  # of the last matrix, wide
    mean: Tensor
    rstd: Tensor  # of the layer norm
    normal: Tensor  # wide
    miss: Tensor  # M(k) - v, wide
    wide_error: Tensor  # g of the last matrix, wide


def surprise(first: Tensor, second: Tensor | None, gain: Tensor, keys: Tensor, values: Tensor) -> Surprise:
    """Return inputs and errors at the weights of packed states; `gain` is (H, 1, 1, d)."""
    wide = torch.promote_types(keys.dtype, torch.float32)
    hidden = None if second is None else product(keys, first[:, :, 0])
    inputs = (keys,) if hidden is None else (keys, F.gelu(hidden))
    last = first[:, :, 0] if second is None else second[:, :, 0].mT
    out = product(inputs[-1], last).to(wide)
    mean = out.mean(-1, keepdim=True)
    centred = out - mean
    # Not native_layer_norm, which is slow on the narrow rows of small heads.
    rstd = torch.rsqrt(
        torch.linalg.vector_norm(centred, dim=-1, keepdim=True).square() / out.shape[-1] + LAYER_NORM_EPS
    )
    normal = centred.mul_(rstd)
    miss = torch.addcmul(keys.to(wide) - values.to(wide), normal, gain)
    wide_error = _norm_back(miss * gain, out, mean, rstd)
    error = wide_error.to(keys.dtype)
    if second is None or hidden is None:
        return Surprise(inputs, (error,), None, None, out, mean, rstd, normal, miss, wide_error)
    hidden_error = product(error, second[:, :, 0])
    errors = (torch.ops.aten.gelu_backward(hidden_error, hidden), error)
    return Surprise(inputs, errors, hidden, hidden_error, out, mean, rstd, normal, miss, wide_error)


@dataclass
class Steps:
    """How far each token moves each matrix (L, H, B, T)."""

    size: Tensor  # theta times the scale that caps the gradient
    gate: Tensor  # sigmoid, of theta
    capped: Tensor  # bool
    square_inputs: Tensor  # |a|^2
    square_errors: Tensor  # |g|^2


def steps(logits: Tensor, found: Surprise, max_step: float, cap: float) -> Steps:
    """Return the steps for the logits of theta (L, H, B, T)."""
    inputs, errors = (
        torch.stack([torch.linalg.vector_norm(x, dim=-1, dtype=logits.dtype) for x in rows])
        for rows in (found.inputs, found.errors)
    )
    norms = inputs * errors
    gate = torch.sigmoid(logits)
    size = gate * max_step * (cap / norms.clamp_min(_TINY)).clamp_(max=1.0)
    return Steps(size, gate, norms > cap, inputs.square_(), errors.square_())


def surprise_backward(
    first: Tensor,
    second: Tensor | None,
    gain: Tensor,
    found: Surprise,
    moves: Steps,
    grad_inputs: tuple[Tensor, ...],
    grad_written: tuple[Tensor, ...],
    grad_log_steps: Tensor,
    grad_states: tuple[Tensor, ...],
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of values, gain (H, 1, 1, d) and theta's logits; add those of keys and states in place.

    Args:
        first: packed states.
        second: packed states of the second matrix, or None.
        gain: (H, 1, 1, d).
        found: what `surprise` returned.
        moves: what `steps` returned.
        grad_inputs: gradients of `found.inputs`; added to in place, so that the first holds those of the keys.
        grad_written: gradients of the errors times their steps.
        grad_log_steps: gradients of the logarithm of the steps (L, H, B, T).
        grad_states: gradients of the packed states; added to in place.
    """
    pull = torch.where(moves.capped, -grad_log_steps, torch.zeros_like(grad_log_steps))  # on the log of a norm
    for rows, grad, on_rows in zip(found.inputs, grad_inputs, pull / moves.square_inputs.clamp_min(_TINY), strict=True):
        grad.addcmul_(rows, on_rows.unsqueeze(-1).to(rows.dtype))
    on_errors = pull / moves.square_errors.clamp_min(_TINY)
    grad_errors = [
        scale(grad, step).addcmul_(g, on_g.unsqueeze(-1).to(g.dtype))
        for grad, step, g, on_g in zip(grad_written, moves.size, found.errors, on_errors, strict=True)
    ]
    keys, last_error = found.inputs[0], grad_errors[-1]
    grad_hidden = None
    if second is not None and found.hidden is not None and found.hidden_error is not None:
        slope = torch.ops.aten.gelu_backward(torch.ones_like(found.hidden), found.hidden)
        grad_hidden = _gelu_curve(found.hidden).mul_(grad_errors[0]).mul_(found.hidden_error)
        back = grad_errors[0].mul_(slope)
        add_product(last_error, back, second[:, :, 0].mT)
        add_outer(grad_states[1][:, :, 0], found.errors[1], back)
    grad_out, grad_miss, grad_gain = _error_backward(found, gain, last_error)
    grad_out = grad_out.to(keys.dtype)
    if second is not None and grad_hidden is not None:
        add_product(grad_inputs[1], grad_out, second[:, :, 0])
        add_outer(grad_states[1][:, :, 0], grad_out, found.inputs[1])
        grad_out = grad_hidden.addcmul_(grad_inputs[1], slope)
    add_product(grad_inputs[0], grad_out, first[:, :, 0].mT)
    add_outer(grad_states[0][:, :, 0], keys, grad_out)
    grad_inputs[0].add_(grad_miss)
    return grad_miss.neg_().to(keys.dtype), grad_gain, grad_log_steps * (1.0 - moves.gate)


def _error_backward(found: Surprise, gain: Tensor, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return gradients of the last matrix's output, of `miss` and of the gain, for that of the last error."""
    grad, normal, rstd = grad.to(found.out.dtype), found.normal, found.rstd
    width = normal.shape[-1]
    back = found.miss * gain
    grad_miss = _norm_back(grad, found.out, found.mean, rstd)  # the projection is symmetric
    grad_gain = (grad_miss * torch.addcmul(found.miss, normal, gain)).sum((1, 2), keepdim=True)
    grad_miss.mul_(gain)
    along = dot(back, normal).unsqueeze(-1) / -width * rstd
    across = dot(grad, normal).unsqueeze(-1) / -width * rstd
    grad_normal = (grad_miss * gain).addcmul_(grad, along).addcmul_(back, across)
    grad_out = _norm_back(grad_normal, found.out, found.mean, rstd)
    through_rstd = dot(grad, found.wide_error).unsqueeze(-1) / -width * rstd
    return grad_out.addcmul_(normal, through_rstd), grad_miss, grad_gain


def _norm_back(grad: Tensor, out: Tensor, mean: Tensor, rstd: Tensor) -> Tensor:
    """Return the gradient before a layer norm without gain: what it cannot move, mean and length, is taken out."""
    return torch.ops.aten.native_layer_norm_backward(
        grad, out, out.shape[-1:], mean, rstd, None, None, [True, False, False]
    )[0]


def _gelu_curve(x: Tensor) -> Tensor:
    """Return the second derivative of GELU, `phi(x) (2 - x^2)` with phi of the standard normal."""
    square = x * x
    return (square * -0.5).exp_().mul_((2.0 * torch.pi) ** -0.5).mul_(square.neg_().add_(2.0))
