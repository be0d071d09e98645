"""What one supervision step showed, over the examples of all ranks: one small collective call."""

from dataclasses import replace

import torch

from titans_trm.diagnostics.observation import Observation
from titans_trm.training.ranks import Ranks

_MEANS = ("total", "cross_entropy", "halting", "diversity")  # of scalars that DDP averages like the gradients
_ROWS = ("example_cross_entropy", "right", "token_accuracy", "halting_logits", "steps", "halted")


@torch.no_grad()
def over_ranks(seen: Observation, ranks: Ranks) -> Observation:
    """Return `seen` with the numbers of all ranks' slots; `examples` and `carry` remain those of this rank.

    Halting logits per token become one per example, the lowest, which decides about halting.
    """
    if ranks.world_size == 1:
        return seen
    logits = seen.halting_logits if seen.halting_logits.ndim == 1 else seen.halting_logits.amin(dim=1)
    seen = replace(seen, halting_logits=logits)
    means = torch.stack([getattr(seen, name).float() for name in _MEANS])
    rows = torch.stack([getattr(seen, name).float() for name in _ROWS])  # (6, B); steps are small whole numbers
    gathered = ranks.gather(torch.cat((means, rows.flatten())))  # (R, 4 + 6 B)
    whole = gathered[:, len(_MEANS) :].unflatten(1, rows.shape).transpose(0, 1).flatten(1)  # (6, R B)
    mean = dict(zip(_MEANS, gathered[:, : len(_MEANS)].mean(0), strict=True))
    column = {name: row.to(getattr(seen, name).dtype) for name, row in zip(_ROWS, whole, strict=True)}
    return replace(seen, **mean, **column)
