import pytest
import torch

from titans_trm.models.attention import SlidingWindowAttention
from titans_trm.models.rotary import apply_rotary, rotary_tables


def explicit(attention, x, persistent, rotary, window, causal):
    """Attention by its definition: all scores, then a mask of who may be seen."""
    batch, length, width = x.shape
    q, k, v = attention.qkv(x).unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
    q, k = apply_rotary(q, *rotary), apply_rotary(k, *rotary)
    i, j = torch.arange(length)[:, None], torch.arange(length)[None]
    seen = (j <= i) & (j > i - window) if causal else (i - j).abs() < window
    if persistent is not None:
        _, pk, pv = attention.qkv(persistent).unflatten(-1, (3, attention.num_heads, -1)).permute(1, 2, 0, 3)
        k = torch.cat((pk.expand(batch, *pk.shape), k), dim=2)
        v = torch.cat((pv.expand(batch, *pv.shape), v), dim=2)
        seen = torch.cat((torch.ones(length, len(persistent), dtype=torch.bool), seen), dim=1)
    scores = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5
    out = scores.masked_fill(~seen, float("-inf")).softmax(-1) @ v
    return out.transpose(1, 2).flatten(2)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("num_persistent", [0, 3])
@pytest.mark.parametrize(("length", "window"), [(13, None), (13, 13), (13, 4), (12, 4), (5, 1), (13, 12), (7, 20)])
def test_equals_the_definition(causal, num_persistent, length, window):
    torch.manual_seed(0)
    attention = SlidingWindowAttention(16, 2, causal=causal, window=window).double()
    x = torch.randn(2, length, 16, dtype=torch.float64, requires_grad=True)
    persistent = torch.randn(num_persistent, 16, dtype=torch.float64) if num_persistent else None
    rotary = tuple(t.double() for t in rotary_tables(torch.arange(length), 8, 10_000.0))
    expected = explicit(attention, x, persistent, rotary, window or length, causal)
    found = attention(x, persistent, rotary)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    weight = torch.randn_like(found)
    (expected_gradient,) = torch.autograd.grad((expected * weight).sum(), x)
    (gradient,) = torch.autograd.grad((found * weight).sum(), x)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-11, atol=1e-11)


def test_long_window_attention_keeps_memory_linear_in_length():
    attention = SlidingWindowAttention(16, 2, causal=True, window=32)
    sizes = []
    for length in (2048, 4096):
        largest = 0

        def note(t):
            nonlocal largest
            largest = max(largest, t.numel())
            return t

        x = torch.randn(1, length, 16, requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
            attention(x, None, rotary_tables(torch.arange(length), 8, 10_000.0)).sum().backward()
        sizes.append(largest)
    assert sizes[1] <= 2.1 * sizes[0]
    assert sizes[1] < 4096 * 4096 / 8


def test_rotation_depends_on_distance_only():
    torch.manual_seed(0)
    q, k = torch.randn(2, 8, dtype=torch.float64)
    cos, sin = (t.double() for t in rotary_tables(torch.arange(50), 8, 100.0))

    def score(i, j):
        query = apply_rotary(q[None], cos[i : i + 1], sin[i : i + 1])
        key = apply_rotary(k[None], cos[j : j + 1], sin[j : j + 1])
        return (query @ key.T).item()

    assert score(3, 1) == pytest.approx(score(41, 39), abs=1e-6)
    assert abs(score(3, 1) - score(3, 2)) > 1e-3
