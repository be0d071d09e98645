import json

import pytest
import torch
from model_cases import GATES, small_config, small_model, tokens

from titans_trm.errors import InputError
from titans_trm.evaluation.metrics import adaptive_steps
from titans_trm.models.config import TitansTRMConfig
from titans_trm.models.hub import from_pretrained, save_pretrained
from titans_trm.models.inference import solve
from titans_trm.models.titans_trm import TitansTRM


def opened_head(model, bias=0.0, scale=4.0):
    """Give the halting head large weights, so that examples stop at different steps."""
    with torch.no_grad():
        torch.manual_seed(3)
        model.act_head.weight.normal_(std=scale)
        model.act_head.bias.fill_(bias)
    return model


def test_the_head_of_a_causal_model_starts_as_the_embedding_that_of_a_grid_does_not():
    for causal in (True, False):
        model = small_model(causal=causal)
        assert torch.equal(model.head.weight, model.embedding.weight) == causal
        assert model.head.weight is not model.embedding.weight  # tied at the start only


def test_output_shapes_and_types():
    model = small_model(dtype=torch.float32)
    output = model(tokens(), model.initial_carry(3))
    assert output.logits.shape == (3, 9, 7)
    assert output.halting_logits.shape == (3,) and output.halting_logits.dtype == torch.float32
    assert output.carry.y.shape == (3, 10, 16) and output.carry.steps.tolist() == [1, 1, 1]


def test_parameters_outside_the_budget_stop_the_build():
    count = small_model().num_params()
    assert count == sum(p.numel() for p in small_model().parameters())
    TitansTRM(small_config(parameter_budget=(count, count)))
    with pytest.raises(ValueError, match=rf"{count:,} parameters, outside parameter_budget"):
        TitansTRM(small_config(parameter_budget=(count + 1, count + 2)))


def test_embedding_and_register_have_unit_variance():
    torch.manual_seed(0)
    model = TitansTRM(small_config(width=256, vocab_size=200, backbone={"num_heads": 4}))
    embedded = model.embed(torch.arange(200)[None])
    assert embedded.shape == (1, 201, 256)
    assert embedded[:, 1:].std().item() == pytest.approx(1.0, rel=0.05)
    assert embedded[:, 0].std().item() == pytest.approx(1.0, rel=0.2)


def test_learned_positions_tell_cells_apart_and_keep_the_variance():
    torch.manual_seed(0)
    model = TitansTRM(small_config(width=256, learned_positions=True, backbone={"num_heads": 4}))
    same = torch.full((1, 9), 3)
    embedded = model.embed(same)
    assert embedded.std().item() == pytest.approx(1.0, rel=0.1)
    assert (embedded[0, 1] - embedded[0, 2]).abs().max() > 0.1
    plain = TitansTRM(small_config(width=256, backbone={"num_heads": 4})).embed(same)
    torch.testing.assert_close(plain[0, 1], plain[0, 2])


def test_cells_of_a_row_and_of_a_column_start_alike():
    torch.manual_seed(0)
    config = small_config(width=256, learned_positions=True, grid_shape=(3, 3), backbone={"num_heads": 4})
    model = TitansTRM(config)
    cells = model.embed(torch.full((1, 9), 3))[0, 1:].unflatten(0, (3, 3))
    assert cells.std().item() == pytest.approx(1.0, rel=0.1)
    # Row and column add up: going down one row changes every column's cell by the same vector.
    torch.testing.assert_close(cells[1, 0] - cells[0, 0], cells[1, 2] - cells[0, 2])
    torch.testing.assert_close(cells[0, 1] - cells[0, 0], cells[2, 1] - cells[2, 0])
    assert (cells[1, 0] - cells[0, 0]).abs().max() > 0.1
    assert TitansTRMConfig.from_dict(config.to_dict()) == config


def test_register_stands_first_on_grids_and_last_in_text():
    grid, text = small_model(), small_model(causal=True)
    x = tokens()
    torch.testing.assert_close(grid.embed(x)[:, 0], grid.embed(x[:, :1])[:, 0])
    torch.testing.assert_close(text.embed(x)[:, -1], text.embed(x[:, :1])[:, -1])


