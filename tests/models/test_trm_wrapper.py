import pytest
import torch
from model_cases import GATES, small_config, small_model, tokens

from titans_trm.models.trm_wrapper import Carry

CARRIES = ("reset", "cycles", "steps")


def manual_step(model, x, y, z, n, recursions, full=True):
    """Deep recursion written out by its definition, for models whose memory starts anew in every call."""
    net = model.recursion.net
    net_y = model.recursion.net_y or net
    for recursion in range(recursions):
        last = recursion == recursions - 1
        for step in range(n):
            z = net(x + y + z)[0]
            if not last or (not full and step < n - 1):
                z = z.detach()
        y = net_y(y + z)[0]
        if not last:
            y = y.detach()
    return y, z


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("two_nets", [False, True])
@pytest.mark.parametrize("gradient", ["full", "one_step"])
def test_gradient_of_deep_recursion_equals_a_manual_unroll(gate, two_nets, gradient):
    recursion = {"num_latent_steps": 3, "num_recursions": 3, "two_nets": two_nets, "gradient": gradient}
    model = small_model(backbone={"gate": gate}, recursion=recursion)
    x = torch.randn(2, 10, 16, dtype=torch.float64, requires_grad=True)
    carry = model.initial_carry(2)
    y, after = model.recursion(x, carry)
    expected, z = manual_step(model, x, carry.y, carry.z, 3, 3, gradient == "full")
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(after.z, z.detach(), rtol=1e-12, atol=1e-12)
    weight = torch.randn_like(y)
    wanted = [x, *model.recursion.net.parameters()]
    found = torch.autograd.grad((y * weight).sum(), wanted, allow_unused=True)
    manual = torch.autograd.grad((expected * weight).sum(), wanted, allow_unused=True)
    for one, other in zip(found, manual, strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)


def test_gradient_goes_through_the_last_recursion_only():
    model = small_model(recursion={"num_recursions": 3})
    calls = []
    model.recursion.net.register_forward_hook(lambda module, args, out: calls.append(out[0].requires_grad))
    model.recursion(torch.randn(1, 10, 16, dtype=torch.float64), model.initial_carry(1))
    assert calls == [False] * 6 + [True] * 3
    assert model.net_calls_per_step == 9


@pytest.mark.parametrize("memory_carry", CARRIES)
def test_no_graph_is_kept_by_silent_cycles_or_the_carry(memory_carry):
    """Tensors saved for the backward pass are those of n + 1 calls, whatever the number of recursions."""
    saved = {}
    for recursions in (2, 5):
        model = small_model(recursion={"num_recursions": recursions}, memory={"carry": memory_carry})
        carry = model.initial_carry(2)
        carry = model(tokens(2), carry).carry  # a second step starts from a real carry
        count = [0]

        def note(t, count=count):
            count[0] += 1
            return t

        with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
            output = model(tokens(2), carry)
        saved[recursions] = count[0]
        assert not output.carry.y.requires_grad and not output.carry.z.requires_grad
        for state in output.carry.memory or []:
            assert not any(weight.requires_grad for weight in state.weights)
    assert saved[2] == saved[5]


