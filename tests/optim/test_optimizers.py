import copy
import io
import math

import pytest
import torch
from torch import Tensor, nn

from titans_trm.errors import InputError
from titans_trm.optim.adam_atan2 import AdamATan2
from titans_trm.optim.build import build_optimizer
from titans_trm.optim.config import OptimizerConfig, SchedulerConfig
from titans_trm.optim.groups import split_parameters
from titans_trm.optim.schedules import build_scheduler, learning_rate_factor

NAMES = ["adamw", "adam_atan2", "muon"]


class Net(nn.Module):
    """The kinds of parameters the full model has."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 8)
        self.puzzle_embedding = nn.Embedding(3, 8)
        self.register = nn.Parameter(torch.randn(8))
        self.persistent_tokens = nn.Parameter(torch.randn(2, 8))
        self.initial_memory = nn.Parameter(torch.randn(2, 4, 4))
        self.mix = nn.Linear(8, 12)
        self.out = nn.Linear(12, 8, bias=False)
        self.frozen = nn.Parameter(torch.randn(3, 3), requires_grad=False)
        self.head = nn.Linear(8, 7, bias=False)
        self.act_head = nn.Linear(8, 1)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens) + self.register + self.puzzle_embedding.weight[0] + self.persistent_tokens.sum(0)
        x = x + torch.einsum("bhi,hij->bhj", x.view(-1, 2, 4), self.initial_memory).flatten(1)
        x = self.out(torch.tanh(self.mix(x)))
        return self.head(x).square().mean() + self.act_head(x).square().mean()


def make_net() -> Net:
    torch.manual_seed(0)
    return Net()


def take_step(net: Net, optimizer: torch.optim.Optimizer, step: int) -> None:
    optimizer.zero_grad()
    tokens = torch.randint(7, (5,), generator=torch.Generator().manual_seed(step))
    net(tokens).backward()
    optimizer.step()


def config(name: str, **values: object) -> OptimizerConfig:
    return OptimizerConfig(name=name, lr=1e-2, weight_decay=0.1, **values)  # type: ignore[arg-type]


def test_adam_atan2_matches_a_scalar_loop():
    lr, beta1, beta2, decay = 3e-2, 0.9, 0.95, 0.5
    generator = torch.Generator().manual_seed(0)
    parameter = nn.Parameter(torch.randn(3, 2, generator=generator, dtype=torch.float64))
    p = parameter.detach().clone().flatten().tolist()
    m, v = [0.0] * 6, [0.0] * 6
    optimizer = AdamATan2([parameter], lr=lr, betas=(beta1, beta2), weight_decay=decay)
    for t in range(1, 8):
        parameter.grad = torch.randn(3, 2, generator=generator, dtype=torch.float64) * 10.0 ** (t - 4)
        for i, g in enumerate(parameter.grad.flatten().tolist()):
            m[i] = beta1 * m[i] + (1 - beta1) * g
            v[i] = beta2 * v[i] + (1 - beta2) * g * g
            p[i] *= 1 - lr * decay
            p[i] -= lr / (1 - beta1**t) * math.atan2(m[i], math.sqrt(v[i] / (1 - beta2**t)))
        optimizer.step()
    torch.testing.assert_close(parameter.detach().flatten(), torch.tensor(p, dtype=torch.float64), rtol=0, atol=1e-13)


def test_adam_atan2_is_invariant_to_the_scale_of_gradients_and_still_at_zero():
    values = []
    for scale in (1.0, 2.0**-60):
        parameter = nn.Parameter(torch.ones(4))
        optimizer = AdamATan2([parameter], lr=0.1)
        for gradient in (torch.tensor([1.0, -2.0, 0.5, 0.0]), torch.tensor([-1.0, 1.0, 3.0, 0.0])):
            parameter.grad = scale * gradient
            optimizer.step()
        values.append(parameter.detach().clone())
    assert torch.equal(values[0], values[1])
    assert values[0][3] == 1.0


def test_adam_atan2_counts_steps_per_parameter():
    first, late = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = AdamATan2([first, late], lr=0.1)
    first.grad = torch.ones(2)
    optimizer.step()
    late.grad = torch.ones(2)
    optimizer.step()
    torch.testing.assert_close(late, torch.full((2,), 1 - math.atan(0.1)))
    assert (optimizer.state[first]["step"], optimizer.state[late]["step"]) == (2, 1)


@pytest.mark.parametrize("values", [{"lr": -1.0}, {"betas": (0.9, 1.0)}, {"weight_decay": -0.1}])
def test_adam_atan2_refuses_impossible_values(values: dict):
    with pytest.raises(ValueError, match=next(iter(values))):
        AdamATan2([nn.Parameter(torch.ones(1))], **values)


def test_adam_atan2_refuses_sparse_gradients():
    embedding = nn.Embedding(3, 2, sparse=True)
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(ValueError, match="sparse=False"):
        AdamATan2(embedding.parameters()).step()


def test_parameters_are_sorted_by_what_they_do():
    groups = split_parameters(make_net())
    assert [name for name, _ in groups.hidden] == ["mix.weight", "out.weight"]
    assert {name for name, _ in groups.matrices} == {
        "embedding.weight", "persistent_tokens", "initial_memory", "head.weight", "act_head.weight",
    }  # fmt: skip
    assert {name for name, _ in groups.vectors} == {"register", "mix.bias", "act_head.bias"}
    assert [name for name, _ in groups.puzzle_embedding] == ["puzzle_embedding.weight"]


@pytest.mark.parametrize("name", NAMES)
def test_every_trainable_parameter_is_in_exactly_one_group_and_moves(name: str):
    net = make_net()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    optimizer = build_optimizer(net, config(name))
    optimized = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(optimized) == sorted(id(p) for p in net.parameters() if p.requires_grad)
    take_step(net, optimizer, 0)
    moved = {key for key, value in net.state_dict().items() if not torch.equal(value, before[key])}
    assert moved == set(before) - {"frozen"}


@pytest.mark.parametrize("name", NAMES)
def test_decay_and_learning_rates_go_to_their_groups(name: str):
    optimizer = build_optimizer(make_net(), config(name, decay_all=False, puzzle_embedding_lr=0.5))
    groups = {group["name"]: group for group in optimizer.param_groups}
    assert groups["vectors"]["weight_decay"] == 0.0
    assert groups["matrices"]["weight_decay"] == 0.1
    assert groups["puzzle_embedding"]["lr"] == 0.5
    assert groups["matrices"]["lr"] == 1e-2
    everything = build_optimizer(make_net(), config(name))
    assert {group["weight_decay"] for group in everything.param_groups if group["name"] != "hidden"} == {0.1}


def test_muon_equals_muon_and_adamw_run_separately():
    together, apart = make_net(), make_net()
    combined = build_optimizer(together, config("muon", muon_momentum=0.6, muon_newton_schulz_steps=3))
    hidden = [apart.mix.weight, apart.out.weight]
    rest = [p for p in apart.parameters() if p.requires_grad and all(p is not h for h in hidden)]
    muon = torch.optim.Muon(hidden, lr=0.02, momentum=0.6, weight_decay=0.005, ns_steps=3)
    adamw = torch.optim.AdamW(rest, lr=1e-2, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    for step in range(5):
        take_step(together, combined, step)
        muon.zero_grad()
        take_step(apart, adamw, step)
        muon.step()
    for ours, expected in zip(together.parameters(), apart.parameters(), strict=True):
        assert torch.equal(ours, expected)


@pytest.mark.parametrize("name", NAMES)
def test_resumed_optimizer_equals_the_uninterrupted_one_bit_for_bit(name: str):
    scheduler_config = SchedulerConfig(name="cosine", warmup_steps=3)
    whole = make_net()
    optimizer = build_optimizer(whole, config(name))
    scheduler = build_scheduler(optimizer, scheduler_config, 10)
    for step in range(10):
        if step == 4:
            buffer = io.BytesIO()
            torch.save([whole.state_dict(), optimizer.state_dict(), scheduler.state_dict()], buffer)
        take_step(whole, optimizer, step)
        scheduler.step()

    resumed = make_net()
    optimizer = build_optimizer(resumed, config(name))
    scheduler = build_scheduler(optimizer, scheduler_config, 10)
    buffer.seek(0)
    parts = torch.load(buffer, weights_only=True)
    for part, state in zip((resumed, optimizer, scheduler), parts, strict=True):
        part.load_state_dict(state)
    for step in range(4, 10):
        take_step(resumed, optimizer, step)
        scheduler.step()
    for ours, expected in zip(resumed.parameters(), whole.parameters(), strict=True):
        assert torch.equal(ours, expected)


@pytest.mark.parametrize("name", NAMES)
def test_copied_optimizer_steps_its_own_parameters(name: str):
    net = make_net()
    optimizer = build_optimizer(net, config(name))
    take_step(net, optimizer, 0)
    other, copied = copy.deepcopy((net, optimizer))
    take_step(net, optimizer, 1)
    take_step(other, copied, 1)
    for ours, expected in zip(other.parameters(), net.parameters(), strict=True):
        assert torch.equal(ours, expected)


@pytest.mark.parametrize("name", NAMES)
def test_scheduler_drives_every_group(name: str):
    net = make_net()
    before = copy.deepcopy(net.state_dict())
    optimizer = build_optimizer(net, config(name))
    scheduler = build_scheduler(optimizer, SchedulerConfig(name="cosine", warmup_steps=0), 1)
    take_step(net, optimizer, 0)
    after = copy.deepcopy(net.state_dict())
    scheduler.step()
    assert {group["lr"] for group in optimizer.param_groups} == {0.0}
    take_step(net, optimizer, 1)
    for key, value in net.state_dict().items():
        assert torch.equal(value, after[key])
    assert not torch.equal(before["mix.weight"], after["mix.weight"])


@pytest.mark.parametrize("name", NAMES)
def test_step_runs_its_closure_once_with_gradient_and_returns_its_value(name: str):
    net = make_net()
    optimizer = build_optimizer(net, config(name))
    calls = []

    def closure() -> Tensor:
        calls.append(1)
        optimizer.zero_grad()
        loss = net(torch.tensor([1, 2]))
        loss.backward()
        return loss

    before = net.mix.weight.clone()
    assert optimizer.step(closure) > 0.0
    assert calls == [1]
    assert not torch.equal(net.mix.weight, before)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("overflow", [False, True])
def test_gradient_scaler_unscales_and_skips_overflowing_steps(name: str, overflow: bool):
    net, plain = make_net(), make_net()
    optimizer = build_optimizer(net, config(name), fused=False)
    assert not getattr(optimizer, "_step_supports_amp_scaling", False)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    scaler.scale(net(torch.tensor([1, 2, 3]))).backward()
    if overflow:
        net.mix.weight.grad[0, 0] = math.inf
    before = copy.deepcopy(net.state_dict())
    scaler.step(optimizer)
    scaler.update()
    if overflow:
        assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
        return
    reference = build_optimizer(plain, config(name), fused=False)
    plain(torch.tensor([1, 2, 3])).backward()
    reference.step()
    for ours, expected in zip(net.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, expected)


def test_combined_optimizer_refuses_new_groups():
    optimizer = build_optimizer(make_net(), config("muon"))
    with pytest.raises(ValueError, match="build a new optimiser"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))]})


def test_muon_serves_models_with_one_kind_of_parameter_only():
    matrix_only, vector_only = nn.Linear(4, 4, bias=False), nn.LayerNorm(4)
    for net, count in ((matrix_only, 1), (vector_only, 1)):
        optimizer = build_optimizer(net, config("muon"))
        net(torch.randn(3, 4)).square().sum().backward()
        optimizer.step()
        assert len(optimizer.param_groups) == count


def test_muon_on_an_old_torch_names_the_version_it_needs(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(InputError, match="torch 2.9"):
        build_optimizer(make_net(), config("muon"))


def test_model_without_trainable_parameters_is_an_error():
    with pytest.raises(ValueError, match="nothing to optimise"):
        build_optimizer(make_net().requires_grad_(False), config("adamw"))


def test_schedule_at_its_key_points():
    constant, cosine = SchedulerConfig(warmup_steps=4), SchedulerConfig(
        name="cosine", warmup_steps=4, final_lr_fraction=0.1
    )  # fmt: skip
    assert [learning_rate_factor(s, constant, None) for s in (0, 1, 3, 4, 999)] == [0.25, 0.5, 1.0, 1.0, 1.0]
    assert [learning_rate_factor(s, cosine, 24) for s in (0, 3, 4)] == [0.25, 1.0, 1.0]
    assert learning_rate_factor(14, cosine, 24) == pytest.approx(0.55)
    assert learning_rate_factor(24, cosine, 24) == pytest.approx(0.1)
    assert learning_rate_factor(99, cosine, 24) == pytest.approx(0.1)
    # A run shorter than its warm-up warms up and nothing else.
    assert learning_rate_factor(3, SchedulerConfig(name="cosine", warmup_steps=2000), 20) == pytest.approx(4 / 2000)


@pytest.mark.parametrize("max_steps", [None, -1])
def test_cosine_without_an_end_is_an_error(max_steps: int | None):
    optimizer = build_optimizer(make_net(), config("adamw"))
    with pytest.raises(ValueError, match="max_steps"):
        build_scheduler(optimizer, SchedulerConfig(name="cosine"), max_steps)
    build_scheduler(optimizer, SchedulerConfig(name="constant"), max_steps)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "sgd"}, "optimizer.name='sgd' is not one of adamw, adam_atan2, muon"),
        ({"lr": 0.0}, "optimizer.lr=0.0"),
        ({"weight_decay": -1.0}, "optimizer.weight_decay=-1.0"),
        ({"puzzle_embedding_lr": -1.0}, "optimizer.puzzle_embedding_lr"),
        ({"betas": (0.9, 1.0)}, "optimizer.betas"),
        ({"muon_momentum": 1.0}, "optimizer.muon_momentum"),
        ({"muon_newton_schulz_steps": 0}, "optimizer.muon_newton_schulz_steps"),
    ],
)
def test_bad_optimizer_configuration_is_named(values: dict, message: str):
    with pytest.raises(ValueError, match=message):
        OptimizerConfig(**values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "linear"}, "scheduler.name='linear' is not one of constant, cosine"),
        ({"warmup_steps": -1}, "scheduler.warmup_steps=-1"),
        ({"final_lr_fraction": 2.0}, "scheduler.final_lr_fraction=2.0"),
    ],
)
def test_bad_scheduler_configuration_is_named(values: dict, message: str):
    with pytest.raises(ValueError, match=message):
        SchedulerConfig(**values)