def test_puzzle_embedding_takes_the_place_of_the_register():
    model = small_model(num_puzzle_ids=4)
    x = tokens()
    with pytest.raises(ValueError, match="puzzle_ids"):
        model(x, model.initial_carry(3))
    one = model(x, model.initial_carry(3), torch.tensor([0, 1, 2]))
    other = model(x, model.initial_carry(3), torch.tensor([3, 3, 3]))
    torch.testing.assert_close(one.logits, other.logits)  # all start at zero
    torch.nn.init.normal_(model.puzzle_embedding.weight)
    other = model(x, model.initial_carry(3), torch.tensor([0, 0, 2]))
    one = model(x, model.initial_carry(3), torch.tensor([0, 1, 2]))
    assert (one.logits[1] - other.logits[1]).abs().max() > 1e-6
    torch.testing.assert_close(one.logits[::2], other.logits[::2], rtol=0, atol=1e-12)


def test_token_halting_gives_one_logit_per_token():
    model = small_model(causal=True, halting={"unit": "token"})
    output = model(tokens(), model.initial_carry(3))
    assert output.halting_logits.shape == (3, 9)
    solution = solve(model, tokens(), adaptive=True)
    assert solution.halting_logits.shape[0] == 3


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("memory_carry", ["reset", "cycles", "steps"])
def test_adaptive_run_equals_the_full_run_on_the_steps_it_takes(gate, memory_carry):
    model = opened_head(small_model(backbone={"gate": gate}, memory={"carry": memory_carry}))
    x = tokens(24)
    full = solve(model, x, keep_steps=True)
    adaptive = solve(model, x, adaptive=True, keep_steps=True)
    assert set(full.steps.tolist()) == {4}
    assert len(set(adaptive.steps.tolist())) > 1, "the test needs examples that stop at different steps"
    for row, steps in enumerate(adaptive.steps.tolist()):
        torch.testing.assert_close(
            adaptive.halting_logits[row, :steps], full.halting_logits[row, :steps], rtol=1e-5, atol=1e-5
        )
        assert torch.equal(adaptive.step_answers[row, :steps], full.step_answers[row, :steps])
        assert torch.equal(adaptive.answers[row], full.step_answers[row, steps - 1])
        assert bool((adaptive.halting_logits[row, : steps - 1] <= 0).all())
        assert steps == 4 or adaptive.halting_logits[row, steps - 1] > 0
        assert bool((adaptive.step_answers[row, steps:] == -1).all())


def test_a_higher_halting_logit_asked_for_thinks_longer_where_the_head_is_less_sure():
    model = opened_head(small_model())
    x = tokens(24)
    full, logits = solve(model, x, keep_steps=True), solve(model, x).halting_logits
    positive = logits[logits > 0].sort().values
    middle = len(positive) // 2
    threshold = float(positive[middle - 1 : middle + 1].mean())  # between two: smaller batches round differently
    sure = solve(model, x, adaptive=True, halt_above=threshold)
    assert torch.equal(sure.steps, adaptive_steps(logits, threshold))
    assert bool((sure.steps >= solve(model, x, adaptive=True).steps).all())
    assert sure.net_calls > solve(model, x, adaptive=True).net_calls
    assert full.step_answers is not None
    assert torch.equal(sure.answers, full.step_answers[torch.arange(24), sure.steps - 1])


def test_adaptive_run_really_skips_compute():
    model = opened_head(small_model())
    rows = []
    model.recursion.net.register_forward_hook(lambda module, args, out: rows.append(len(args[0])))
    adaptive = solve(model, tokens(24), adaptive=True)
    assert sum(rows) == adaptive.net_calls == int(adaptive.steps.sum()) * model.net_calls_per_step
    rows.clear()
    full = solve(model, tokens(24))
    assert sum(rows) == full.net_calls == 24 * 4 * model.net_calls_per_step


def test_everything_may_halt_at_once():
    model = opened_head(small_model(), bias=1e6, scale=0.0)
    solution = solve(model, tokens(), adaptive=True)
    assert solution.steps.tolist() == [1, 1, 1] and solution.halting_logits.shape == (3, 1)


def test_more_steps_than_trained_are_allowed_and_none_is_not():
    model = small_model()
    assert solve(model, tokens(), max_steps=6).steps.tolist() == [6, 6, 6]
    with pytest.raises(ValueError, match="max_steps=0"):
        solve(model, tokens(), max_steps=0)


