"""The memory by its definition: one token at a time, per-sample weights in full, the inner gradient from autograd.

Shares no arithmetic with the package: only the parameters of a module are read. Slow and exact; use float64.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from titans_trm.models.memory import NeuralMemory


@dataclass
class Trace:
    out: Tensor  # (B, T, D)
    weights: list[Tensor]  # (H, B, d_in, d_out)
    momentum: list[Tensor]
    losses: Tensor  # (N,), inner loss of each token at its anchor, summed over heads and batch


def memory_net(weights: list[Tensor], gain: Tensor, x: Tensor) -> Tensor:
    """M(x) of `x` (H, B, d) for weights (H, B, d_in, d_out)."""
    y = x
    for layer, weight in enumerate(weights):
        y = torch.einsum("hbi,hbio->hbo", y if layer == 0 else 0.5 * y * (1 + torch.erf(y / 2**0.5)), weight)
    mean = y.mean(-1, keepdim=True)
    variance = ((y - mean) ** 2).mean(-1, keepdim=True)
    return x + (y - mean) / torch.sqrt(variance + 1e-5) * gain


def token_gradient(
    weights: list[Tensor], gain: Tensor, k: Tensor, v: Tensor, cap: float
) -> tuple[list[Tensor], Tensor]:
    """Gradient of one token's loss for every head and sample, capped per weight matrix; and the loss."""
    weights = [w if w.requires_grad else w.detach().requires_grad_() for w in weights]
    loss = 0.5 * ((memory_net(weights, gain, k) - v) ** 2).sum()
    grads = torch.autograd.grad(loss, weights, create_graph=True)
    capped = []
    for grad in grads:
        norm = grad.pow(2).sum((-1, -2), keepdim=True).sqrt()
        capped.append(grad * torch.where(norm > cap, cap / norm, torch.ones_like(norm)))
    return capped, loss


def projections(module: NeuralMemory, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values (H, B, N, d)."""
    y = (x @ module.qkv.weight.T).transpose(1, 2)
    if module.conv is not None:
        width = module.conv.shape[-1]
        y = F.conv1d(F.pad(y, (width - 1, 0)), module.conv, groups=y.shape[1])
    y = y.transpose(1, 2)
    y = y * torch.sigmoid(y)
    q, k, v = (part.unflatten(-1, (module.config.num_heads, -1)).permute(2, 0, 1, 3) for part in y.chunk(3, -1))
    return q / q.norm(dim=-1, keepdim=True), k / k.norm(dim=-1, keepdim=True), v


def gate_values(module: NeuralMemory, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """theta, alpha, eta, each (L, H, B, N); alpha and eta of a set are the same for all tokens."""
    config = module.config
    raw = x @ module.gates.weight.T + module.gates.bias
    kinds = list(raw.unflatten(-1, (-1, config.depth, config.num_heads)).permute(2, 3, 4, 0, 1))
    denominator = config.chunk_size if module.causal else x.shape[1]
    theta = torch.sigmoid(kinds.pop(0)) * config.max_step_size / denominator
    shared = [kind if module.causal else kind.mean(-1, keepdim=True).expand_as(kind) for kind in kinds]
    alpha = 1 - torch.sigmoid(shared.pop(0)) if config.forgetting else torch.zeros_like(theta)
    eta = torch.sigmoid(shared.pop(0)) if shared else torch.zeros_like(theta)
    return theta, alpha, eta


def finish(module: NeuralMemory, read: Tensor, x: Tensor) -> Tensor:
    """Normalise per head, gate, project: (H, B, T, d) to (B, T, D)."""
    eps = torch.finfo(read.dtype).eps
    normal = read / torch.sqrt(read.pow(2).mean(-1, keepdim=True) + eps)
    gate = x @ module.out_gate.weight.T
    return (normal.permute(1, 2, 0, 3).flatten(2) * gate * torch.sigmoid(gate)) @ module.out_proj.weight.T


def run(
    module: NeuralMemory,
    x: Tensor,
    *,
    num_queries_from: int = 0,
    start: tuple[list[Tensor], list[Tensor]] | None = None,
    first_chunk: int | None = None,
) -> Trace:
    """Run the definition on `x` (B, N, D); `first_chunk` gives the first chunk a length of its own (primed tokens)."""
    config, gain = module.config, module.gain.unflatten(0, (module.config.num_heads, 1, -1))
    q, k, v = projections(module, x)
    theta, alpha, eta = gate_values(module, x)
    if start is None:
        weights = [w.unsqueeze(1).expand(-1, x.shape[0], -1, -1) for w in module.initial_weights]
        momentum = [torch.zeros_like(w) for w in weights]
    else:
        weights, momentum = start
    coefficient = lambda gate, layer, t: gate[layer, :, :, t, None, None]  # noqa: E731
    layers = range(len(weights))
    reads, losses = [], []
    if module.causal:
        anchor, offset = weights, 0 if first_chunk is None else first_chunk
        for t in range(x.shape[1]):
            if t == offset or (t > offset and (t - offset) % config.chunk_size == 0):
                anchor = weights
            if config.read == "pre":
                reads.append(memory_net(weights, gain, q[:, :, t]))
            grads, loss = token_gradient(anchor, gain, k[:, :, t], v[:, :, t], config.max_inner_grad)
            momentum = [coefficient(eta, n, t) * momentum[n] - coefficient(theta, n, t) * grads[n] for n in layers]
            weights = [(1 - coefficient(alpha, n, t)) * weights[n] + momentum[n] for n in layers]
            if config.read == "post":
                reads.append(memory_net(weights, gain, q[:, :, t]))
            losses.append(loss)
    else:
        momentum = [coefficient(eta, n, 0) * momentum[n] for n in layers]
        for t in range(x.shape[1]):
            grads, loss = token_gradient(weights, gain, k[:, :, t], v[:, :, t], config.max_inner_grad)
            momentum = [momentum[n] - coefficient(theta, n, t) * grads[n] for n in layers]
            losses.append(loss)
        weights = [(1 - coefficient(alpha, n, 0)) * weights[n] + momentum[n] for n in layers]
        reads = [memory_net(weights, gain, q[:, :, t]) for t in range(x.shape[1])]
    read = torch.stack(reads[num_queries_from:], dim=2)
    return Trace(finish(module, read, x[:, num_queries_from:]), weights, momentum, torch.stack(losses))
