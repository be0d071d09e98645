"""The memory learns: in its inner loop, through its outer gradient, and without seeing the future."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from titans_trm.models.config import MemoryConfig
from titans_trm.models.memory import NeuralMemory

CONFIG = MemoryConfig(num_heads=4, chunk_size=16)


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.mark.parametrize(("causal", "carry"), [(True, "reset"), (False, "reset"), (False, "cycles")])
@pytest.mark.parametrize("depth", [1, 2])
def test_every_parameter_and_every_gate_gets_an_outer_gradient(depth, carry, causal):
    module = NeuralMemory(32, replace(CONFIG, depth=depth, carry=carry), causal=causal)
    x = torch.randn(2, 40, 32)
    out, state = module(x, return_state=module.carries_state)
    if carry == "cycles":
        out, _ = module(x, state)  # eta acts on the momentum of an earlier write
    out.square().sum().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
    assert (module.gates.weight.grad.abs().amax(1) > 0).all()


@pytest.mark.parametrize("heads", [1, 4])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(
    ("optimizer", "options"),
    [
        (torch.optim.SGD, {"lr": 0.05}),
        (torch.optim.AdamW, {"lr": 0.01}),
        (torch.optim.AdamW, {"lr": 0.01, "fused": True}),
    ],
    ids=["sgd", "adamw", "adamw_fused"],
)
def test_optimiser_steps_change_every_parameter_and_lower_the_loss(optimizer, options, causal, heads):
    module = NeuralMemory(32, replace(CONFIG, num_heads=heads), causal=causal)
    x, target = torch.randn(4, 20, 32), torch.randn(4, 20, 32)
    before = {name: value.clone() for name, value in module.named_parameters()}
    steps = optimizer(module.parameters(), **options)
    losses = []
    for _ in range(5):
        loss = F.mse_loss(module(x)[0], target)
        steps.zero_grad()
        loss.backward()
        steps.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert not any(torch.equal(value, before[name]) for name, value in module.named_parameters())


def inner_losses(module: NeuralMemory, x: torch.Tensor, times: int) -> list[float]:
    """Inner loss of a block each time it is written again, across carried states."""
    losses, state = [], None
    for _ in range(times):
        stats: dict[str, torch.Tensor] = {}
        _, state = module(x, state, return_state=True, stats=stats)
        state = state.detach()
        losses.append(stats["inner_loss"].item())
    return losses


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("heads", [1, 4])
def test_a_block_written_again_lowers_its_inner_loss_across_states(heads, causal, depth):
    config = replace(CONFIG, num_heads=heads, depth=depth, conv_width=0, carry="reset" if causal else "steps")
    losses = inner_losses(NeuralMemory(64, config, causal=causal), torch.randn(2, 16, 64), times=8)
    assert all(later < earlier for earlier, later in zip(losses[:3], losses[1:4], strict=True))
    assert losses[-1] < 0.5 * losses[0]


def test_a_block_repeated_within_a_call_lowers_its_inner_loss():
    module = NeuralMemory(64, replace(CONFIG, conv_width=0), causal=True)
    block = torch.randn(2, 16, 64)
    per_call = []
    for repeats in (1, 4):
        stats: dict[str, torch.Tensor] = {}
        module(block.repeat(1, repeats, 1), stats=stats)
        per_call.append(stats["inner_loss"].item())
    assert per_call[1] < 0.8 * per_call[0]  # a mean over the call: the later writes are lower


@pytest.mark.parametrize("width", [64, 256])
@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("causal", [True, False])
def test_output_has_unit_order_variance_at_the_start(causal, depth, width):
    module = NeuralMemory(width, replace(CONFIG, depth=depth), causal=causal)
    out, _ = module(torch.randn(4, 48, width))
    assert 0.1 < out.var().item() < 3.0


def test_memory_stays_bounded_over_many_tokens():
    module = NeuralMemory(32, CONFIG, causal=True)
    norms, state = [], None
    with torch.no_grad():
        for _ in range(20):
            stats: dict[str, torch.Tensor] = {}
            _, state = module(torch.randn(2, 128, 32), state, return_state=True, stats=stats)
            norms.append(stats["memory_norm"].max().item())
    assert norms[-1] < 2 * max(norms[:5])


def test_inner_gradient_is_capped_per_token_and_matrix():
    cap = 1e-3
    module = NeuralMemory(32, replace(CONFIG, max_inner_grad=cap, momentum=False, forgetting=False), causal=True)
    _, state = module(100 * torch.randn(2, 16, 32), return_state=True)
    for weight, initial in zip(state.weights, module.initial_weights, strict=True):
        moved = (weight - initial.unsqueeze(1)).flatten(-2).norm(dim=-1)
        assert (moved > 0).all()
        assert (moved <= cap * CONFIG.max_step_size).all()


def test_statistics_are_given_on_request_and_detached():
    for depth, momentum in ((1, True), (2, False)):
        module = NeuralMemory(32, replace(CONFIG, depth=depth, momentum=momentum), causal=True)
        x, stats = torch.randn(2, 40, 32), {}
        with_stats, _ = module(x, stats=stats)
        torch.testing.assert_close(with_stats, module(x)[0])
        assert set(stats) == {"inner_loss", "surprise_norm", "theta", "alpha", "eta", "memory_norm"}
        assert not any(value.requires_grad for value in stats.values())
        assert (
            stats["theta"].shape == stats["alpha"].shape == stats["eta"].shape == stats["memory_norm"].shape == (depth,)
        )
        torch.testing.assert_close(stats["alpha"], torch.full((depth,), 0.0067), rtol=0.05, atol=0)
        torch.testing.assert_close(stats["theta"], torch.full((depth,), 0.5 / 16), rtol=0.05, atol=0)
        assert ((stats["eta"] > 0) == momentum).all()


def train_next_token(
    inputs: torch.Tensor, targets: torch.Tensor, vocab: int, steps: int, config: MemoryConfig
) -> list[float]:
    """Train a one-layer memory model on fresh rows (steps, B, N); return its loss at every step."""
    embed, head = nn.Embedding(vocab, 32), nn.Linear(32, vocab)
    memory = NeuralMemory(32, config, causal=True)
    parameters = [*embed.parameters(), *memory.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=3e-3, weight_decay=0.0, fused=True)
    losses = []
    for step in range(steps):
        x = embed(inputs[step])
        loss = F.cross_entropy(head(F.rms_norm(x + memory(x)[0], (32,))).flatten(0, 1), targets[step].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_random_tokens_cannot_be_predicted():
    vocab, steps = 16, 200
    data = torch.randint(vocab, (steps, 16, 25))
    # Large steps and no cap: nothing that would hide a leak.
    config = replace(CONFIG, num_heads=2, chunk_size=8, max_step_size=8.0, max_inner_grad=1e6)
    losses = train_next_token(data[..., :-1], data[..., 1:], vocab, steps, config)
    late = sum(losses[-100:]) / 100
    assert late > math.log(vocab) - 0.02  # a leak of the next token would end far below
    assert late < math.log(vocab) + 0.25


def test_copied_tokens_can_be_predicted():
    # The counterpart: with a target the past does hold, the same model and budget learn, so the test above can fail.
    vocab, steps = 16, 150
    data = torch.randint(vocab, (steps, 16, 25))
    losses = train_next_token(data[..., 1:], data[..., :-1], vocab, steps, replace(CONFIG, num_heads=2, chunk_size=8))
    assert sum(losses[-20:]) / 20 < 0.5 * math.log(vocab)


def test_an_untrained_memory_answers_what_followed_a_token_last_time():
    module = NeuralMemory(64, replace(CONFIG, num_heads=2), causal=True).double()
    x = torch.randn(32, 16, 64, dtype=torch.float64)
    place = torch.arange(32) % 9  # of the token that comes back at the end
    x[:, -1] = x[torch.arange(32), place]
    x.requires_grad_()
    direction = torch.randn(64, dtype=torch.float64)
    (module(x)[0][:, -1] @ direction).sum().backward()
    assert x.grad is not None
    influence = x.grad.norm(dim=-1)[:, :12]  # the last four tokens are inside the query's own convolution
    follower = influence[torch.arange(32), place + 1]
    assert (influence.argmax(dim=1) == place + 1).double().mean() > 0.7  # by chance 1 / 12
    assert follower.mean() > 2 * influence.mean()
