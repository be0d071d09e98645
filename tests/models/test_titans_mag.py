import pytest
import torch
from model_cases import GATES, small_config
from torch.nn import functional as F

from titans_trm.models.norm import RMSNorm, rms_norm
from titans_trm.models.titans_mag import MAGGate, TitansMAG, gate_statistics
from titans_trm.models.titans_trm import TitansTRM


def stack(dtype=torch.float64, seed=0, **changes):
    torch.manual_seed(seed)
    return TitansMAG(small_config(**changes)).to(dtype)


def test_product_gate_is_the_paper_formula():
    torch.manual_seed(0)
    gate = MAGGate(16, small_config(backbone={"gate": "product"}).backbone).double()
    torch.nn.init.normal_(gate.attention_gain), torch.nn.init.normal_(gate.memory_gain)
    y, m = torch.randn(2, 3, 5, 16, dtype=torch.float64)

    def rms(t):
        return t / (t.square().mean(-1, keepdim=True) + 1e-5).sqrt()

    expected = (rms(y) * gate.attention_gain * torch.sigmoid(rms(m) * gate.memory_gain)) @ gate.out.weight.T
    torch.testing.assert_close(gate(y, m), expected)


def test_an_untrained_convex_gate_lets_both_branches_pass_evenly():
    torch.manual_seed(0)
    model = TitansTRM(small_config(width=64, backbone={"gate": "convex"}))
    y, m = torch.randn(2, 3, 50, 64)
    openness = model.recursion.net.blocks[0].gate.openness(y, m)
    assert openness.min() > 0.35 and openness.max() < 0.65
    assert openness.std() > 0.005  # and yet tokens differ


def test_product_gate_takes_silu():
    gate = MAGGate(16, small_config(backbone={"gate_activation": "silu"}).backbone).double()
    y, m = torch.randn(2, 3, 5, 16, dtype=torch.float64)
    torch.testing.assert_close(gate.openness(y, m), F.silu(rms_norm(m)))


def test_convex_gate_lies_between_its_branches():
    torch.manual_seed(0)
    gate = MAGGate(16, small_config(backbone={"gate": "convex"}).backbone).double()
    gate.out.weight.data = torch.eye(16, dtype=torch.float64)
    y, m = torch.randn(2, 3, 5, 16, dtype=torch.float64)
    out = gate(y, m)
    assert bool(((out >= torch.minimum(y, m)) & (out <= torch.maximum(y, m))).all())


def test_ablation_gates_pass_one_branch():
    y, m = torch.randn(2, 3, 5, 16, dtype=torch.float64)
    only_y = MAGGate(16, small_config(backbone={"gate": "attention_only"}).backbone).double()
    torch.testing.assert_close(only_y(y, None), y @ only_y.out.weight.T)
    only_m = MAGGate(16, small_config(backbone={"gate": "memory_only"}).backbone).double()
    assert only_m(None, m) is m


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("norm", ["post", "pre"])
def test_every_parameter_gets_an_outer_gradient(gate, causal, norm):
    net = stack(causal=causal, backbone={"gate": gate, "norm": norm, "window": 3})
    out, states = net(torch.randn(2, 9, 16, dtype=torch.float64))
    assert states is None
    (out * torch.randn_like(out)).sum().backward()
    missing = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert missing == []


@pytest.mark.parametrize("gate", GATES)
def test_causal_stack_never_sees_the_future(gate):
    net = stack(causal=True, backbone={"gate": gate, "window": 3})
    x = torch.randn(2, 12, 16, dtype=torch.float64)
    changed = x.clone()
    changed[:, 8:] += torch.randn_like(changed[:, 8:])
    torch.testing.assert_close(net(x)[0][:, :8], net(changed)[0][:, :8], rtol=0, atol=1e-12)
    assert (net(x)[0][:, 8:] - net(changed)[0][:, 8:]).abs().max() > 1e-3


