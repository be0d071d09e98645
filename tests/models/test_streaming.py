"""A stream of tokens equals the whole sequence, however it is cut, whatever the rows beside it do, at constant size."""

import io

import pytest
import torch
from model_cases import GATES, small_model, tokens
from torch import Tensor

from titans_trm.models.inference import solve
from titans_trm.models.stream_state import StreamState
from titans_trm.models.titans_trm import TitansTRM

CLOSE = {"rtol": 1e-10, "atol": 1e-10}
LENGTH = 29
SPLITS = [[LENGTH], [1] * LENGTH, [3, 7, 1, 10, 8], [2, 27], [4, 4, 12, 9]]


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def causal_model(window: int | None = 6, dtype: torch.dtype = torch.float64, **changes) -> TitansTRM:
    changes["backbone"] = {"window": window} | changes.pop("backbone", {})
    changes["recursion"] = {"num_latent_steps": 1, "num_recursions": 1} | changes.pop("recursion", {})
    changes["halting"] = {"max_supervision_steps": 2} | changes.pop("halting", {})
    return small_model(dtype=dtype, causal=True, **changes).eval()


def in_pieces(
    model: TitansTRM, x: Tensor, lengths: list[int], state: StreamState | None = None
) -> tuple[Tensor, StreamState]:
    state = state or model.init_state(len(x))
    outs = []
    for piece in x.split(lengths, dim=1):
        logits, state = model(piece, state)
        outs.append(logits)
    return torch.cat(outs, dim=1), state


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("window", [None, 1, 6, 40])
def test_any_split_equals_the_whole_sequence(gate, window):
    model = causal_model(window, backbone={"gate": gate})
    x = tokens(3, LENGTH)
    whole = solve(model, x)
    for lengths in SPLITS:
        logits, state = in_pieces(model, x, lengths)
        torch.testing.assert_close(logits, whole.logits, **CLOSE)
        assert state.positions == (LENGTH,) * 3
        # The record of a solution is in fp32.
        halting = model.stream_halting_logits(state).float()
        torch.testing.assert_close(halting, whole.halting_logits[:, -1], rtol=1e-6, atol=1e-6)
    assert not logits.requires_grad


@pytest.mark.parametrize(
    "changes",
    [
        {"recursion": {"num_latent_steps": 2, "num_recursions": 2}},
        {"recursion": {"num_latent_steps": 2, "two_nets": True, "learned_init": True}},
        {"backbone": {"num_persistent_tokens": 0, "norm": "pre"}},
        {"memory": {"conv_width": 0, "momentum": False, "forgetting": False, "depth": 1}},
        {"memory": {"read": "pre", "chunk_size": 1}},
        {"memory": {"chunk_size": 64}},
        {"halting": {"unit": "token"}},
        {"num_puzzle_ids": 3},
    ],
)
def test_every_kind_of_model_is_streamed_exactly(changes):
    model = causal_model(**changes)
    x = tokens(2, LENGTH)
    ids = torch.tensor([2, 1]) if "num_puzzle_ids" in changes else None
    whole = solve(model, x, ids)
    torch.testing.assert_close(in_pieces(model, x, [3, 7, 1, 1, 1, 8, 8])[0], whole.logits, **CLOSE)


def test_fewer_and_more_supervision_steps_have_histories_of_their_own():
    model = causal_model()
    x = tokens(2, LENGTH)
    for steps in (1, 3):
        logits, state = in_pieces(model, x, [5, 24], model.init_state(2, num_steps=steps))
        torch.testing.assert_close(logits, solve(model, x, max_steps=steps).logits, **CLOSE)
        assert len(state.calls) == steps * model.net_calls_per_step


def test_decode_is_the_stream_of_one_token():
    model = causal_model()
    x = tokens(3, LENGTH)
    whole = solve(model, x).logits
    _, state = model(x[:, :20], model.init_state(3))
    for position in range(20, LENGTH):
        logits, state = model.decode(x[:, position], state)
        torch.testing.assert_close(logits, whole[:, position], **CLOSE)


