"""How much of what is left at each token of a chunk, from gate logits, and the gradients of that in closed form.

As `Decays` in `memory_chunk`, but without theta, which scales the errors here. L matrices, T tokens, H heads, B
sequences; packed states are `(H, B, M, d, w)` as in `memory_kernel`.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


class ChunkDecays:
    """Decays inside a chunk: `W_t = keep_t W_0 + carry_t S_0 - sum_j write_tj a_j (x) g_j`.

    Attributes:
        keep: `(L, H, B, T)`.
        carry: `(L, H, B, T)`, or None without momentum.
        last: `(L, H, B, T)`, what is left of S_0 in the momentum, or None.
        write: `(L, H, B, T, T)`.
        rows: `(L, H, B, T, M)`: what each token adds to the weights and to the momentum after the last token.
    """

    def __init__(self, logits: Tensor, *, forgetting: bool, momentum: bool) -> None:
        """Take logits (G, L, H, B, T): of 1 - alpha, if there is forgetting, then of eta, if there is momentum."""
        self._logits = logits
        sums = F.logsigmoid(logits).cumsum(-1)
        # Above the diagonal exp may overflow; tril then puts zeros there.
        self._between = (sums.unsqueeze(-1) - sums.unsqueeze(-2)).exp_().tril_()
        self._products = sums.exp()
        length, shape = logits.shape[-1], logits.shape[1:]
        self._forgetting = forgetting
        self.keep = self._products[0] if forgetting else logits.new_ones(shape)
        if forgetting:
            self._kept = self._between[0]
        else:
            self._kept = logits.new_ones(length, length).tril_().expand(*shape, length)
        self.carry = self.last = None
        self.write = self._kept
        rows = [self.write[..., -1, :]]
        if momentum:
            self.last = self._products[-1]
            self.write = self._kept @ self._between[-1]
            self.carry = (self._kept @ self.last.unsqueeze(-1)).squeeze(-1)
            rows = [self.write[..., -1, :], self._between[-1][..., -1, :]]
        self.rows = torch.stack(rows, dim=-1)

    def after(self, layer: int) -> "Mix":
        """Return what becomes of the states of one matrix."""
        if self.carry is None or self.last is None:
            return Mix(self.keep[layer, ..., -1], None, None)
        return Mix(self.keep[layer, ..., -1], self.carry[layer, ..., -1], self.last[layer, ..., -1])

    def backward(
        self, write: Tensor, keep: Tensor, carry: Tensor | None, last: Tensor | None, row: Tensor | None
    ) -> Tensor:
        """Return the gradient of the logits, for those of `write`, `keep`, `carry`, `last` and `rows[..., 1]`."""
        on_kept, between = write, []
        if self.last is not None and carry is not None and last is not None and row is not None:
            momentum, back = self._between[-1], self._kept.mT
            on_kept = (write @ momentum.mT).addcmul_(carry.unsqueeze(-1), self.last.unsqueeze(-2))
            on_momentum = back @ write
            on_momentum[..., -1, :] += row
            last = last + (back @ carry.unsqueeze(-1)).squeeze(-1)
            between.append((on_momentum, last))
        if self._forgetting:
            between.insert(0, (on_kept, keep))
        if not between:
            return torch.zeros_like(self._logits)
        on_between = torch.stack([pair[0] for pair in between]).mul_(self._between)
        on_sums = torch.stack([pair[1] for pair in between]).mul_(self._products)
        on_sums.add_(on_between.sum(-1)).sub_(on_between.sum(-2))
        return on_sums.flip(-1).cumsum(-1).flip(-1).mul_(torch.sigmoid(-self._logits))


@dataclass
class Mix:
    """Factors (H, B): the new weights are `keep W + carry S`, the new momentum is `last S`."""

    keep: Tensor
    carry: Tensor | None
    last: Tensor | None

    def apply(self, state: Tensor, slots: int) -> Tensor:
        """Return the first `slots` of new weights and momentum (H, B, slots, d, w), of `state` (H, B or 1, M, d, w)."""
        factors = [self.keep] if self.last is None else [self.keep, self.last]
        if state.shape[2] == 1 and slots == 2:
            factors = [self.keep, torch.zeros_like(self.keep)]
        new = state[:, :, :slots] * torch.stack(factors[:slots], dim=2)[..., None, None]
        if state.shape[2] == 2 and self.carry is not None:
            new[:, :, 0].addcmul_(state[:, :, 1], self.carry[..., None, None])
        return new

    def backward(self, grad: Tensor, state: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor | None, Tensor | None]]:
        """Return the gradient of `state` and those of the factors, for `grad` (H, B, slots, d, w)."""
        slots, count = grad.shape[2], state.shape[2]
        flat, flat_state = grad.flatten(3), state.flatten(3)
        shared = state.shape[1] == 1 and grad.shape[1] > 1
        if shared:
            on_state = torch.bmm(self._matrix(slots, count).flatten(1, 2).mT, flat.flatten(1, 2)).unsqueeze(1)
            products = torch.bmm(flat.flatten(1, 2), flat_state.squeeze(1).mT).unflatten(1, grad.shape[1:3])
        else:
            on_state = self._transposed(grad, count)
            products = torch.bmm(flat.flatten(0, 1), flat_state.flatten(0, 1).mT).unflatten(0, grad.shape[:2])
        keep, carry, last = products[..., 0, 0], None, None
        if self.carry is not None:
            carry = products[..., 0, 1] if count == 2 else torch.zeros_like(keep)
            last = products[..., 1, 1] if count == 2 and slots == 2 else torch.zeros_like(keep)
        return on_state.reshape(state.shape), (keep, carry, last)

    def _transposed(self, grad: Tensor, count: int) -> Tensor:
        if count == 1:
            return grad[:, :, :1] * self.keep[..., None, None, None]
        assert self.carry is not None and self.last is not None
        if grad.shape[2] == 1:
            return grad * torch.stack((self.keep, self.carry), dim=2)[..., None, None]
        on_state = grad * torch.stack((self.keep, self.last), dim=2)[..., None, None]
        on_state[:, :, 1].addcmul_(grad[:, :, 0], self.carry[..., None, None])
        return on_state

    def _matrix(self, slots: int, count: int) -> Tensor:
        """Return the factors as matrices (H, B, slots, count)."""
        zero = torch.zeros_like(self.keep)
        rows = [
            [self.keep, zero if self.carry is None else self.carry],
            [zero, zero if self.last is None else self.last],
        ]
        return torch.stack([torch.stack(row[:count], dim=-1) for row in rows[:slots]], dim=-2)
