"""Attacks move what they may and no more, corrupted clues are what they say, and forgetting is seen and held back."""

import copy

import pytest
import torch
from robustness_cases import examples_of, nano

from titans_trm.data.examples import ExampleSet
from titans_trm.data.spec import IGNORE_INDEX, PAD
from titans_trm.evaluation import forgetting, robustness
from titans_trm.evaluation.forgetting import Material, learn_next
from titans_trm.evaluation.robustness import attack_embeddings, corrupt_clues, corrupted
from titans_trm.evaluation.solving import solve_examples
from titans_trm.losses.config import LossConfig

OPTIONS = {"batch_size": 16, "ignore_index": IGNORE_INDEX}


@pytest.fixture(scope="module")
def model():
    return nano()


@pytest.fixture(scope="module")
def examples():
    return examples_of(clues=(8, 12), seed=0, count=24)


def loss_of(model, embedded, targets) -> float:
    carry, total = model.initial_carry(len(embedded), embedded.shape[1] - 1), 0.0
    with torch.no_grad():
        for _ in range(model.config.halting.max_supervision_steps):
            output = model.step(embedded, carry)
            carry = output.carry
            total += float(torch.nn.functional.cross_entropy(output.logits.transpose(1, 2), targets))
    return total


@pytest.mark.parametrize("attack", ["noise", "fgsm", "pgd"])
def test_a_disturbance_stays_within_epsilon(model, examples, attack) -> None:
    batch = examples.batch(range(8))
    clean = model.embed(batch.inputs).detach()
    delta = robustness._delta(
        model, clean, batch.targets, attack, 0.3, 4, IGNORE_INDEX, torch.Generator().manual_seed(0)
    )
    assert float(delta.abs().max()) == pytest.approx(0.3, abs=1e-6)


def test_attacks_raise_the_loss_more_than_noise_and_pgd_at_least_as_much_as_fgsm(model, examples) -> None:
    batch = examples.batch(range(16))
    clean = model.embed(batch.inputs).detach()
    losses = {}
    for attack in ("noise", "fgsm", "pgd"):
        generator = torch.Generator().manual_seed(0)
        delta = robustness._delta(model, clean, batch.targets, attack, 0.05, 8, IGNORE_INDEX, generator)
        losses[attack] = loss_of(model, clean + delta, batch.targets)
    assert losses["noise"] < losses["fgsm"] <= losses["pgd"] * 1.001
    assert losses["fgsm"] > loss_of(model, clean, batch.targets)


def test_the_gradient_is_that_of_the_loss(model, examples) -> None:
    """With one supervision step and T = 1 nothing is cut: a step along the gradient changes the loss by its norm."""
    whole = nano(num_recursions=1, max_supervision_steps=1).double()
    batch = examples.batch(range(4))
    clean = whole.embed(batch.inputs).detach()
    gradient = robustness._gradient(whole, clean, torch.zeros_like(clean), batch.targets, IGNORE_INDEX)
    size = 1e-5 / float(gradient.norm())
    rise = loss_of(whole, clean + size * gradient, batch.targets) - loss_of(
        whole, clean - size * gradient, batch.targets
    )
    assert rise / 2e-5 == pytest.approx(float(gradient.norm()), rel=1e-4)


def test_strength_zero_is_the_plain_evaluation_and_leaves_the_model_alone(model, examples) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    plain = solve_examples(model, examples, **OPTIONS)
    model.train()
    found = [attack_embeddings(model, examples, "pgd", [0.0], **OPTIONS)]
    found.append(corrupt_clues(model, examples, "wrong", [0], **OPTIONS))
    assert model.training
    model.eval()
    for test in found:
        assert test.points[0].exact_accuracy.value == pytest.approx(float(plain.exact.double().mean()))
        assert test.points[0].token_accuracy == pytest.approx(float(plain.token_accuracy.double().mean()))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("count", [0, 1, 3])