def test_the_halting_logit_leaves_the_stream_as_it_was():
    model = causal_model()
    x = tokens(2, LENGTH)
    _, state = model(x[:, :13], model.init_state(2))
    model.stream_halting_logits(state)
    logits, _ = model(x[:, 13:], state)
    torch.testing.assert_close(logits, solve(model, x).logits[:, 13:], **CLOSE)


def test_a_state_can_go_on_twice():
    model = causal_model()
    first, second = tokens(2, 13), tokens(2, 9, seed=5)
    _, state = model(first, model.init_state(2))
    one, two = model(second, state)[0], model(second, state)[0]
    assert torch.equal(one, two)


@pytest.mark.parametrize("window", [None, 6])
def test_a_sequence_starts_in_one_row_while_the_others_go_on(window):
    model = causal_model(window)
    x = tokens(3, 40)
    fresh = model.init_state(1)
    _, state = model(x[:, :5], model.init_state(3))
    state = state.reset(torch.tensor([False, True, False]), fresh)
    _, state = in_pieces(model, x[:, 5:12], [3, 4], state)
    state = state.reset(torch.tensor([True, False, False]), fresh)
    assert state.positions == (0, 7, 12)
    logits, state = in_pieces(model, x[:, 12:], [1, 1, 9, 1, 16], state)
    for row, start in enumerate((12, 5, 0)):
        alone = solve(model, x[row : row + 1, start:]).logits[0]
        torch.testing.assert_close(logits[row], alone[12 - start :], **CLOSE)
    assert state.positions == (28, 35, 40)


def test_reset_of_all_rows_is_a_new_start():
    model = causal_model()
    x = tokens(2, 20)
    _, state = model(x, model.init_state(2))
    state = state.reset(torch.tensor([True, True]), model.init_state(1))
    torch.testing.assert_close(in_pieces(model, x, [8, 12], state)[0], solve(model, x).logits, **CLOSE)


@pytest.mark.parametrize("window", [None, 6])
def test_rows_are_reordered_repeated_and_dropped(window):
    model = causal_model(window)
    x, y = tokens(3, 13), tokens(3, 9, seed=2)
    _, state = model(x, model.init_state(3))
    state = state.reset(torch.tensor([False, False, True]), model.init_state(1))
    expected = model(y, state)[0]
    for rows in ([2, 0, 0], [2], [1, 0]):
        index = torch.tensor(rows)
        torch.testing.assert_close(model(y[index], state.select(index))[0], expected[index], **CLOSE)


@pytest.mark.parametrize("length", [1, 3, 13, 16])  # before, in and at the end of a chunk of 4
def test_a_prompt_is_read_once_for_many_samples(length):
    model = causal_model()
    prompt, y = tokens(1, length), tokens(5, 9, seed=2)
    _, state = model(prompt, model.init_state(1))
    logits, _ = in_pieces(model, y, [1, 8], state.select(torch.zeros(5, dtype=torch.int64)))
    whole = solve(model, torch.cat((prompt.expand(5, -1), y), dim=1)).logits
    torch.testing.assert_close(logits, whole[:, length:], **CLOSE)


@pytest.mark.parametrize("gate", GATES)
def test_saved_in_the_middle_and_loaded_goes_on_as_if_uninterrupted(gate):
    model = causal_model(backbone={"gate": gate})
    first, second = tokens(2, 13), tokens(2, 9, seed=2)
    _, state = model(first, model.init_state(2))
    file = io.BytesIO()
    torch.save(state.state_dict(), file)
    file.seek(0)
    again = StreamState.from_state_dict(torch.load(file, weights_only=True))
    assert again.positions == state.positions
    assert torch.equal(model(second, again)[0], model(second, state)[0])


