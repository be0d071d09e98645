"""Let a causal model go on with sequences: token after token, at a cost that does not grow with what was written."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from titans_trm.models.titans_trm import TitansTRM


@torch.no_grad()
def generate(
    model: TitansTRM,
    prompt: Tensor,
    length: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    forbidden: Sequence[int] = (),
    generator: torch.Generator | None = None,
) -> Iterator[Tensor]:
    """Yield the next token of each sequence, (B,) int64 on the CPU, `length` times.

    The prompt is read once (and only one row of it where all rows are equal); each token after it costs one `decode`.

    Args:
        model: a causal model; its training flag is left as it is (it has no dropout).
        prompt: tokens (B, N) int64 with N of 1 or more.
        length: tokens to yield.
        temperature: 0 takes the most likely token, 1 draws as learned, more is wilder.
        top_k: draw among the k most likely tokens only.
        top_p: draw among the fewest tokens whose probabilities sum to `top_p` or more.
        forbidden: tokens that are never chosen.
        generator: CPU generator of the draws; None draws from torch's global one.

    Raises:
        ValueError: the model cannot be streamed, or a value is out of range.
    """
    _check(temperature, top_k, top_p)
    device = model.embedding.weight.device
    one_prompt = bool((prompt == prompt[:1]).all())
    state = model.init_state(1 if one_prompt else len(prompt))
    logits, state = model((prompt[:1] if one_prompt else prompt).to(device), state)
    last = logits[:, -1]
    if one_prompt and len(prompt) > 1:
        last = last.expand(len(prompt), -1)
        state = state.select(torch.zeros(len(prompt), dtype=torch.int64, device=device))
    for count in range(length):
        allowed = last.to("cpu", torch.float64)
        if forbidden:
            allowed = allowed.index_fill(1, torch.tensor(forbidden), -torch.inf)
        token = choose_tokens(allowed, temperature=temperature, top_k=top_k, top_p=top_p, generator=generator)
        yield token
        if count < length - 1:
            last, state = model.decode(token.to(device), state)


def choose_tokens(
    logits: Tensor,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw a token from each row of `logits` (B, V), as `generate` describes; the most likely one is never left out."""
    if temperature == 0.0:
        return logits.argmax(dim=-1)
    scaled = logits / temperature
    if top_k is not None and top_k < scaled.shape[-1]:
        least = scaled.topk(top_k, dim=-1).values[:, -1:]
        scaled = scaled.masked_fill(scaled < least, -torch.inf)
    probabilities = scaled.softmax(dim=-1)
    if top_p is not None:
        falling, order = probabilities.sort(dim=-1, descending=True)
        before = falling.cumsum(dim=-1) - falling  # probability of all that are likelier
        probabilities = torch.zeros_like(falling).scatter(1, order, falling * (before < top_p))
    return torch.multinomial(probabilities, 1, generator=generator).squeeze(1)


def _check(temperature: float, top_k: int | None, top_p: float | None) -> None:
    if temperature < 0.0:
        raise ValueError(f"temperature={temperature} is negative; choose 0 (most likely) to 1 (as learned).")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k={top_k} leaves no token; choose 1 or more.")
    if top_p is not None and not 0.0 < top_p <= 1.0:
        raise ValueError(f"top_p={top_p} is outside (0, 1]; choose a share such as 0.9.")