def test_corrupted_cells_are_counted_and_of_their_kind(examples, count) -> None:
    inputs, targets = examples.inputs, examples.targets
    given = inputs == targets
    for kind in ("blanked", "wrong", "invented"):
        changed, enough = corrupted(examples, kind, count, seed=1)
        assert bool(enough.all())
        moved = changed != inputs
        assert (moved.sum(dim=1) == count).all()
        assert not (moved & (given if kind == "invented" else ~given)).any()
        if kind == "blanked":
            assert (changed[moved] == 1).all()
        else:
            assert (changed[moved] != targets[moved]).all() and (changed[moved] > 1).all()


def test_stronger_corruption_keeps_the_weaker_ones_cells(examples) -> None:
    one, _ = corrupted(examples, "blanked", 1, seed=3)
    two, _ = corrupted(examples, "blanked", 2, seed=3)
    assert ((one != examples.inputs) <= (two != examples.inputs)).all()


def test_examples_with_too_few_clues_are_left_out(model, examples) -> None:
    _, enough = corrupted(examples, "wrong", 10, seed=0)
    count = int(enough.sum())
    assert 0 < count < len(examples)
    test = corrupt_clues(model, examples, "wrong", [10, 16], **OPTIONS)
    assert [point.changed_examples for point in test.points] == [count]


def test_examples_without_anything_asked_for_cannot_be_corrupted(examples) -> None:
    solved = type(examples)(**{**examples.__dict__, "inputs": examples.targets})
    _, enough = corrupted(solved, "blanked", 1, seed=0)
    assert not enough.any()
    assert PAD not in solved.targets


@pytest.fixture(scope="module")
def material():
    """Two sets with the same puzzles but other answers: whoever learns the second must unlearn the first."""
    old = examples_of(clues=(12, 15), seed=0, count=64)
    other_answers = torch.where(old.targets == 5, 2, old.targets + 1)
    new = ExampleSet(**{**old.__dict__, "targets": other_answers, "keys": [f"new {key}" for key in old.keys]})
    return [Material(train=part, probe=part, augment=None) for part in (old, new)]


def learn(model, old, new, steps, **changes):
    options = {"ignore_index": IGNORE_INDEX, "loss": LossConfig(cross_entropy="softmax"), "lr": 2e-2, "batch_size": 16}
    return learn_next(model, old, new, name="x", steps=steps, watch_every=20, **(options | changes))


def distance(first, second) -> float:
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    return sum(float((a - b).detach().square().sum()) for a, b in pairs)


def test_learning_next_forgets_replay_remembers_and_l2_sp_stays_near(material) -> None:
    old, new = material
    fresh = nano(max_supervision_steps=1)
    before = copy.deepcopy(fresh)
    first, taught = learn(fresh, new, old, 100)
    assert distance(fresh, before) == 0.0  # only a copy learns
    knew = first.points[-1].new.value
    assert knew is not None and knew > 0.15
    found = {
        "plain": learn(taught, old, new, 40),
        "replay": learn(taught, old, new, 40, replay=0.75),
        "l2_sp": learn(taught, old, new, 40, l2_sp=100.0),
    }
    assert all([point.step for point in seen.points] == [0, 20, 40] for seen, _ in found.values())
    assert all(seen.points[0].old.value == knew for seen, _ in found.values())
    kept = {name: seen.points[-1].old.value for name, (seen, _) in found.items()}
    assert kept["plain"] < knew / 2
    assert kept["replay"] > kept["plain"]
    assert distance(found["l2_sp"][1], taught) < distance(found["plain"][1], taught) / 2


@pytest.mark.parametrize(("replay", "expected"), [(0.0, 0), (0.25, 4), (1.0, 16)])
def test_a_batch_has_its_share_of_old_examples(material, replay, expected) -> None:
    batches = forgetting._Batches(*material, 16, replay, seed=0)
    batch = batches.next()
    assert len(batch) == 16
    given = (batch.inputs == batch.targets).sum(dim=1)  # an old answer keeps the clues, a new one none of them
    assert int((given >= 12).sum()) == expected and int((given == 0).sum()) == 16 - expected