@pytest.mark.parametrize("causal", [True, False])
def test_rows_of_a_batch_do_not_meet(causal):
    net = stack(causal=causal, backbone={"window": 3})
    x = torch.randn(4, 9, 16, dtype=torch.float64)
    torch.testing.assert_close(net(x)[0][:1], net(x[:1])[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(net(x)[0], net(x)[0], rtol=0, atol=0)


@pytest.mark.parametrize("gate", GATES)
def test_post_norm_output_has_unit_variance(gate):
    net = stack(dtype=torch.float32, backbone={"gate": gate})
    out, _ = net(torch.randn(8, 9, 16))
    torch.testing.assert_close(out.square().mean(-1), torch.ones(8, 9), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("depth", [1, 2])
def test_branches_and_mixed_output_are_of_unit_order_at_initialisation(gate, depth):
    torch.manual_seed(0)
    from titans_trm.models.titans_trm import TitansTRM

    model = TitansTRM(small_config(width=64, backbone={"gate": gate, "num_heads": 4}, memory={"depth": depth}))
    block = model.recursion.net.blocks[0]
    found = []
    handle = block.gate.register_forward_hook(lambda module, args, out: found.append(out))
    output = model(torch.randint(0, 7, (16, 9)), model.initial_carry(16))
    handle.remove()
    assert 0.1 < found[0].std().item() < 10.0
    assert 0.1 < output.logits.std().item() < 10.0


def test_memory_state_goes_through_the_stack():
    net = stack(backbone={"gate": "convex"}, memory={"carry": "cycles"})
    x = torch.randn(2, 9, 16, dtype=torch.float64)
    first, states = net(x, return_states=True)
    assert states is not None and len(states) == 2
    second, _ = net(x, states)
    assert (first - second).abs().max() > 1e-6  # what was written is read
    torch.testing.assert_close(first, net(x)[0], rtol=0, atol=1e-12)


def test_persistent_tokens_matter_and_can_be_left_out():
    net = stack(backbone={"num_persistent_tokens": 0})
    assert all(block.persistent is None for block in net.blocks)
    assert net(torch.randn(1, 9, 16, dtype=torch.float64))[0].shape == (1, 9, 16)
    with_tokens = stack()
    x = torch.randn(1, 9, 16, dtype=torch.float64)
    before = with_tokens(x)[0]
    with torch.no_grad():
        with_tokens.blocks[0].persistent += 1.0
    assert (before - with_tokens(x)[0]).abs().max() > 1e-6


def test_gate_statistics_are_read_without_changing_anything():
    net = stack(backbone={"gate": "product"})
    x = torch.randn(2, 9, 16, dtype=torch.float64)
    plain = net(x)[0]
    with gate_statistics(net) as found:
        torch.testing.assert_close(net(x)[0], plain, rtol=0, atol=0)
    assert set(found) == {"blocks.0.gate", "blocks.1.gate"}
    statistics = found["blocks.0.gate"]
    assert 0.0 < statistics["mean"] < 1.0 and statistics["memory_rms"] > 0.0 and 0.0 <= statistics["dead"] <= 1.0
    net(x)
    assert all(not block.gate._forward_pre_hooks for block in net.blocks)


def test_dead_gate_shows_in_the_statistics():
    net = stack(backbone={"gate": "product"})
    with torch.no_grad():
        net.blocks[1].gate.memory_gain.zero_().sub_(0.0)
        net.blocks[1].gate.memory_gain.fill_(-1e9)
    with gate_statistics(net) as found:
        net(torch.randn(2, 9, 16, dtype=torch.float64).abs())
    assert found["blocks.1.gate"]["dead"] > found["blocks.0.gate"]["dead"]


def test_rms_norm_is_computed_in_single_precision():
    x = (100.0 * torch.randn(4, 256)).bfloat16()
    precise = RMSNorm(256)(x.float())
    found = RMSNorm(256)(x)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), precise, rtol=8e-3, atol=1e-2)
    assert rms_norm(torch.zeros(1, 4)).isfinite().all()