def test_a_state_moves_and_casts():
    model = causal_model()
    x = tokens(2, LENGTH)
    _, state = model(x[:, :13], model.init_state(2))
    narrow = state.to("cpu", torch.float32)
    assert {t.dtype for t in narrow.tensors()} == {torch.float32}
    expected = solve(model, x).logits[:, 13:]
    found, _ = model.float()(x[:, 13:], narrow)
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-3)


def test_lower_precision_stays_close():
    x = tokens(2, LENGTH)
    expected = solve(causal_model(), x).logits
    model = causal_model(dtype=torch.float32)
    single, _ = in_pieces(model, x, SPLITS[2])
    assert (single - expected).abs().max() < 1e-4 * expected.abs().max()
    with torch.autocast("cpu", torch.bfloat16):
        half, state = in_pieces(model, x, SPLITS[2])
    assert (half.float() - expected).abs().max() < 0.2 * expected.abs().max()
    assert state.calls[0][0].cache[0].dtype == torch.bfloat16
    assert state.calls[0][0].memory.weights[0].dtype == torch.float32


def test_the_cache_holds_the_window_and_nothing_is_in_the_module():
    model = causal_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    _, state = model(tokens(2, LENGTH), model.init_state(2))
    assert {block.cache[0].shape for call in state.calls for block in call} == {(2, 2, 5, 8)}  # w - 1 positions
    assert before.keys() == model.state_dict().keys()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    endless = causal_model(None)
    _, state = endless(tokens(2, LENGTH), endless.init_state(2))
    assert state.calls[0][0].cache[0].shape == (2, 2, LENGTH, 8)


@pytest.mark.slow
def test_the_state_does_not_grow_over_100k_tokens():
    small = {"num_blocks": 1, "num_heads": 1, "mlp_hidden": 8}
    model = causal_model(
        16,
        torch.float32,
        width=8,
        backbone=small,
        memory={"num_heads": 1, "chunk_size": 64},
        recursion={"num_latent_steps": 1, "num_recursions": 1},
        halting={"max_supervision_steps": 1},
    )
    state, sizes = model.init_state(1), []
    for call in range(98):  # of 1,025 tokens: one more than 16 chunks, so that every phase of a chunk is met
        logits, state = model(tokens(1, 1025, seed=call), state)
        sizes.append(state.num_bytes)
        assert torch.isfinite(logits).all()
    assert state.positions[0] > 100_000
    assert sizes[64:] == sizes[: 98 - 64]  # the same phase, 65,600 tokens later
    fewer = [block for call in state.calls for block in call]
    cache = sum(t.numel() * t.element_size() for block in fewer for t in block.cache)
    assert cache == 2 * 2 * 15 * 8 * 4  # net calls, keys and values, positions, width, bytes
    # Token by token, the size comes back with the chunk.
    decoded = []
    for token in tokens(128, 1):
        logits, state = model.decode(token, state)
        decoded.append(state.num_bytes)
    assert decoded[64:] == decoded[:64]
    assert max(decoded) <= max(sizes)


def test_errors_say_what_is_wrong_and_what_to_do():
    grid, model = small_model(), causal_model()
    with pytest.raises(ValueError, match=r"only causal models can be streamed.*solve\(\) whole grids"):
        grid.init_state(1)
    with pytest.raises(ValueError, match="batch_size=0"):
        model.init_state(0)
    with pytest.raises(ValueError, match="num_steps=0"):
        model.init_state(1, num_steps=0)
    state = model.init_state(2)
    for x in (tokens(3, 4), tokens(2, 0), tokens(2, 4)[0]):
        with pytest.raises(ValueError, match="do not fit a state of 2 sequences"):
            model(x, state)
    _, read = model(tokens(2, 4), state)
    with pytest.raises(ValueError, match="fresh has read tokens already"):
        state.reset(torch.tensor([True, False]), read)
    with pytest.raises(ValueError, match="mask has 3 rows, the state 2"):
        read.reset(torch.tensor([True, False, True]), state)
    by_token = causal_model(halting={"unit": "token"})
    with pytest.raises(ValueError, match="halting.unit=token"):
        by_token.stream_halting_logits(by_token.init_state(1))
