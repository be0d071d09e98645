"""The chunk-parallel (dual) form of a memory learned at test time, as plain functions of tensors.

Inside a chunk all surprise gradients are taken at the chunk's first weights `W_0`, so the gradient of token j for one
weight matrix is the outer product of `a_j`, the input of that matrix, and `g_j`, the error at its output. Weights at
any token of the chunk are then a decayed `W_0`, a decayed momentum `S_0` and a weighted sum of outer products: reading
through them is masked linear attention, layer by layer, and no per-token weight exists. Titans (arXiv 2501.00663),
eq. 13-18.

Layout: `(H, B, T, d)`, heads first, so that weights shared by the batch, `(H, d_in, d_out)`, take one product of `B*T`
rows per head. Gates are `(L, H, B, T)` with one row per weight matrix. In `Decays`, `T` is 1 where a set is written.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

LAYER_NORM_EPS = 1e-5
Surprise = tuple[tuple[Tensor, ...], tuple[Tensor, ...], Tensor]  # inputs, errors, loss

_TINY = 1e-12  # keeps a division by a vanishing gradient norm finite


@dataclass
class Rows:
    """Written tokens of one chunk: per weight matrix the inputs `a_j`, the errors `g_j` and the gates.

    Attributes:
        inputs: per matrix `(H, B, T, d_in)`.
        errors: per matrix `(H, B, T, d_out)`.
        log_keep: `(L, H, B, T)`, log(1 - alpha).
        log_momentum: `(L, H, B, T)`, log(eta), or None without momentum.
        step: `(L, H, B, T)`, theta times the scale that caps the token's gradient.

    """

    inputs: tuple[Tensor, ...]
    errors: tuple[Tensor, ...]
    log_keep: Tensor
    log_momentum: Tensor | None
    step: Tensor

    def __len__(self) -> int:
        """Return the number of tokens."""
        return self.step.shape[-1]

    def append(self, other: "Rows") -> "Rows":
        """Return these tokens followed by those of `other`."""
        return Rows(
            inputs=tuple(torch.cat(pair, dim=2) for pair in zip(self.inputs, other.inputs, strict=True)),
            errors=tuple(torch.cat(pair, dim=2) for pair in zip(self.errors, other.errors, strict=True)),
            log_keep=torch.cat((self.log_keep, other.log_keep), dim=-1),
            log_momentum=None
            if self.log_momentum is None or other.log_momentum is None
            else torch.cat((self.log_momentum, other.log_momentum), dim=-1),
            step=torch.cat((self.step, other.step), dim=-1),
        )

    def last(self, count: int) -> "Rows":
        """Return the last `count` tokens."""
        first = len(self) - count
        return Rows(
            inputs=tuple(a[:, :, first:] for a in self.inputs),
            errors=tuple(g[:, :, first:] for g in self.errors),
            log_keep=self.log_keep[..., first:],
            log_momentum=None if self.log_momentum is None else self.log_momentum[..., first:],
            step=self.step[..., first:],
        )


@dataclass
class Decays:
    """How much of what is left at each token, for every weight matrix (leading dimension L).

    Weights at token t: `keep_t W_0 + carry_t S_0 - sum_j write_tj a_j (x) g_j`; momentum after the last token:
    `last_carry S_0 - sum_j last_write_j a_j (x) g_j`. Without momentum the last two and `carry` are None.

    Attributes:
        keep: `(L, H, B, T)`.
        carry: `(L, H, B, T)` or None.
        write: `(L, H, B, T, R)`, R written tokens.
        last_carry: `(L, H, B)` or None.
        last_write: `(L, H, B, R)` or None.

    """

    keep: Tensor
    carry: Tensor | None
    write: Tensor
    last_carry: Tensor | None
    last_write: Tensor | None


def causal_decays(rows: Rows, present: Tensor | None = None) -> Decays:
    """Return the decays of a chunk in token order, from cumulative sums of log gates and without a division.

    `present` (B, T) bool is False on padding in front of a sequence, which then neither decays nor adds anything.
    """
    log_keep, log_momentum, step = rows.log_keep, rows.log_momentum, rows.step
    if present is not None:
        log_keep, step = log_keep.masked_fill(~present, 0.0), step.masked_fill(~present, 0.0)
        log_momentum = None if log_momentum is None else log_momentum.masked_fill(~present, 0.0)
    keep_sum = log_keep.cumsum(-1)
    kept = _decay_between(keep_sum)
    if log_momentum is None:
        return Decays(keep_sum.exp(), None, kept * step.unsqueeze(-2), None, None)
    momentum_sum = log_momentum.cumsum(-1)
    momentum = momentum_sum.exp()
    momentum_write = _decay_between(momentum_sum) * step.unsqueeze(-2)
    # Every token adds the momentum to the weights; padding does not.
    added = momentum if present is None else momentum * present
    return Decays(
        keep=keep_sum.exp(),
        carry=(kept @ added.unsqueeze(-1)).squeeze(-1),
        write=kept @ momentum_write,
        last_carry=momentum[..., -1],
        last_write=momentum_write[..., -1, :],
    )


def set_decays(rows: Rows) -> Decays:
    """Return the decays of one order-free write: gates alpha and eta `(L, H, B, 1)` hold for the whole set."""
    keep = rows.log_keep.exp()
    write = rows.step.unsqueeze(-2)
    if rows.log_momentum is None:
        return Decays(keep, None, write, None, None)
    momentum = rows.log_momentum.exp()
    return Decays(keep, momentum, write, momentum[..., 0], rows.step)


def decays_at_queries(decays: Decays, num_queries: int, *, before_write: bool) -> Decays:
    """Keep the last `num_queries` tokens, or with `before_write` the tokens just before each of them (M_{t-1})."""
    keep, carry, write = decays.keep, decays.carry, decays.write
    if before_write:
        keep = F.pad(keep[..., :-1], (1, 0), value=1.0)
        carry = None if carry is None else F.pad(carry[..., :-1], (1, 0))
        write = F.pad(write[..., :-1, :], (0, 0, 1, 0))
    first = keep.shape[-1] - num_queries
    return Decays(keep[..., first:], None if carry is None else carry[..., first:], write[..., first:, :], None, None)


def surprise(weights: tuple[Tensor, ...], gain: Tensor, keys: Tensor, values: Tensor) -> Surprise:
    """Return `(inputs, errors, loss)`: per weight matrix the factors of every token's gradient at `weights`.

    The loss of a token is half the squared distance between the memory of its key and its value, summed over the head's
    width (eq. 12, with the factor of appendix F); `loss` is `(H, B, T)`. Errors are written out in closed form with
    differentiable operations, so that the outer gradient passes through the inner one.
    """
    wide = torch.promote_types(keys.dtype, torch.float32)
    before = times(keys, weights[0]) if len(weights) == 2 else None
    inputs = (keys,) if before is None else (keys, F.gelu(before))
    out = times(inputs[-1], weights[-1]).to(wide)
    centred = out - out.mean(-1, keepdim=True)
    scale = torch.rsqrt(centred.square().mean(-1, keepdim=True) + LAYER_NORM_EPS)
    normal = centred * scale
    miss = torch.addcmul(keys.to(wide) - values.to(wide), normal, gain)
    back = miss * gain
    # Backward of the layer norm: remove what it cannot move, the mean and the length of its input.
    back = back - back.mean(-1, keepdim=True) - normal * (back * normal).mean(-1, keepdim=True)
    last = (back * scale).to(keys.dtype)
    loss = 0.5 * miss.detach().square().sum(-1)
    if before is None:
        return inputs, (last,), loss
    return inputs, (GeluError.apply(times(last, weights[1].transpose(-1, -2)), before), last), loss


def gradient_norms(inputs: tuple[Tensor, ...], errors: tuple[Tensor, ...]) -> Tensor:
    """Return the Frobenius norm `(L, H, B, T)` of every token's gradient: that of an outer product is |a| |g|."""
    return torch.stack([RowNorm.apply(a) * RowNorm.apply(g) for a, g in zip(inputs, errors, strict=True)])