@pytest.mark.parametrize("memory_carry", CARRIES)
@pytest.mark.parametrize("two_nets", [False, True])
def test_checkpointing_changes_memory_not_numbers(memory_carry, two_nets):
    results = []
    for checkpointing in (False, True):
        model = small_model(
            memory={"carry": memory_carry}, recursion={"checkpointing": checkpointing, "two_nets": two_nets}
        )
        carry = model(tokens(2), model.initial_carry(2)).carry
        saved = [0]

        def note(t, saved=saved):
            saved[0] += t.numel()
            return t

        with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
            output = model(tokens(2), carry)
        output.logits.square().sum().backward()
        results.append((output.logits, [p.grad for p in model.parameters() if p.grad is not None], saved[0]))
    plain, checkpointed = results
    torch.testing.assert_close(plain[0], checkpointed[0], rtol=0, atol=0)
    for one, other in zip(plain[1], checkpointed[1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    assert checkpointed[2] < 0.7 * plain[2]


@pytest.mark.parametrize("memory_carry", CARRIES)
@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("two_nets", [False, True])
def test_every_trainable_parameter_gets_a_gradient(memory_carry, gate, two_nets):
    model = small_model(memory={"carry": memory_carry}, backbone={"gate": gate}, recursion={"two_nets": two_nets})
    output = model(tokens(), model.initial_carry(3))
    ((output.logits * torch.randn_like(output.logits)).sum() + output.halting_logits.sum()).backward()
    missing = [
        name
        for name, p in model.named_parameters()
        if p.requires_grad and (p.grad is None or not p.grad.abs().max() > 0)
    ]
    assert missing == []


def test_memory_carry_hands_states_on():
    x = tokens()
    outputs = {}
    for memory_carry in CARRIES:
        model = small_model(memory={"carry": memory_carry})
        first = model(x, model.initial_carry(3))
        second = model(x, first.carry)
        outputs[memory_carry] = second.logits
        assert (first.carry.memory is not None) == (memory_carry == "steps")
    # Without its memory the same carry gives another second step: the state is really used.
    model = small_model(memory={"carry": "steps"})
    carry = model(x, model.initial_carry(3)).carry
    forgotten = Carry(carry.y, carry.z, carry.steps, model.initial_carry(3).memory)
    assert (model(x, carry).logits - model(x, forgotten).logits).abs().max() > 1e-6


@pytest.mark.parametrize("memory_carry", CARRIES)
def test_reset_rows_equal_a_fresh_start_and_leave_the_others(memory_carry):
    model = small_model(memory={"carry": memory_carry})
    x = tokens(4)
    carry = model(x, model.initial_carry(4)).carry
    mask = torch.tensor([True, False, True, False])
    mixed = model(x, carry.reset(mask, model.initial_carry(4)))
    fresh, continued = model(x, model.initial_carry(4)), model(x, carry)
    torch.testing.assert_close(mixed.logits[mask], fresh.logits[mask], rtol=0, atol=1e-12)
    torch.testing.assert_close(mixed.logits[~mask], continued.logits[~mask], rtol=0, atol=1e-12)
    assert mixed.carry.steps.tolist() == [1, 2, 1, 2]


@pytest.mark.parametrize("memory_carry", CARRIES)
def test_selected_rows_go_on_alone(memory_carry):
    model = small_model(memory={"carry": memory_carry})
    x = tokens(4)
    carry = model(x, model.initial_carry(4)).carry
    index = torch.tensor([3, 1])
    alone = model(x[index], carry.select(index))
    torch.testing.assert_close(alone.logits, model(x, carry).logits[index], rtol=0, atol=1e-12)


@pytest.mark.parametrize("memory_carry", CARRIES)
def test_carry_survives_a_safe_checkpoint(memory_carry, tmp_path):
    model = small_model(memory={"carry": memory_carry})
    x = tokens()
    carry = model(x, model.initial_carry(3)).carry
    torch.save(carry.state_dict(), tmp_path / "carry.pt")
    restored = Carry.from_state_dict(torch.load(tmp_path / "carry.pt", weights_only=True))
    torch.testing.assert_close(model(x, restored).logits, model(x, carry).logits, rtol=0, atol=0)


def test_runtime_state_is_no_part_of_the_model():
    model = small_model(memory={"carry": "steps"})
    before = set(model.state_dict())
    output = model(tokens(), model.initial_carry(3))
    model(tokens(5), model.initial_carry(5))
    assert set(model.state_dict()) == before
    again = model(tokens(), model.initial_carry(3))
    torch.testing.assert_close(again.logits, output.logits, rtol=0, atol=0)


def test_learned_start_is_trained_where_examples_start():
    model = small_model(recursion={"learned_init": True, "num_recursions": 1})
    model(tokens(), model.initial_carry(3)).logits.square().sum().backward()
    assert model.recursion.y_init.grad.abs().max() > 0 and model.recursion.z_init.grad.abs().max() > 0
    fixed = small_model()
    assert "recursion.y_init" in dict(fixed.named_buffers())


def test_recursive_model_is_causal_over_all_passes():
    model = small_model(causal=True, backbone={"window": 3}, recursion={"num_latent_steps": 3, "num_recursions": 2})
    x = tokens(2, 9)
    changed = x.clone()
    changed[:, 6:] = (changed[:, 6:] + 1) % 7
    carries = [model.initial_carry(2), model.initial_carry(2)]
    for _ in range(3):
        outputs = [model(tokens_in, carry) for tokens_in, carry in zip((x, changed), carries, strict=True)]
        torch.testing.assert_close(outputs[0].logits[:, :6], outputs[1].logits[:, :6], rtol=0, atol=1e-12)
        assert (outputs[0].logits[:, 6:] - outputs[1].logits[:, 6:]).abs().max() > 1e-6
        carries = [output.carry for output in outputs]


@pytest.mark.parametrize("memory_carry", ["cycles", "steps"])
def test_causal_models_refuse_a_memory_that_holds_the_future(memory_carry):
    with pytest.raises(ValueError, match="read the future"):
        small_config(causal=True, memory={"carry": memory_carry})
