"""What is recomputed in the backward pass equals what is recorded in the forward pass, values and outer gradients."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from titans_trm.models.config import MemoryConfig
from titans_trm.models.memory import NeuralMemory
from titans_trm.models.memory_state import MemoryState

BASE = MemoryConfig(
    num_heads=2, depth=2, expansion=2, chunk_size=4, conv_width=3, max_step_size=2.0, max_inner_grad=1.0
)
OPTIONS = [
    {},
    {"depth": 1},
    {"read": "pre"},
    {"depth": 1, "read": "pre", "momentum": False},
    {"momentum": False},
    {"forgetting": False},
    {"momentum": False, "forgetting": False},
    {"chunk_size": 5},
    {"chunk_size": 32},
    {"max_inner_grad": 0.05},
]


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def build(config: MemoryConfig, *, causal: bool, dtype: torch.dtype = torch.float64) -> NeuralMemory:
    torch.manual_seed(0)
    module = NeuralMemory(8, config, causal=causal).to(dtype)
    with torch.no_grad():
        module.gates.weight.normal_(std=0.5)
        module.gates.bias.normal_()
        module.gain.normal_(1.0, 0.3)
    return module


def tokens(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def values(state: MemoryState) -> list[Tensor]:
    found = [*state.weights, *(state.momentum or ())]
    if state.pending is not None:
        found += [*state.pending.inputs, *state.pending.errors, state.pending.step]
    return found


def causal_run(module: NeuralMemory, x: Tensor, first: Tensor) -> list[Tensor]:
    """Prime; a ragged call that ends inside a chunk; one that starts and ends inside; one whose state nobody wants."""
    one, state = module(x[:, :10], module.prime(first), return_state=True)
    two, state = module(x[:, 10:23], state, num_queries_from=2, return_state=True)
    three, _ = module(x[:, 23:], state)
    return [one, two, three, *values(state)]


def set_run(module: NeuralMemory, x: Tensor, first: Tensor) -> list[Tensor]:
    if not module.carries_state:
        return [module(torch.cat((first.expand(len(x), -1, -1), x), 1), num_queries_from=len(first))[0]]
    one, state = module(x[:, :9], return_state=True)
    two, state = module(x[:, 9:], state, num_queries_from=3, return_state=True)
    three, _ = module(x, state)
    return [one, two, three, *values(state)]


def outputs_and_gradients(config: MemoryConfig, run, *, causal: bool) -> list[Tensor]:
    module = build(config, causal=causal)
    x, first = tokens(3, 31, 8).requires_grad_(), tokens(3, 8, seed=2).requires_grad_()
    outs = run(module, x, first)
    weights = [tokens(*out.shape, seed=5 + i) for i, out in enumerate(outs)]
    leaves = [x, first, *module.parameters()] if run is causal_run else [x, *module.parameters()]
    return [*outs, *torch.autograd.grad(outs, leaves, weights)]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("recompute", ["chunk", "segment"])
def test_causal_equals_recorded(recompute, options):
    config = replace(BASE, **options)
    wanted = outputs_and_gradients(replace(config, recompute="none"), causal_run, causal=True)
    got = outputs_and_gradients(replace(config, recompute=recompute), causal_run, causal=True)
    for mine, theirs in zip(got, wanted, strict=True):
        assert (mine - theirs).norm() <= 1e-10 * theirs.norm()


@pytest.mark.parametrize("carry", ["reset", "steps"])
@pytest.mark.parametrize("options", [o for o in OPTIONS if "read" not in o and "chunk_size" not in o], ids=str)
def test_set_equals_recorded(options, carry):
    config = replace(BASE, carry=carry, **options)
    wanted = outputs_and_gradients(replace(config, recompute="none"), set_run, causal=False)
    got = outputs_and_gradients(config, set_run, causal=False)
    for mine, theirs in zip(got, wanted, strict=True):
        assert (mine - theirs).norm() <= 1e-10 * theirs.norm()


@pytest.mark.parametrize("causal", [True, False])
def test_recomputed_gradients_pass_gradcheck(causal):
    config = MemoryConfig(num_heads=1, expansion=2, chunk_size=2, conv_width=2, carry="reset" if causal else "steps")
    module = build(replace(config, num_heads=4), causal=causal)
    names, parameters = zip(*module.named_parameters(), strict=True)

    def run(x, *parameters):
        arguments = dict(zip(names, parameters, strict=True))
        out, state = torch.func.functional_call(module, arguments, (x,), {"return_state": True})
        return out, *state.weights, *state.momentum

    assert torch.autograd.gradcheck(run, (tokens(1, 4, 8).requires_grad_(), *parameters), fast_mode=True)


def saved_bytes(recompute: str, *, causal: bool) -> int:
    """Bytes kept for the backward pass, parameters and input apart."""
    config = MemoryConfig(num_heads=2, chunk_size=8, recompute=recompute)
    module = build(config, causal=causal, dtype=torch.float32)
    x, saved = torch.randn(4, 128, 8), {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        module(x)
    own = {tensor.untyped_storage().data_ptr() for tensor in (x, *module.parameters())}
    return sum(size for pointer, (size, _) in saved.items() if pointer not in own)


def test_recomputing_saves_memory():
    none, chunk, segment = (saved_bytes(recompute, causal=True) for recompute in ("none", "chunk", "segment"))
    assert segment < chunk < 0.6 * none
    assert saved_bytes("chunk", causal=False) < 0.6 * saved_bytes("none", causal=False)