def cap_scale(norms: Tensor, cap: float) -> Tensor:
    """Return the factor that caps gradients of these norms at `cap`."""
    return (cap / norms.clamp_min(_TINY)).clamp(max=1.0)


def read(
    weights: tuple[Tensor, ...],
    momentum: tuple[Tensor, ...] | None,
    rows: Rows,
    decays: Decays,
    queries: Tensor,
) -> Tensor:
    """Return the last matrix's output for each query `(H, B, T, d)`, read through the weights of its own token."""
    x = queries
    for layer, weight in enumerate(weights):
        past = None if momentum is None or decays.carry is None else (momentum[layer], decays.carry[layer])
        y = _decayed_product(x, weight, decays.keep[layer], past)
        scores = x.flatten(0, 1) @ rows.inputs[layer].flatten(0, 1).transpose(1, 2)
        scores = scores.unflatten(0, x.shape[:2]) * -decays.write[layer].to(scores.dtype)
        y = torch.baddbmm(y.flatten(0, 1), scores.flatten(0, 1), rows.errors[layer].flatten(0, 1))
        y = y.unflatten(0, x.shape[:2])
        x = y if layer == len(weights) - 1 else F.gelu(y)
    return x


def finish(queries: Tensor, out: Tensor, gain: Tensor) -> Tensor:
    """Return the memory of each query, `q + LN(out) gain`, in at least float32."""
    wide = torch.promote_types(queries.dtype, torch.float32)
    normal = F.layer_norm(out.to(wide), out.shape[-1:], eps=LAYER_NORM_EPS)
    return torch.addcmul(queries.to(wide), normal, gain)


