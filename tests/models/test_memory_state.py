"""The state of the memory: any split of a sequence is exact, rows are independent, nothing hides in the module."""

import io
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from titans_trm.models.config import MemoryConfig
from titans_trm.models.memory import NeuralMemory
from titans_trm.models.memory_state import MemoryState

CONFIG = MemoryConfig(num_heads=2, depth=2, expansion=2, chunk_size=4, conv_width=3, max_step_size=2.0)
CLOSE = {"rtol": 1e-10, "atol": 1e-11}


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def build(config: MemoryConfig = CONFIG, *, causal: bool = True, dtype: torch.dtype = torch.float64) -> NeuralMemory:
    torch.manual_seed(0)
    module = NeuralMemory(8, config, causal=causal).to(dtype)
    torch.nn.init.normal_(module.gates.weight, std=0.5)
    return module


def tokens(batch: int, length: int, seed: int = 1, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(batch, length, 8, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def in_pieces(module: NeuralMemory, x: Tensor, lengths: list[int], state: MemoryState | None = None):
    outs = []
    for piece in x.split(lengths, dim=1):
        out, state = module(piece, state, return_state=True)
        outs.append(out)
    return torch.cat(outs, dim=1), state


def tensors(state: MemoryState) -> list[Tensor]:
    found: list[Tensor] = []
    state._map(lambda tensor, _: found.append(tensor) or tensor)
    return found


SPLITS = [[1] * 14, [14], [2, 12], [3, 1, 4, 6], [5, 9], [4, 4, 4, 2], [1, 2, 11], [13, 1], [7, 7]]


@pytest.mark.parametrize("read", ["post", "pre"])
@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("lengths", SPLITS)
def test_any_split_equals_one_pass(lengths, depth, read):
    module = build(replace(CONFIG, depth=depth, read=read))
    x = tokens(2, 14)
    whole, last = module(x, return_state=True)
    pieces, state = in_pieces(module, x, lengths)
    torch.testing.assert_close(pieces, whole, **CLOSE)
    torch.testing.assert_close(tensors(state), tensors(last), **CLOSE)
    assert state.phases == last.phases == (2, 2)


def test_any_split_has_the_gradients_of_one_pass():
    module = build()
    x, weight = tokens(2, 11).requires_grad_(), tokens(2, 11, seed=4)
    parameters = [x, *module.parameters()]
    whole = torch.autograd.grad((module(x)[0] * weight).sum(), parameters)
    pieces = torch.autograd.grad((in_pieces(module, x, [3, 3, 5])[0] * weight).sum(), parameters)
    torch.testing.assert_close(pieces, whole, **CLOSE)


def test_detach_cuts_the_graph_and_keeps_the_values():
    module = build()
    x = tokens(2, 6).requires_grad_()
    _, state = module(x, return_state=True)
    cut = state.detach()
    torch.testing.assert_close(tensors(cut), tensors(state))
    assert any(t.requires_grad for t in tensors(state))
    assert not any(t.requires_grad for t in tensors(cut))


@pytest.mark.parametrize("momentum", [True, False])
@pytest.mark.parametrize("before", [1, 2, 3, 4, 6, 9])
@pytest.mark.parametrize("primed", [False, True])
def test_reset_row_equals_a_new_start_and_others_go_on(before, momentum, primed):
    module = build(replace(CONFIG, momentum=momentum))
    x, y = tokens(3, before), tokens(3, 13, seed=2)
    fresh = module.prime(tokens(1, 2, seed=9)[0]) if primed else module.init_state(3)
    _, state = module(x, fresh, return_state=True)
    state = state.reset(torch.tensor([False, True, False]), fresh)
    got, after = in_pieces(module, y, [2, 1, 10], state)
    going_on = module(torch.cat((x, y), dim=1), fresh)[0][:, before:]
    started, started_state = module(y, fresh, return_state=True)
    torch.testing.assert_close(got[[0, 2]], going_on[[0, 2]], **CLOSE)
    torch.testing.assert_close(got[1], started[1], **CLOSE)
    assert after.phases == ((before + 13) % 4, 13 % 4, (before + 13) % 4)
    torch.testing.assert_close(after.weights[0][:, 1], started_state.weights[0][:, 1], **CLOSE)


def test_reset_twice_at_different_phases_stays_exact():
    module = build()
    x = tokens(3, 20)
    _, state = module(x[:, :3], return_state=True)
    state = state.reset(torch.tensor([True, False, False]), module.init_state(3))
    _, state = module(x[:, 3:5], state, return_state=True)
    state = state.reset(torch.tensor([False, True, False]), module.init_state(3))
    got, state = module(x[:, 5:], state, return_state=True)
    for row, start in enumerate((3, 5, 0)):
        torch.testing.assert_close(got[row], module(x[:, start:])[0][row, 5 - start :], **CLOSE)
    assert state.phases == (1, 3, 0)


def test_reset_of_all_rows_is_a_new_start():
    module = build()
    _, state = module(tokens(2, 7), return_state=True)
    state = state.reset(torch.tensor([True, True]), module.init_state(2))
    assert state.pending is None
    torch.testing.assert_close(module(tokens(2, 9, 3), state)[0], module(tokens(2, 9, 3))[0], **CLOSE)


def test_reset_of_a_set_row_is_a_new_start():
    module = build(replace(CONFIG, carry="steps"), causal=False)
    _, state = module(tokens(2, 5), return_state=True)
    state = state.reset(torch.tensor([False, True]), module.init_state(2))
    x = tokens(2, 5, 3)
    got, plain = module(x, state)[0], module(x)[0]
    torch.testing.assert_close(got[1], plain[1], **CLOSE)
    assert (got[0] - plain[0]).abs().max() > 1e-4


def test_select_reorders_repeats_and_drops_rows():
    module = build()
    x, y = tokens(3, 6), tokens(3, 7, seed=2)
    _, state = module(x, return_state=True)
    state = state.reset(torch.tensor([False, False, True]), module.init_state(3))
    for rows in ([2, 0, 0], [2], [1, 0]):  # the last row has no pending tokens, the others two
        index = torch.tensor(rows)
        got, _ = module(y[index], state.select(index))
        torch.testing.assert_close(got, module(y, state)[0][index], **CLOSE)
    _, alone = module(x[:1], return_state=True)  # in the middle of a chunk
    index = torch.tensor([0, 0])
    torch.testing.assert_close(module(y[:2], alone.select(index))[0][1:], module(y[1:2], alone)[0], **CLOSE)
    index = torch.tensor([2, 0, 0])
    primed = module.prime(tokens(1, 3)[0]).select(index)
    torch.testing.assert_close(module(y, primed)[0], module(y, module.prime(tokens(1, 3)[0]))[0], **CLOSE)


def test_saved_mid_chunk_and_loaded_goes_on_as_if_uninterrupted():
    for causal, config in (
        (True, CONFIG),
        (True, replace(CONFIG, momentum=False)),
        (False, replace(CONFIG, carry="steps")),
    ):
        module = build(config, causal=causal)
        first, second = tokens(2, 6), tokens(2, 7, seed=2)
        _, state = module(first, return_state=True)
        wanted, _ = module(second, state)
        file = io.BytesIO()
        torch.save({"memory": state.state_dict(), "model": module.state_dict()}, file)
        file.seek(0)
        saved = torch.load(file, weights_only=True)
        again = NeuralMemory(8, config, causal=causal).double()
        again.load_state_dict(saved["model"])
        got, _ = again(second, MemoryState.from_state_dict(saved["memory"]))
        assert torch.equal(got, wanted)


def test_saved_state_does_not_follow_later_changes():
    module = build()
    saved = module.init_state(2).state_dict()
    with torch.no_grad():
        module.initial_weights[0].zero_()
    assert saved["weights"][0].abs().max() > 0


def test_state_is_in_no_module_buffer():
    module = build()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    first, _ = module(tokens(2, 9), return_state=True)
    second, _ = module(tokens(2, 9), return_state=True)
    assert torch.equal(first, second)
    assert not list(module.buffers())
    assert {name.split(".")[0] for name in before} == {
        "qkv",
        "conv",
        "gates",
        "out_gate",
        "out_proj",
        "initial_weights",
        "gain",
    }
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def state_bytes(state: MemoryState) -> int:
    return sum(t.numel() * t.element_size() for t in tensors(state))


def check_constant_size(total: int, piece: int) -> None:
    module = build(dtype=torch.float32)
    state, sizes = None, set()
    with torch.no_grad():
        for step in range(total // piece):
            out, state = module(tokens(1, piece, step, torch.float32), state, return_state=True)
            sizes.add(state_bytes(state))
            assert torch.isfinite(out).all()
    # piece and chunk are coprime: the sizes are those of 0 to 3 pending tokens, and no more.
    assert len(sizes) == CONFIG.chunk_size
    per_token = 2 * (4 + 8) + 2 * (8 + 4) + 3 * 2 * 2
    assert max(sizes) - min(sizes) == (CONFIG.chunk_size - 1) * per_token * 4


def test_state_size_is_constant():
    check_constant_size(total=700, piece=7)


@pytest.mark.slow
def test_state_size_is_constant_over_100k_tokens():
    check_constant_size(total=100_002, piece=1001)


@pytest.mark.parametrize("causal", [True, False])
def test_rows_are_independent_and_calls_repeatable(causal):
    module = build(causal=causal)
    x = tokens(3, 10)
    out, _ = module(x)
    assert torch.equal(out, module(x)[0])
    for row in range(3):
        torch.testing.assert_close(module(x[row : row + 1])[0], out[row : row + 1], **CLOSE)


@pytest.mark.parametrize("read", ["post", "pre"])
def test_later_tokens_move_no_earlier_output(read):
    module = build(replace(CONFIG, read=read))
    x = tokens(2, 12)
    changed = torch.cat((x[:, :8], 5 * tokens(2, 4, seed=3)), dim=1)
    difference = (module(x)[0] - module(changed)[0]).abs().amax((0, 2))
    assert torch.equal(difference[:8], torch.zeros(8, dtype=torch.float64))
    assert (difference[8:] > 1e-6).all()


@pytest.mark.parametrize("read", ["post", "pre"])
def test_jacobian_is_lower_triangular_in_time(read):
    module = build(replace(CONFIG, read=read))
    jacobian = torch.autograd.functional.jacobian(lambda x: module(x)[0].sum((0, 2)), tokens(1, 9))[:, 0].abs().sum(-1)
    assert torch.equal(jacobian.triu(1), torch.zeros(9, 9, dtype=torch.float64))
    assert (jacobian.tril() + torch.ones(9, 9).triu(1) > 0).all()  # and every earlier token reaches every later output


def test_state_moves_and_casts():
    module = build()
    state = module.init_state(2, device="cpu", dtype=torch.float32)
    assert {t.dtype for t in tensors(state)} == {torch.float32}
    assert module.init_state(2).weights[0] is not None and module.init_state(2).phases == (0, 0)
    assert {t.dtype for t in tensors(state.to(dtype=torch.float64))} == {torch.float64}


def test_half_precision_products_stay_close_and_keep_the_state_in_float32():
    for causal in (True, False):
        torch.manual_seed(0)
        module = NeuralMemory(
            64, MemoryConfig(num_heads=2, chunk_size=16, carry="reset" if causal else "steps"), causal=causal
        )
        x = torch.randn(2, 50, 64)
        wanted, _ = module(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            got, state = module(x, return_state=True)
            got.float().square().mean().backward()
        assert got.dtype == torch.bfloat16
        assert all(w.dtype == torch.float32 for w in (*state.weights, *state.momentum))
        assert (got - wanted).norm() / wanted.norm() < 0.03
        assert all(torch.isfinite(p.grad).all() for p in module.parameters())


def test_module_in_bfloat16_runs():
    module = build(dtype=torch.bfloat16)
    out, state = in_pieces(module, tokens(2, 13, dtype=torch.bfloat16), [6, 7])
    assert out.dtype == torch.bfloat16 and torch.isfinite(out).all()
    assert state.weights[0].dtype == torch.float32


@pytest.mark.parametrize("causal", [True, False])
def test_non_reentrant_checkpoint_equals_plain(causal):
    module = build(causal=causal)
    x = tokens(2, 10).requires_grad_()
    parameters = [x, *module.parameters()]
    plain = torch.autograd.grad(module(x)[0].square().sum(), parameters)
    again = torch.autograd.grad(checkpoint(lambda v: module(v)[0], x, use_reentrant=False).square().sum(), parameters)
    assert all(torch.equal(a, b) for a, b in zip(again, plain, strict=True))


@pytest.mark.parametrize(("causal", "depth"), [(True, 1), pytest.param(True, 2, marks=pytest.mark.slow), (False, 2)])
def test_compiled_equals_eager(causal, depth):
    torch._dynamo.reset()
    module = build(replace(CONFIG, depth=depth), causal=causal)
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    x = tokens(2, 6).requires_grad_()  # two chunks
    parameters = [x, *module.parameters()]
    wanted, got = module(x)[0], compiled(x)[0]
    torch.testing.assert_close(got, wanted, **CLOSE)
    wanted = torch.autograd.grad(wanted.square().sum(), parameters)
    torch.testing.assert_close(torch.autograd.grad(got.square().sum(), parameters), wanted, **CLOSE)


@pytest.mark.slow
def test_compiled_with_a_state_equals_eager():
    torch._dynamo.reset()
    module = build()
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    x = tokens(2, 6)
    with torch.no_grad():
        _, state = compiled(x, return_state=True)
        torch.testing.assert_close(tensors(state), tensors(module(x, return_state=True)[1]), **CLOSE)
        torch.testing.assert_close(compiled(x, state)[0], module(x, state)[0], **CLOSE)


def test_errors_say_value_rule_and_cure():
    with pytest.raises(ValueError, match="width=9 is not divisible by memory.num_heads=2"):
        NeuralMemory(9, CONFIG, causal=True)
    with pytest.raises(ValueError, match="memory.read=pre reads nothing of a set"):
        NeuralMemory(8, replace(CONFIG, read="pre"), causal=False)
    causal, grid = build(), build(causal=False)
    x = tokens(2, 5)
    with pytest.raises(ValueError, match="num_queries_from=5 leaves no query of 5 tokens"):
        causal(x, num_queries_from=5)
    with pytest.raises(ValueError, match="memory.carry=reset keeps no state"):
        grid(x, return_state=True)
    with pytest.raises(ValueError, match="prime.. is for causal memories"):
        grid.prime(x[0])
    _, state = causal(x, return_state=True)
    with pytest.raises(ValueError, match="chunk_size=4, this memory has 8"):
        build(replace(CONFIG, chunk_size=8))(x, state)
    with pytest.raises(ValueError, match="the state holds 2 sequences, x 3"):
        causal(tokens(3, 5), state)
    with pytest.raises(ValueError, match="fresh holds tokens of an unfinished chunk"):
        state.reset(torch.tensor([True, False]), state)
    with pytest.raises(ValueError, match="mask has 3 rows, the state 2"):
        state.reset(torch.tensor([True, False, True]), causal.init_state(3))
