"""Token cross-entropy with stablemax or softmax probabilities, averaged per example.

Shapes: B batch, N tokens, V vocabulary.
"""

from typing import Literal

import torch
from torch import Tensor


def token_cross_entropy(
    logits: Tensor,
    targets: Tensor,
    *,
    kind: Literal["stablemax", "softmax"] = "softmax",
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    focal_gamma: float = 0.0,
    class_weights: Tensor | None = None,
) -> Tensor:
    """Return the mean cross-entropy over the scored tokens of each example, (B,) in nats.

    An example without a scored token gives 0. Runs in float32 (float64 if the logits are), whatever the autocast state.

    Args:
        logits: (B, N, V).
        targets: (B, N) int64; `ignore_index` where a token is not scored.
        kind: `softmax`, or `stablemax` (arXiv 2501.04697), whose logits need not grow without bound to reach
            certainty.
        ignore_index: target of tokens that are not scored.
        label_smoothing: share of the target spread evenly over all V classes (arXiv 1512.00567).
        focal_gamma: exponent of the focal factor (1 - p)^gamma (arXiv 1708.02002); 0 = off.
        class_weights: (V,) factor of each scored token by its target. The mean still divides by the number of scored
            tokens, so that weights also act between examples that have one scored token each. None = all 1.
    """
    if logits.shape[:-1] != targets.shape:
        raise ValueError(
            f"logits {tuple(logits.shape)} do not fit targets {tuple(targets.shape)}; want (B, N, V), (B, N)."
        )
    scored = targets != ignore_index
    log_p = log_stablemax(logits) if kind == "stablemax" else _log_softmax(logits)
    log_p_target = log_p.gather(-1, targets.masked_fill(~scored, 0).unsqueeze(-1)).squeeze(-1)
    loss = -log_p_target
    if label_smoothing > 0.0:
        loss = (1.0 - label_smoothing) * loss - label_smoothing * log_p.mean(-1)
    if focal_gamma > 0.0:
        # 1 - p without cancellation; the floor keeps the gradient of a power below 1 finite when p reaches 1.
        missing = (-torch.expm1(log_p_target)).clamp(min=torch.finfo(loss.dtype).eps)
        loss = missing**focal_gamma * loss
    if class_weights is not None:
        if class_weights.shape != logits.shape[-1:]:
            raise ValueError(
                f"class_weights {tuple(class_weights.shape)} do not fit logits {tuple(logits.shape)}; want (V,)."
            )
        loss = class_weights.to(loss.dtype)[targets.masked_fill(~scored, 0)] * loss
    return loss.masked_fill(~scored, 0.0).sum(-1) / scored.sum(-1).clamp(min=1)


def log_stablemax(logits: Tensor) -> Tensor:
    """Return log(s(x) / sum s(x)) over the last axis, s(x) = x + 1 for x >= 0 and 1 / (1 - x) below.

    Since log s(x) = sign(x) log(1 + |x|), this is the log-softmax of a compressed logit: it can neither overflow nor
    lose small probabilities in float32, so float64 (absent on some accelerators) is not needed.
    """
    x = logits.to(torch.promote_types(logits.dtype, torch.float32))
    # Choices instead of sign(x) * log1p(|x|), because the automatic derivatives of sign and abs at x = 0 are 0.
    negative = x < 0
    size = torch.log1p(torch.where(negative, -x, x))
    compressed = torch.where(negative, -size, size)
    return compressed.log_softmax(-1)


def _log_softmax(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