def write(
    weights: tuple[Tensor, ...], momentum: tuple[Tensor, ...] | None, rows: Rows, decays: Decays
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...] | None]:
    """Return weights and momentum `(H, B, d_in, d_out)` after the last token of the chunk."""
    new_weights, new_momentum = [], []
    for layer, weight in enumerate(weights):
        a, g = rows.inputs[layer], rows.errors[layer]
        past = None if momentum is None or decays.carry is None else _per_sample(momentum[layer], a.shape[1])
        carry = None if past is None or decays.carry is None else decays.carry[layer, ..., -1]
        weighted = _weighted(a, g, decays.write[layer, ..., -1, :])
        base = _per_sample(weight, a.shape[1])
        new_weights.append(DecayedWrite.apply(base, decays.keep[layer, ..., -1], past, carry, *weighted))
        if decays.last_write is None or decays.last_carry is None:
            continue
        if past is None:
            new_momentum.append(_outer(*_weighted(a, g, -decays.last_write[layer])))
        else:
            weighted = _weighted(a, g, decays.last_write[layer])
            new_momentum.append(DecayedWrite.apply(past, decays.last_carry[layer], None, None, *weighted))
    return tuple(new_weights), tuple(new_momentum) or None


def times(x: Tensor, weight: Tensor) -> Tensor:
    """Return `x` (H, B, T, d_in) times `weight`, (H, d_in, d_out) shared by the batch or (H, B, d_in, d_out)."""
    if weight.dim() == 3:
        return torch.bmm(x.flatten(1, 2), weight.to(x.dtype)).unflatten(1, x.shape[1:3])
    return torch.bmm(x.flatten(0, 1), weight.flatten(0, 1).to(x.dtype)).unflatten(0, x.shape[:2])