def test_bf16_autocast_trains_every_weight_after_silent_cycles():
    """Weights cast for the cycles without gradient must not be reused, graphless, by the cycle with gradient."""
    model = small_model(dtype=torch.float32, recursion={"num_recursions": 3})
    with torch.autocast("cpu", torch.bfloat16):
        output = model(tokens(), model.initial_carry(3))
        loss = output.logits.float().square().mean() + output.halting_logits.sum()
    loss.backward()
    assert output.halting_logits.dtype == torch.float32
    missing = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert missing == []
    reference = model(tokens(), model.initial_carry(3)).logits
    assert (output.logits.float() - reference).abs().max() < 0.15 * reference.abs().max()


def test_compiled_network_equals_eager_and_keeps_its_keys():
    model = small_model(dtype=torch.float32)
    expected = model(tokens(), model.initial_carry(3)).logits
    keys = list(model.state_dict())
    model.recursion.net.compile(backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(model(tokens(), model.initial_carry(3)).logits, expected, rtol=1e-5, atol=1e-5)
    assert list(model.state_dict()) == keys


def test_a_whole_supervision_step_compiles_without_a_graph_break():
    """Embedding, all net calls, with and without gradient, heads and the next carry in one graph, backward too."""
    model = small_model(dtype=torch.float32, backbone={"num_blocks": 1}, recursion={"num_latent_steps": 1})

    def gradients(step):
        model.zero_grad()
        output = step(tokens(), model.initial_carry(3))
        (output.logits.square().mean() + output.halting_logits.square().mean()).backward()
        return output, [p.grad.clone() for p in model.parameters() if p.grad is not None]

    expected, expected_grads = gradients(model)
    found, found_grads = gradients(torch.compile(model, backend="aot_eager", fullgraph=True))
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.carry.z, expected.carry.z, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found_grads, expected_grads, rtol=1e-4, atol=1e-6)


def test_configuration_survives_json():
    config = small_config(parameter_budget=(1, 10**6))
    assert TitansTRMConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    with pytest.raises(TypeError, match="widht"):
        TitansTRMConfig.from_dict(config.to_dict() | {"widht": 3})


def test_saved_model_is_rebuilt_exactly(tmp_path):
    model = small_model(dtype=torch.float32)
    save_pretrained(model, tmp_path / "model")
    again = from_pretrained(tmp_path / "model")
    assert again.config == model.config and not again.training
    found, expected = (one(tokens(), one.initial_carry(3)).logits for one in (again, model))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["config.json", "model.safetensors"]


def test_damaged_or_foreign_models_are_refused_by_name(tmp_path):
    folder = save_pretrained(small_model(dtype=torch.float32), tmp_path)
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(InputError, match=r"model\.safetensors is damaged"):
        from_pretrained(folder)
    (folder / "model.safetensors").write_bytes(weights)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"width": 32}))
    with pytest.raises(InputError, match="does not fit"):
        from_pretrained(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(InputError, match="not a configuration"):
        from_pretrained(folder)
    (folder / "config.json").unlink()
    with pytest.raises(InputError, match="does not exist"):
        from_pretrained(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 15}, "does not divide width"),
        ({"backbone": {"num_heads": 16}}, "odd width"),
        ({"memory": {"num_heads": 3}}, "memory.num_heads=3 does not divide"),
        ({"backbone": {"gate": "sum"}}, "backbone.gate='sum' is not one of"),
        ({"backbone": {"window": 0}}, "backbone.window=0 is too small"),
        ({"recursion": {"num_latent_steps": 0}}, "recursion.num_latent_steps=0"),
        ({"halting": {"exploration": 1.5}}, "not a probability"),
        ({"halting": {"weight_init_std": -1.0}}, "negative"),
        ({"halting": {"unit": "token"}}, "causal"),
        ({"memory": {"max_step_size": 0.0}}, "greater than 0"),
        ({"parameter_budget": (2, 1)}, "swapped"),
        ({"vocab_size": 1}, "vocab_size=1"),
        ({"grid_shape": (2, 3)}, r"grid_shape=\(2, 3\) has not seq_len=9 cells"),
        ({"learned_positions": True, "causal": True}, "learned_positions=true is for grids"),
    ],
)
def test_impossible_configurations_name_key_value_and_cure(changes, message):
    with pytest.raises(ValueError, match=message):
        small_config(**changes)
