"""The chunk-parallel memory equals its token-by-token definition, values and outer gradients."""

import itertools
from dataclasses import replace

import memory_oracle
import pytest
import torch
from torch import Tensor

from titans_trm.models import memory_chunk
from titans_trm.models.config import MemoryConfig
from titans_trm.models.memory import NeuralMemory

WIDTH = 8
BASE = MemoryConfig(
    num_heads=2, depth=2, expansion=2, chunk_size=4, conv_width=3, max_step_size=2.0, max_inner_grad=3.0
)


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def build(config: MemoryConfig = BASE, *, causal: bool = True, width: int = WIDTH, seed: int = 0) -> NeuralMemory:
    """Return a float64 memory with every parameter and gate away from its special starting value."""
    torch.manual_seed(seed)
    module = NeuralMemory(width, config, causal=causal).double()
    with torch.no_grad():
        module.gates.weight.normal_(std=0.5)
        module.gates.bias.normal_()
        module.gain.normal_(1.0, 0.3)
    return module


def tokens(batch: int, length: int, width: int = WIDTH, seed: int = 1) -> Tensor:
    return torch.randn(batch, length, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def error(got: Tensor, wanted: Tensor) -> float:
    return ((got - wanted).norm() / wanted.norm().clamp_min(1e-12)).item()


CAUSAL_CASES = list(itertools.product((1, 2), ("post", "pre"), (1, 4, 8, 11), (3, 8, 11)))


@pytest.mark.parametrize(("depth", "read", "chunk", "length"), CAUSAL_CASES)
def test_causal_equals_token_by_token_definition(depth, read, chunk, length):
    module = build(replace(BASE, depth=depth, read=read, chunk_size=chunk))
    x = tokens(2, length)
    wanted = memory_oracle.run(module, x)
    got, _ = module(x)
    assert error(got, wanted.out) < 1e-10
    _, state = module(x, return_state=True)
    if length % chunk == 0:
        for mine, theirs in zip((*state.weights, *state.momentum), (*wanted.weights, *wanted.momentum), strict=True):
            assert error(mine, theirs) < 1e-10


@pytest.mark.parametrize(
    "change", [{"momentum": False}, {"forgetting": False}, {"momentum": False, "forgetting": False}]
)
@pytest.mark.parametrize("causal", [True, False])
def test_ablations_equal_definition(change, causal):
    module = build(replace(BASE, carry="cycles", **change), causal=causal)
    x = tokens(2, 11)
    wanted = memory_oracle.run(module, x)
    got, state = module(x, return_state=True)
    assert error(got, wanted.out) < 1e-10
    assert change.get("momentum", True) == (state.momentum is not None)


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("heads", [1, 4])
@pytest.mark.parametrize("causal", [True, False])
def test_outer_gradients_equal_definition(depth, heads, causal):
    module = build(replace(BASE, depth=depth, num_heads=heads), causal=causal)
    x = tokens(2, 7).requires_grad_()
    weight = tokens(2, 7, seed=5)
    parameters = [x, *module.parameters()]
    wanted = torch.autograd.grad((memory_oracle.run(module, x).out * weight).sum(), parameters)
    got = torch.autograd.grad((module(x)[0] * weight).sum(), parameters)
    for mine, theirs in zip(got, wanted, strict=True):
        assert error(mine, theirs) < 1e-9


@pytest.mark.parametrize("depth", [1, 2])
def test_set_equals_definition_and_two_writes_carry_momentum(depth):
    module = build(replace(BASE, depth=depth, carry="cycles"), causal=False)
    first, second = tokens(3, 9), tokens(3, 9, seed=2)
    one = memory_oracle.run(module, first, num_queries_from=2)
    two = memory_oracle.run(module, second, start=(one.weights, one.momentum))
    got, state = module(first, num_queries_from=2, return_state=True)
    assert error(got, one.out) < 1e-10
    got, state = module(second, state, return_state=True)
    assert error(got, two.out) < 1e-10
    for mine, theirs in zip((*state.weights, *state.momentum), (*two.weights, *two.momentum), strict=True):
        assert error(mine, theirs) < 1e-10


def test_set_is_permutation_equivariant():
    module = build(replace(BASE, carry="cycles"), causal=False)
    x, order = tokens(2, 10), torch.randperm(10, generator=torch.Generator().manual_seed(3))
    out, state = module(x, return_state=True)
    shuffled, other = module(x[:, order], return_state=True)
    torch.testing.assert_close(shuffled, out[:, order], rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(other.weights, state.weights, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("unread", [1, 4, 6, 10])
def test_unread_tokens_are_written_but_not_returned(unread):
    x = tokens(2, 11)
    for causal in (True, False):
        module = build(causal=causal)
        torch.testing.assert_close(
            module(x, num_queries_from=unread)[0], module(x)[0][:, unread:], rtol=1e-11, atol=1e-12
        )


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_primed_tokens_are_one_chunk_of_their_own(count):
    module = build()
    first, x = tokens(1, count, seed=7)[0], tokens(3, 10)
    joined = torch.cat((first.expand(3, -1, -1), x), dim=1)
    wanted = memory_oracle.run(module, joined, num_queries_from=count, first_chunk=count)
    primed = module.prime(first)
    assert all(w.dim() == 3 for w in primed.weights)
    got, state = module(x, primed, return_state=True)
    assert error(got, wanted.out) < 1e-10
    assert state.weights[0].shape[1] == 3


def test_closed_form_errors_equal_autograd():
    torch.manual_seed(0)
    for depth in (1, 2):
        sizes = [(6, 6)] if depth == 1 else [(6, 12), (12, 6)]
        weights = tuple(torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True) for size in sizes)
        gain = torch.randn(2, 1, 1, 6, dtype=torch.float64)
        k, v = torch.randn(2, 2, 3, 5, 6, dtype=torch.float64)
        inputs, errors, loss = memory_chunk.surprise(weights, gain, k, v)
        total = sum(
            (0.5 * (memory_oracle.memory_net(list(weights), gain[:, 0], k[:, :, t]) - v[:, :, t]) ** 2).sum()
            for t in range(5)
        )
        torch.testing.assert_close(loss.sum(), total)
        for a, g, wanted in zip(inputs, errors, torch.autograd.grad(total, weights), strict=True):
            torch.testing.assert_close(a.transpose(-1, -2) @ g, wanted)


def test_error_through_gelu_equals_autograd():
    x = torch.linspace(-4, 4, 41, dtype=torch.float64, requires_grad=True)
    back = torch.linspace(2, -1, 41, dtype=torch.float64, requires_grad=True)
    got = memory_chunk.GeluError.apply(back, x)
    torch.testing.assert_close(got, torch.autograd.grad(torch.nn.functional.gelu(x), x, back)[0])
    assert torch.autograd.gradcheck(memory_chunk.GeluError.apply, (back, x))


def test_decayed_write_passes_gradcheck():
    def make(*shape):
        return torch.randn(*shape, dtype=torch.float64, requires_grad=True)

    torch.manual_seed(0)
    a, g = make(2, 1, 4, 3), make(2, 1, 4, 2)
    with_extra = (make(2, 1, 3, 2), make(2, 1), make(2, 1, 3, 2), make(2, 1), a, g)
    assert torch.autograd.gradcheck(memory_chunk.DecayedWrite.apply, with_extra)
    assert torch.autograd.gradcheck(memory_chunk.DecayedWrite.apply, (*with_extra[:2], None, None, a, g))


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("depth", [1, 2])
def test_gradcheck(causal, depth):
    module = build(
        MemoryConfig(num_heads=1, depth=depth, expansion=1, chunk_size=2, conv_width=2), causal=causal, width=2
    )
    names, values = zip(*module.named_parameters(), strict=True)

    def run(x, *parameters):
        return torch.func.functional_call(module, dict(zip(names, parameters, strict=True)), (x,))[0]

    x = tokens(1, 3, 2).requires_grad_()
    assert torch.autograd.gradcheck(run, (x, *values), atol=1e-6, fast_mode=True)


def test_long_chunk_with_strong_forgetting_stays_finite_and_exact():
    module = build(replace(BASE, chunk_size=32))
    with torch.no_grad():
        module.gates.bias[4:8] = -40.0  # alpha = 1 to machine precision
    x = tokens(1, 40)
    got, _ = module(x)
    assert error(got, memory_oracle.run(module, x).out) < 1e-10
    gradients = torch.autograd.grad(got.square().sum(), list(module.parameters()))
    assert all(torch.isfinite(g).all() for g in gradients)


def test_each_weight_matrix_has_its_own_gates():
    module = build(replace(BASE, num_heads=1))
    x = tokens(1, 4)
    _, before = module(x, return_state=True)
    for gate, layer in itertools.product(range(3), range(2)):
        with torch.no_grad():
            module.gates.bias[2 * gate + layer] += 0.7
            _, after = module(x, return_state=True)
            module.gates.bias[2 * gate + layer] -= 0.7
        assert error(after.weights[layer], before.weights[layer]) > 1e-4
        assert error(after.weights[1 - layer], before.weights[1 - layer]) < 1e-12


def test_zero_step_reads_the_initial_memory():
    module = build(replace(BASE, forgetting=False))
    with torch.no_grad():
        module.gates.weight.zero_()
        module.gates.bias[:4] = -800.0  # theta = 0
    x = tokens(2, 9)
    q, _, _ = memory_oracle.projections(module, x)
    weights = [w.unsqueeze(1).expand(-1, 2, -1, -1) for w in module.initial_weights]
    gain = module.gain.unflatten(0, (2, 1, -1))
    read = torch.stack([memory_oracle.memory_net(weights, gain, q[:, :, t]) for t in range(9)], dim=2)
    torch.testing.assert_close(module(x)[0], memory_oracle.finish(module, read, x))


def test_full_forgetting_leaves_only_the_last_token():
    module = build(replace(BASE, num_heads=1, conv_width=0, momentum=False, chunk_size=1))
    with torch.no_grad():
        module.gates.weight.zero_()
        module.gates.bias[2:] = -800.0  # alpha = 1
    x = tokens(1, 6)
    _, after = module(x, return_state=True)
    # Nothing but the last write is left: the other tokens move it only through the weights its gradient is taken at.
    _, before = module(x[:, :-1], return_state=True)
    single = memory_oracle.run(
        module, x[:, -1:], start=([w for w in before.weights], [torch.zeros_like(w) for w in before.weights])
    )
    for mine, theirs in zip(after.weights, single.weights, strict=True):
        torch.testing.assert_close(mine, theirs)
        assert torch.linalg.matrix_rank(mine[0, 0]) == 1