class GeluError(torch.autograd.Function):
    """Pass an error back through GELU, `error * gelu'(x)`, as one operation that can itself be differentiated."""

    @staticmethod
    def forward(ctx: Any, error: Tensor, x: Tensor) -> Tensor:
        """Return `error * (Phi(x) + x phi(x))`, with Phi and phi of the standard normal."""
        ctx.save_for_backward(error, x)
        return torch.ops.aten.gelu_backward(error, x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradients: the slope again for `error`, its derivative `phi(x) (2 - x^2)` for `x`."""
        error, x = ctx.saved_tensors
        square = x * x
        curve = (square * -0.5).exp_().mul_((2.0 * torch.pi) ** -0.5)
        curve.mul_(square.neg_().add_(2.0)).mul_(error).mul_(grad)
        return torch.ops.aten.gelu_backward(grad, x), curve


class RowNorm(torch.autograd.Function):
    """Euclidean norm over the last dimension in at least float32, with one pass over the rows in the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Return the norms of `x` (..., d)."""
        norm = torch.linalg.vector_norm(x, dim=-1, dtype=torch.promote_types(x.dtype, torch.float32))
        ctx.save_for_backward(x, norm)
        return norm

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        """Return the direction of each row times its gradient; 0 for a row of zeros."""
        x, norm = ctx.saved_tensors
        return x * (grad / norm.clamp_min(_TINY)).unsqueeze(-1).to(x.dtype)


class DecayedWrite(torch.autograd.Function):
    """Return `keep * base + carry * extra - a^T g`, each weight-shaped tensor passed over as few times as possible.

    Beside its products, a chunk costs what it spends on passes over `(H, B, d_in, d_out)`; recorded one by one they are
    about twice as many, and each allocates.
    """

    @staticmethod
    def forward(
        ctx: Any, base: Tensor, keep: Tensor, extra: Tensor | None, carry: Tensor | None, a: Tensor, g: Tensor
    ) -> Tensor:
        """Take `base`, `extra` (H, B, d_in, d_out), factors (H, B), rows `a` (H, B, T, d_in), `g` (H, B, T, d_out)."""
        ctx.save_for_backward(base, keep, extra, carry, a, g)
        out = base * keep[..., None, None]
        if extra is not None and carry is not None:
            out.addcmul_(extra, carry[..., None, None])
        flat, left, right = out.flatten(0, 1), a.flatten(0, 1).transpose(1, 2), g.flatten(0, 1)
        if flat.dtype == a.dtype:
            flat.baddbmm_(left, right, alpha=-1)
        else:
            flat.sub_(torch.bmm(left, right))
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of all six; those of the factors are inner products of weight-shaped tensors."""
        base, keep, extra, carry, a, g = ctx.saved_tensors
        grad_extra = grad_carry = None
        if extra is not None:
            grad_extra = grad * carry[..., None, None] if ctx.needs_input_grad[2] else None
            grad_carry = _inner_product(grad, extra)
        grad_base = grad * keep[..., None, None] if ctx.needs_input_grad[0] else None
        narrow = grad.flatten(0, 1).to(a.dtype)
        grad_a = torch.bmm(g.flatten(0, 1), narrow.transpose(1, 2)).neg_().unflatten(0, a.shape[:2])
        grad_g = torch.bmm(a.flatten(0, 1), narrow).neg_().unflatten(0, a.shape[:2])
        return grad_base, _inner_product(grad, base), grad_extra, grad_carry, grad_a, grad_g


def _inner_product(a: Tensor, b: Tensor) -> Tensor:
    """Return the sum of `a * b` over the last two dimensions, without the product in memory."""
    return (a.flatten(-2).unsqueeze(-2) @ b.flatten(-2).unsqueeze(-1)).flatten(-3)


def _decay_between(log_sum: Tensor) -> Tensor:
    """Return `exp(sum_t - sum_i)` for i <= t and 0 above the diagonal; masked before exp, which could overflow."""
    length = log_sum.shape[-1]
    future = torch.ones(length, length, dtype=torch.bool, device=log_sum.device).triu(1)
    return (log_sum.unsqueeze(-1) - log_sum.unsqueeze(-2)).masked_fill(future, float("-inf")).exp()


def _decayed_product(x: Tensor, weight: Tensor, keep: Tensor, past: tuple[Tensor, Tensor] | None) -> Tensor:
    """Return `keep * (x W_0) + carry * (x S_0)`; the decays scale whichever side of the product is narrower."""
    keep = keep.unsqueeze(-1).to(x.dtype)
    if weight.shape[-1] < x.shape[-1]:
        y = times(x, weight) * keep
        return y if past is None else torch.addcmul(y, times(x, past[0]), past[1].unsqueeze(-1).to(y.dtype))
    y = times(x * keep, weight)
    return y if past is None else y + times(x * past[1].unsqueeze(-1).to(x.dtype), past[0])


def _weighted(a: Tensor, g: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Scale the rows of the narrower of `a` and `g` by `weight` (H, B, T)."""
    weight = weight.unsqueeze(-1).to(a.dtype)
    return (a * weight, g) if a.shape[-1] <= g.shape[-1] else (a, g * weight)


def _outer(a: Tensor, g: Tensor) -> Tensor:
    """Return `sum_j a_j (x) g_j`, (H, B, d_in, d_out), in at least float32."""
    outer = torch.bmm(a.flatten(0, 1).transpose(1, 2), g.flatten(0, 1)).unflatten(0, a.shape[:2])
    return outer.to(torch.promote_types(a.dtype, torch.float32))


def _per_sample(weight: Tensor, batch_size: int) -> Tensor:
    """Return the weight of every sample in at least float32, the dtype that states accumulate in."""
    weight = weight.to(torch.promote_types(weight.dtype, torch.float32))
    return weight.unsqueeze(1).expand(-1, batch_size, -1, -1) if weight.dim() == 3 else weight
